"""The text of pages, out of their HTML; documents that are text already pass as they are."""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from itertools import groupby
from typing import Any

from datatrove.data import Document
from datatrove.pipeline.extractors import Trafilatura
from datatrove.pipeline.extractors.base import BaseExtractor

from llmc.web.orphans import end_with_parent

HTML = "text_is_html"           # in a document's metadata: it is
FAILURES = ("timeout", "broken_process", "clean_error")     # as datatrove counts them


class PagesAlone(BaseExtractor):
    """Around an extractor of datatrove's, which gets the documents that readers marked with HTML.
    Order is kept, and a page is dropped with one reason, as filters do: no_text; timeout;
    broken_process, where the library ended the process that it works in; clean_error.

    exclusion_writer: for what is dropped: metadata and reason, without the HTML.
    """
    exclusion_writer: Any = None
    _failure: str | None = None

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        with self.exclusion_writer or nullcontext() as writer:
            for is_page, documents in groupby(data, lambda doc: doc.metadata.pop(HTML, False)):
                if is_page:
                    yield from self._extracted(documents, writer, rank, world_size)
                else:
                    for document in documents:
                        self.stat_update("total", "forwarded")
                        yield document

    def stat_update(self, *labels: str, **options: Any) -> None:
        super().stat_update(*labels, **options)
        self._failure = next((label for label in labels if label in FAILURES), self._failure)

    def _extracted(self, documents: Iterator[Document], writer: Any, rank: int,
                   world_size: int) -> Iterator[Document]:
        kept = False

        def pages() -> Iterator[Document]:
            """The next page is asked for when one is done."""
            nonlocal kept
            for document in documents:
                kept, self._failure = False, None
                yield document
                if not kept:
                    self._drop(document, writer, rank)

        for document in super().run(pages(), rank, world_size):
            kept = True
            yield document

    def _drop(self, document: Document, writer: Any, rank: int) -> None:
        reason = self._failure or "no_text"
        self.stat_update(f"dropped_{reason}")
        if self._failure:       # no_text it has counted
            self.stat_update("dropped")
        if writer:
            document.text = ""
            document.metadata |= {HTML: True, "filter_reason": reason}
            writer.write(document, rank)


class ByTrafilatura(PagesAlone, Trafilatura):
    """A. Barbaresi, "Trafilatura", 2021, https://aclanthology.org/2021.acl-demo.15"""

    def extract(self, text: str) -> str:
        """The main content, in a process of datatrove's."""
        end_with_parent()
        return super().extract(text)


class ByResiliparse(PagesAlone):
    """J. Bevendorff et al., "Elastic ChatNoir", 2018, https://resiliparse.chatnoir.eu: one pass of
    C++ over the page; comments and the text of images are left out, as trafilatura does."""
    name = "⛏ Resiliparse"
    _requires_dependencies = ["resiliparse"]

    def __init__(self, timeout: float = 1):
        super().__init__(timeout)

    def extract(self, text: str) -> str:
        """The main content, one block a line."""
        from resiliparse.extract.html2text import extract_plain_text

        end_with_parent()
        return extract_plain_text(text, main_content=True, alt_texts=False, comments=False)
