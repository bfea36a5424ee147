"""The decoder: logits have the bits of a whole pass, whatever happens to the rows."""
from __future__ import annotations

import numpy as np
import pytest
from parity import TINY, tiny, weights

import llmc
from llmc import _core

PAGE = _core.CACHE_PAGE
DEVICES = [name for name in _core.device_list() if name != "cpu:plain"]
LONGER = dict(max_seq_len=150)


def model_of(name: str, dtype: str = "f32", device: str = "cpu", threads: int = 2,
             **changes) -> llmc.Model:
    config = llmc.Config(**{**tiny(name).to_dict(), **changes})
    model = llmc.Model(llmc.Device(device, threads), config, dtype)
    for key, array in weights(config).items():
        narrow = model.types[key] == "bf16"
        model.set(key, (array.view(np.uint32) >> 16).astype(np.uint16) if narrow else array)
    return model


def whole_pass(model: llmc.Model, tokens: list[int]) -> np.ndarray:
    """Logits after the last token, from the tokens all at once."""
    model.plan(1, model.config.max_seq_len, train=False)
    model.read(np.array([tokens], np.int32))
    return model.logits(len(tokens) - 1, 1)[0]


class Chance:
    """Rows that chance opens, lends, feeds, rewinds and closes, held against whole passes."""

    def __init__(self, model: llmc.Model, seed: int):
        self.model, self.rng = model, np.random.default_rng(seed)
        self.pages = 40
        self.decoder = _core.Decoder(model, 5, self.pages, 200)
        self.texts: dict[int, list[int]] = {}

    def step(self) -> None:
        act = self.rng.choice(["open", "lend", "rewind", "close", "feed", "feed", "feed", "feed"])
        if act == "open" and len(self.texts) < 5:
            self.texts[self.decoder.open()] = []
        elif act == "feed":
            self.feed()
        elif self.texts:
            row = int(self.rng.choice(list(self.texts)))
            at = int(self.rng.integers(len(self.texts[row]) + 1))
            if act == "lend" and len(self.texts) < 5:
                self.texts[self.decoder.lend(row, at)] = self.texts[row][:at]
            elif act == "rewind":
                self.decoder.rewind(row, at)
                del self.texts[row][at:]
            elif act == "close":
                self.decoder.close(row)
                del self.texts[row]

    def feed(self) -> None:
        inputs, config, pages = [], self.model.config, 0
        for row, text in self.texts.items():
            count = min(int(self.rng.choice([0, 1, 1, 3, 33, 40])), config.max_seq_len - len(text))
            pages += self.decoder.pages_needed(row, count)
            if count and pages <= self.decoder.pages_free:
                tokens = self.rng.integers(0, config.vocab_size, count)
                inputs.append((row, tokens, bool(self.rng.integers(2))))
        if not inputs:
            return
        logits = self.decoder.feed(inputs)
        for row, tokens, _ in inputs:
            self.texts[row] += tokens.tolist()
        wanted = [row for row, _, wants in inputs if wants]
        assert len(wanted) == len(logits)
        for row, got in zip(wanted, logits):
            assert self.decoder.length(row) == len(self.texts[row])
            assert got.tobytes() == whole_pass(self.model, self.texts[row]).tobytes()

    def end(self) -> None:
        for row in self.texts:
            self.decoder.close(row)
        assert self.decoder.pages_free == self.pages


@pytest.mark.parametrize("dtype", ["f32", "bf16", "int8"])
@pytest.mark.parametrize("name", TINY)
def test_any_schedule_gives_the_bits_of_a_whole_pass(name, dtype):
    chance = Chance(model_of(name, dtype, **LONGER), seed=len(name))
    for _ in range(120):
        chance.step()
    chance.end()


@pytest.mark.parametrize("dtype", ["f32", "bf16", "int8"])
@pytest.mark.parametrize("device", DEVICES)
def test_on_every_device(device, dtype):
    chance = Chance(model_of("llama, grouped", dtype, device, 3, **LONGER), seed=3)
    for _ in range(60):
        chance.step()
    chance.end()


