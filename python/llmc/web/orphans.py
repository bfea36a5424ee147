"""Processes that were started by another one end with it, however that ended."""
from __future__ import annotations

import os
import threading
import time

from multiprocess import parent_process

LOOK = 0.5                      # seconds between two looks
_watching: set[int] = set()     # processes by their ids: a fork has its parent's variables


def end_with_parent() -> None:
    """From now on, this process is one of them. A second call does nothing."""
    if os.getpid() in _watching:
        return
    _watching.add(os.getpid())
    parent = os.getppid()
    program = parent_process()      # of a process that a server forked, which does not end with it

    def watch() -> None:
        while os.getppid() == parent and (program is None or program.is_alive()):
            time.sleep(LOOK)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
