"""What other machines are asked for: what fails is tried again, later and later."""
from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.error import HTTPError

from huggingface_hub.utils import OfflineModeIsEnabled

from llmc import cli

TRIES = 8                       # of one request, while documents are read
ASKS = 3                        # while someone waits, or where the file system tries again itself
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0    # seconds before another try; each wait is twice the last
FINAL = (FileNotFoundError, PermissionError, OfflineModeIsEnabled)
LATER = (408, 429)              # statuses of the client's errors that pass

T = TypeVar("T")


class Unreachable(ValueError):
    """A file that cannot be had now: the run ends, so that it is not left out."""


class Missing(Unreachable):
    """What another machine says it does not have."""


def patiently(call: Callable[[], T], what: str, tries: int = TRIES,
              tell: Callable[[str], Any] = lambda sentence: None) -> T:
    """What call() gives. If it fails it is called again, unless another answer cannot come; in the
    end an Unreachable says in one sentence that `what` cannot be read. tell hears of each try."""
    wait, done = FIRST_WAIT, 0
    while True:
        try:
            return call()
        except (ImportError, Unreachable):
            raise
        except Exception as error:              # every file system of fsspec has its own kinds
            done += 1
            reason, status = cli.sentence(error), _status(error)
            if status == 404 or isinstance(error, FileNotFoundError):
                raise Missing(f"{what} is not there ({reason})") from error
            final = (isinstance(error, FINAL) or 300 <= status < 500 and status not in LATER
                     or type(error).__name__ == "TooManyRedirects")     # httpx's, or requests'
            if final or done == tries:
                raise Unreachable(f"{what} cannot be read ({reason})"
                                  + f", tried {done} times" * (done > 1)) from error
            tell(f"{what}: {reason}; once more in {wait:g} s")
            time.sleep(wait)
            wait = min(2 * wait, LONGEST_WAIT)


def _status(error: Exception) -> int:
    """The status that HTTP answered with, 0 if it is not that."""
    if isinstance(error, HTTPError):
        return error.code
    return getattr(getattr(error, "response", None), "status_code", 0)
