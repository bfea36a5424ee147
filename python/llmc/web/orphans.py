"""Processes that were started by another one end with it, however that ended."""
from __future__ import annotations

import os
import threading
import time

LOOK = 0.5                      # seconds between two looks
_watching: set[int] = set()     # processes by their ids: a fork has its parent's variables


def end_with_parent() -> None:
    """From now on, this process is one of them. A second call does nothing."""
    if os.getpid() in _watching:
        return
    _watching.add(os.getpid())
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(LOOK)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
