"""C4's rules, which leave lines out."""
from __future__ import annotations

from datatrove.data import Document
from datatrove.pipeline.filters import C4QualityFilter


class C4Filter(C4QualityFilter):
    """datatrove's, which keeps a document that it has left nothing of; here that is a reason."""

    def filter(self, document: Document) -> bool | tuple[bool, str]:
        kept = super().filter(document)
        return (False, "no_text") if kept is True and not document.text.strip() else kept
