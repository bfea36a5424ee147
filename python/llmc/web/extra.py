"""Packages that only work with web pages needs: the extra `web`."""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def needed(purpose: str) -> Iterator[None]:
    """Around imports: one that is missing is an ImportError that says what for and what to do."""
    try:
        yield
    except ImportError as error:
        raise ImportError(f'{purpose} needs packages that are not installed ({error}); '
                          'pip install "llmc[web]"') from error
