"""The filter by url, for documents of which some name none."""
from __future__ import annotations

from datatrove.data import Document
from datatrove.pipeline.filters import URLFilter


class UrlFilter(URLFilter):
    """datatrove's, which ends at a document without a url; here it is kept, and counted."""

    def filter(self, document: Document) -> bool | tuple[bool, str]:
        if not document.metadata.get("url"):
            self.stat_update("without_url")
            return True
        return super().filter(document)
