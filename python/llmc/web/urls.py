"""The filter by url, for documents of which some name none."""
from __future__ import annotations

from typing import Any

from datatrove.data import Document
from datatrove.pipeline.filters import URLFilter
from tldextract import TLDExtract

LISTS = ("block_listed_domains", "block_listed_url", "banned_words", "banned_subwords",
         "soft_banned_words", "banned_subwords_automaton", "_downloaded")
# what a process has loaded, by what an instance was given; it takes seconds, and is wanted by each
# of the tasks that a process runs
_loaded: dict[Any, dict[str, Any]] = {}


def extractor() -> TLDExtract:
    """Of the parts of a host's name, by the list of suffixes that the package ships: no network."""
    return TLDExtract(suffix_list_urls=())


class UrlFilter(URLFilter):
    """datatrove's, which ends at a document without a url; here it is kept, and counted."""

    def filter(self, document: Document) -> bool | tuple[bool, str]:
        url = document.metadata.get("url")
        if not (url and isinstance(url, str)):
            self.stat_update("without_url")
            return True
        return super().filter(document)

    def download_data(self) -> None:
        if self._downloaded or not self.use_integrated_lists:
            return
        given = tuple(frozenset(each) for each in (
            self.block_listed_domains, self.block_listed_url, self.banned_words))
        if given in _loaded:
            vars(self).update(_loaded[given])
            return
        super().download_data()
        _loaded[given] = {key: vars(self)[key] for key in LISTS}
