"""The text of pages, out of their HTML; documents that are text already pass as they are."""
from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

from datatrove.data import Document
from datatrove.pipeline.extractors import Trafilatura

HTML = "html"                   # in a document's metadata: its text is HTML


class ExtractPages(Trafilatura):
    """datatrove's, for the documents that readers marked with HTML. Order is kept."""

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        text: deque[Document] = deque()

        def pages() -> Iterator[Document]:
            for document in data:
                if document.metadata.pop(HTML, False):
                    yield document
                else:
                    text.append(document)

        for document in super().run(pages(), rank, world_size):
            yield from self._passed(text)
            yield document
        yield from self._passed(text)

    def _passed(self, text: deque[Document]) -> Iterator[Document]:
        while text:
            self.stat_update("total", "forwarded")
            yield text.popleft()
