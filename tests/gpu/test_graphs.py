"""Graphs of a GPU: what is recorded and replayed does what the same ops do one by one, in the decoder above all."""

from __future__ import annotations

import numpy as np
import pytest
from common import GPUS
from parity import as_dtype, tiny, weights

import llmc
from llmc import _core

PART = 128              # keys of a part, in attention.cu
LONGER = dict(max_seq_len=2 * PART + 50)
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


def model_on(device: llmc.Device, name: str, dtype: str, **changes) -> llmc.Model:
    config = llmc.Config(**{**tiny(name).to_dict(), **changes})
    model = llmc.Model(device, config, dtype)
    for key, array in weights(config).items():
        model.set(key, as_dtype(array, model.types[key].replace("i8", "f32")))
    return model


class Pair:
    """Two decoders on one device that are told the same, one with graphs and one without: the same bits."""

    def __init__(self, device: llmc.Device, model: llmc.Model, rows: int, pages: int, seed: int):
        self.device, self.model, self.most = device, model, rows
        self.rng = np.random.default_rng(seed)
        self.pair = [_core.Decoder(model, rows + 1, pages, 2 * PART, graphs=graphs) for graphs in (True, False)]
        self.rows: list[int] = []
        self.reserved = 1 << 16
        self.prompt = self.both("open")             # all rows begin with some of it
        self.feed([(self.prompt, self.tokens(min(2 * PART, model.config.max_seq_len - 20)), False)])

    @property
    def replays(self) -> int:
        with_graphs, without = (decoder.replays for decoder in self.pair)
        assert without == 0
        return with_graphs

    def both(self, method: str, *args) -> int | None:
        first, second = (getattr(decoder, method)(*args) for decoder in self.pair)
        assert first == second
        return first

    def feed(self, inputs: list[tuple[int, list[int], bool]]) -> None:
        with_graphs, without = (decoder.feed(inputs) for decoder in self.pair)
        assert with_graphs.tobytes() == without.tobytes() and np.isfinite(without).all()

    def tokens(self, count: int) -> list[int]:
        return self.rng.integers(0, self.model.config.vocab_size, count).tolist()

    def open(self) -> None:
        """A row that ends at a border, or before or after it: of a page or a part."""
        length = min(int(self.rng.choice([0, 30, 32, PART - 3, PART, 2 * PART - 2])), self.both("length", self.prompt))
        if len(self.rows) < self.most:
            self.rows.append(self.both("lend", self.prompt, length))

    def write(self, count: int | None = None) -> None:
        """A token for some rows in any order; some want logits, or none."""
        most = self.model.config.max_seq_len
        rows = [row for row in self.rows if self.both("length", row) < most]
        count = int(self.rng.integers(len(rows) + 1)) if count is None else count
        chosen = self.rng.permutation(rows)[:count].tolist()
        if chosen:
            self.feed([(row, self.tokens(1), bool(self.rng.integers(3))) for row in chosen])

    def replays_of(self, *counts: int) -> list[int]:
        """By each of some writes, of so many rows."""
        found = []
        for count in counts:
            before = self.replays
            self.write(count)
            found.append(self.replays - before)
        return found

    def change(self) -> None:
        """A row ends or goes back, or some read several tokens; a parameter changes; the workspace moves."""
        act, row = self.rng.choice(["close", "rewind", "read", "set", "reserve"]), int(self.rng.choice(self.rows))
        if act == "close":
            self.both("close", row)
            self.rows.remove(row)
        elif act == "rewind":
            self.both("rewind", row, int(self.rng.integers(self.both("length", row) + 1)))
        elif act == "read":
            room = self.model.config.max_seq_len - self.both("length", row)
            if room:
                self.feed([(row, self.tokens(min(room, int(self.rng.integers(2, 40)))), True)])
        elif act == "set":
            name = str(self.rng.choice(self.model.names))
            array = self.rng.normal(0, 0.3, self.model.shapes[name]).astype(np.float32)
            self.model.set(name, as_dtype(array, self.model.types[name].replace("i8", "f32")))
        elif act == "reserve":
            self.reserved += 1 << 16
            self.device.reserve(self.reserved)


@pytest.mark.parametrize("gpu", GPUS)
@pytest.mark.parametrize("name,dtype", [("gpt2", "f32"), ("llama, grouped", "bf16"),
                                        ("llama like Qwen 3: QK-norm", "int8")])
def test_any_schedule_gives_the_same_bits_with_graphs_and_without(name, dtype, gpu):
    device = llmc.Device(gpu, 2)
    pairs = [Pair(device, model_on(device, name, dtype, **LONGER), 4, 60, 1),
             Pair(device, model_on(device, "gpt2", "f32", **LONGER), 3, 50, 2)]         # they share a workspace
    for pair in pairs:
        pair.open()
    for _ in range(25):
        pair = pairs[int(pairs[0].rng.integers(3) == 0)]
        for _ in range(4):
            pair.write()
        if pair.rng.integers(2) or not pair.rows:
            pair.open()
        else:
            pair.change()
    assert pairs[0].replays > 20 and pairs[1].replays > 5


@pytest.mark.parametrize("gpu", GPUS)
def test_a_number_of_rows_is_recorded_once(gpu):
    """Not its first call; nor one of several tokens a row; and again when the workspace moves."""
    device = llmc.Device(gpu, 2)
    pair = Pair(device, model_on(device, "llama, grouped", "f32", **LONGER), 3, 40, 3)
    while len(pair.rows) < 3:
        pair.open()
    assert pair.replays_of(2, 2, 2, 3, 2, 3, 3, 1, 1) == [0, 1, 1, 0, 1, 1, 1, 0, 1]
    before = pair.replays
    pair.feed([(row, pair.tokens(2), True) for row in pair.rows])
    assert pair.replays == before
    device.reserve(1 << 24)
    assert pair.replays_of(3, 3, 2, 2) == [0, 1, 0, 1]


@pytest.mark.parametrize("gpu", GPUS)
def test_graphs_are_few_however_many_rows_there_are(gpu):
    """1 and 17 rows share a place: each takes it from the other."""
    device = llmc.Device(gpu, 2)
    pair = Pair(device, model_on(device, "gpt2", "f32", max_seq_len=100), 17, 80, 4)
    for _ in range(17):
        pair.open()
    assert pair.replays_of(1, 17, 1, 1, 17, 17, 1, 16, 16) == [0, 0, 0, 1, 0, 1, 0, 0, 1]


def test_a_device_without_graphs_replays_none():
    device = llmc.Device("cpu", 2)
    pair = Pair(device, model_on(device, "gpt2", "f32"), 2, 10, 5)
    pair.open()
    for _ in range(3):
        pair.write(1)
    assert pair.replays == 0
