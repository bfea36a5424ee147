"""Packages that only some stages need: the extras of the package."""
from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def needed(purpose: str, extra: str = "web") -> Iterator[None]:
    """Around imports: one that is missing is an ImportError that says what for and what to do."""
    try:
        yield
    except ImportError as error:
        raise ImportError(f'{purpose} needs packages that are not installed ({error}); '
                          f'pip install "llmc[{extra}]"') from error


@contextmanager
def same_library_path() -> Iterator[None]:
    """Around imports that change where programs started later look for their libraries."""
    before = {key: os.environ.get(key) for key in ("LIBRARY_PATH", "LD_LIBRARY_PATH")}
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value
