"""Graphs of a GPU: what is recorded and replayed does what the same ops do one by one."""

from __future__ import annotations

import pytest
from common import GPUS

FORBIDDEN = {"upload": "a copy from the host, while", "download": "the host waits, while", "memory": "memory is taken",
             "workspace": "memory is", "wait": "the host waits, while", "recording": "a recording begins, while",
             "collective": "a collective on another stream, while"}


@pytest.mark.parametrize("gpu", GPUS)
def test_a_replay_reads_memory_anew(core, gpu):
    graph = core.Graph(gpu)
    graph.record("")
    assert [graph.replay(row) for row in (3, 0, 7, 7, 1)] == [3, 0, 7, 7, 1]


@pytest.mark.parametrize("gpu", GPUS)
@pytest.mark.parametrize("what", FORBIDDEN)
def test_what_no_graph_can_hold_is_refused_and_the_device_works_on(core, gpu, what):
    graph = core.Graph(gpu)
    if gpu == "cuda" and what == "collective":
        pytest.skip("skipped: one GPU has no other to meet")
    for _ in range(2):
        with pytest.raises(RuntimeError, match=FORBIDDEN[what] if gpu == "cuda-emu" else None):
            graph.record(what)
    graph.record("")
    assert [graph.replay(row) for row in (2, 5)] == [2, 5]
