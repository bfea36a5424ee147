"""What a crawl has done and has yet to do: a log beside its WARC file, so that it can go on.

Each line is a JSON object: {"start": [URL, …]}, or {"url", "outcome", "end", "found": [[URL,
depth], …]}, where end is the WARC file's size by then. A page is in that file first, then in the
log; what lies behind the last end was not finished, and is cut off before a crawl goes on.
"""
from __future__ import annotations

import fcntl
import json
import os
from collections import Counter, deque
from collections.abc import Iterable
from pathlib import Path

from llmc.web.links import host_of

PAGE = "page"                   # the outcome of what is in the WARC file


class Frontier:
    """The URLs of one crawl, in the order they are found; as a context it holds its log open and
    locked. Those deeper than `deepest` are in the log alone. A ValueError where another program
    has it, or it is no such log."""

    def __init__(self, path: Path, deepest: int):
        self.path, self.deepest, self.end = path, deepest, 0
        self.outcomes: Counter[str] = Counter()
        self.depth: dict[str, int] = {}         # of each URL ever found: links from the start
        self._queues: dict[str, deque[str]] = {}        # of each host, what is to be fetched
        self._done: set[str] = set()
        self._log = path.open("a+b")
        try:
            fcntl.flock(self._log, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._replay()
        except BlockingIOError as error:
            self._log.close()
            raise ValueError(f"{path}: another crawl is writing there; give another --out"
                             ) from error
        except ValueError:
            self._log.close()
            raise

    def __enter__(self) -> Frontier:
        return self

    def __exit__(self, *error: object) -> None:
        self._log.close()

    def start(self, urls: list[str]) -> None:
        """Begin, or begin anew, at these; those that were found before are left as they are."""
        if any(url not in self.depth for url in urls):
            self._append({"start": urls})
            self._add((url, 0) for url in urls)

    def hosts(self) -> list[str]:
        """Those with something to fetch, the first found first."""
        return [host for host, queue in self._queues.items() if queue]

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def pop(self, host: str) -> str:
        """The next URL of a host."""
        return self._queues[host].popleft()

    def put_back(self, url: str) -> None:
        """To be fetched again, after the others."""
        self._queues[host_of(url)].append(url)

    def finish(self, url: str, outcome: str, end: int, found: Iterable[tuple[str, int]]) -> None:
        """What came of a URL and was found there, each with its depth; on disk when it returns."""
        new = {link: depth for link, depth in found if link not in self.depth}
        self._append({"url": url, "outcome": outcome, "end": end, "found": list(new.items())})
        self._finish(url, outcome, end)
        self._add(new.items())

    def _finish(self, url: str, outcome: str, end: int) -> None:
        self._done.add(url)
        self.outcomes[outcome] += 1
        self.end = end

    def _add(self, found: Iterable[tuple[str, int]]) -> None:
        for url, depth in found:
            if url not in self.depth:
                self.depth[url] = depth
                if depth <= self.deepest:
                    self._queues.setdefault(host_of(url), deque()).append(url)

    def _append(self, line: dict) -> None:
        self._log.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
        self._log.flush()
        os.fsync(self._log.fileno())

    def _replay(self) -> None:
        self._log.seek(0)
        whole = 0
        for number, line in enumerate(self._log, 1):
            if not line.endswith(b"\n"):        # written when the program was killed
                break
            try:
                data = json.loads(line)
                if "start" in data:
                    self._add((url, 0) for url in data["start"])
                else:
                    self._finish(data["url"], data["outcome"], data["end"])
                    self._add(data["found"])
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{self.path}:{number} is no line of a crawl's log ({error}); "
                                 "remove it and its WARC file, or give another --out") from error
            whole += len(line)
        self._log.truncate(whole)
        for queue in self._queues.values():
            left = [url for url in queue if url not in self._done]
            queue.clear()
            queue.extend(left)