def test_a_lent_prompt_is_not_copied():
    decoder = _core.Decoder(model_of("gpt2", **LONGER), 4, 6, 128)
    prompt = decoder.open()
    decoder.feed([(prompt, np.arange(2 * PAGE + 5) % 61, False)])
    assert decoder.pages_free == 3
    rows = [decoder.lend(prompt, 2 * PAGE) for _ in range(3)]
    assert decoder.pages_free == 3
    decoder.feed([(row, [7], False) for row in rows])           # a page of its own for each
    assert decoder.pages_free == 0
    decoder.close(prompt)
    assert decoder.pages_free == 1                              # the others still hold the rest
    for row in rows:
        decoder.close(row)
    assert decoder.pages_free == 6


def test_who_writes_into_a_shared_page_gets_a_copy():
    model = model_of("gpt2", **LONGER)
    decoder = _core.Decoder(model, 2, 3, 128)
    first = decoder.open()
    decoder.feed([(first, [1, 2, 3], False)])
    second = decoder.lend(first, 2)
    assert decoder.pages_needed(second, 1) == 1 and decoder.pages_free == 2
    both = decoder.feed([(second, [9, 8], True), (first, [4], True)])
    assert both[0].tobytes() == whole_pass(model, [1, 2, 9, 8]).tobytes()
    assert both[1].tobytes() == whole_pass(model, [1, 2, 3, 4]).tobytes()
    assert decoder.pages_free == 1


def test_bits_do_not_depend_on_threads():
    def logits(threads: int, dtype: str) -> bytes:
        decoder = _core.Decoder(model_of("llama, grouped", dtype, threads=threads), 3, 9, 64)
        a, b = decoder.open(), decoder.open()
        decoder.feed([(a, [1, 2, 3], False), (b, list(range(20)), False)])
        return decoder.feed([(b, [5], True), (a, [6, 7], True)]).tobytes()
    for dtype in ("f32", "bf16", "int8"):
        assert len({logits(threads, dtype) for threads in (1, 2, 3, 8)}) == 1


def refused(decoder, inputs) -> str:
    free = decoder.pages_free
    with pytest.raises(llmc.LlmcError) as failure:
        decoder.feed(inputs)
    assert decoder.pages_free == free
    return str(failure.value)


def test_bad_calls_say_what_is_wrong_and_change_nothing():
    model = model_of("gpt2", max_seq_len=100)
    decoder = _core.Decoder(model, 2, 3, 128)
    row = decoder.open()
    decoder.feed([(row, [1, 2], False)])
    assert refused(decoder, [(1, [3], True)]) == "row 1 of the decoder is not open"
    assert refused(decoder, [(row, [61], True)]) == (
        "token 61 for row 0; wanted 0 to 60 (vocab_size)")
    assert refused(decoder, [(row, [-1], True)]).startswith("token -1 for row 0")
    assert refused(decoder, [(row, [], True)]).startswith("no tokens for row 0")
    assert refused(decoder, [(row, [3], True), (row, [4], True)]).startswith("row 0 comes twice")
    assert refused(decoder, [(row, [3] * 99, True)]) == (
        "99 tokens more for row 0, which has 2; the model's max_seq_len is 100")
    other = decoder.open()
    assert "129 tokens in one call" in refused(
        decoder, [(row, [3] * 64, True), (other, [3] * 65, True)])
    decoder.feed([(row, [3] * 62, False)])                      # row 0 now fills two pages
    assert "needs 2 pages of 32 steps, and 1 of the cache's 3 are free" in refused(
        decoder, [(other, [3] * 33, True)])
    assert decoder.length(row) == 64 and decoder.length(other) == 0
    with pytest.raises(llmc.LlmcError, match="all 2 rows of the decoder are open"):
        decoder.open()
    with pytest.raises(llmc.LlmcError, match="the first 65 steps of row 0, which has 64"):
        decoder.rewind(row, 65)
    with pytest.raises(llmc.LlmcError, match="0 rows|must be 1 or more"):
        _core.Decoder(model, 0, 3, 128)
    got = decoder.feed([(row, [9], True)])[0]
    assert got.tobytes() == whole_pass(model, [1, 2] + [3] * 62 + [9]).tobytes()


def test_a_model_without_a_language_head_has_no_decoder():
    config = tiny("gpt2", "scalar")
    with pytest.raises(llmc.LlmcError, match="a scalar head, which writes nothing"):
        _core.Decoder(llmc.Model(llmc.Device("cpu", 1), config), 1, 1, 1)
