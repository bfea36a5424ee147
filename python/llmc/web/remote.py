"""Files of other machines, read as they come: what fails is tried again, later and later."""
from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, TypeVar

import httpx
from datatrove.io import DataFolder
from datatrove.utils.logging import logger
from fsspec import AbstractFileSystem

from llmc.patience import ASKS, TRIES, Unreachable, patiently

TIMEOUT = 60.0                  # seconds without a byte
BLOCK = 1 << 20                 # bytes asked for at a time

T = TypeVar("T")


class RemoteFolder(DataFolder):
    """datatrove's folder of a URL, http(s):// or of another of fsspec's file systems, whose files
    are read patiently; what fails all the same is an Unreachable. tell hears of each failure."""

    def __init__(self, path: str, tries: int | None = None,
                 tell: Callable[[str], Any] = logger.warning):
        ours = path.startswith("http")
        super().__init__(path, fs=HttpFiles() if ours else None)
        self.tries, self.tell = tries or (TRIES if ours else ASKS), tell

    def open(self, path: str, mode: str = "rb", compression: None = None) -> io.BufferedReader:
        """The file's bytes, as they are."""
        return io.BufferedReader(_PatientFile(
            lambda: super(RemoteFolder, self).open(path, mode), self.resolve_paths(path),
            self.tries, self.tell), BLOCK)


class HttpFiles(AbstractFileSystem):
    """Files of web servers, each read from its begin to its end by one request; fsspec's own asks
    for blocks, a request each, and takes every error for a file that is not there."""
    protocol = ("http", "https")

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return path

    def _open(self, path: str, mode: str = "rb", **options: Any) -> _HttpFile:
        return _HttpFile(path)


class _PatientFile(io.RawIOBase):
    """A file of fsspec; a read that failed is done again from where it began."""

    def __init__(self, opened: Callable[[], Any], name: str, tries: int,
                 tell: Callable[[str], Any]):
        self._name, self._tries, self._tell = name, tries, tell
        self._file = self._patiently(opened)

    def _patiently(self, call: Callable[[], T]) -> T:
        return patiently(call, self._name, self._tries, self._tell)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self._file.seekable()

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readinto(self, buffer: Any) -> int:
        data = self._patiently(lambda: self._file.read(len(buffer)))
        buffer[:len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed and hasattr(self, "_file"):
            self._file.close()
        super().close()


class _HttpFile(io.RawIOBase):
    """A body of HTTP. After an error the next read asks for what is left."""

    def __init__(self, url: str):
        self._url, self._at, self._left, self._version = url, 0, b"", ""
        self._stack = ExitStack()
        self._parts: Any = None
        self._connect()

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        if self._parts is None:
            self._connect()
        part = self._left or self._next()
        size = min(len(buffer), len(part))
        buffer[:size], self._left = part[:size], part[size:]
        self._at += size
        return size

    def close(self) -> None:
        self._stack.close()
        super().close()

    def _connect(self) -> None:
        """Ask for the bytes from the place that was read up to."""
        headers = {"Accept-Encoding": "identity"}
        if self._at:
            headers["Range"] = f"bytes={self._at}-"
        response = self._stack.enter_context(httpx.stream(
            "GET", self._url, headers=headers, timeout=TIMEOUT, follow_redirects=True))
        response.raise_for_status()
        version = response.headers.get("ETag") or response.headers.get("Last-Modified", "")
        if self._at and version != self._version:
            raise Unreachable(f"{self._url} is not what it was when reading it began")
        self._version = version
        self._parts = response.iter_raw()
        skip = self._at if response.status_code != 206 else 0     # it gives the whole file
        while skip and (part := self._next()):
            self._left, skip = part[skip:], max(0, skip - len(part))

    def _next(self) -> bytes:
        try:
            return next(self._parts, b"")
        except Exception:
            self._parts, self._left = None, b""
            self._stack.close()
            raise
