"""llmc.engine: texts written side by side are the texts written alone, and nothing is left over."""
from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import transformers
from llmc import Config, Device, Model
from llmc.engine import Engine, Text, pages_needed
from llmc.logits import adjust
from llmc.request import Request
from writing_alone import CONTEXT, KNOWN, TOKENS, Small, alone

MOST_STEPS = 100_000            # of a test that ends well


@pytest.fixture(scope="module")
def small() -> Small:
    return Small()


def is_empty(engine: Engine) -> bool:
    """Whether every page and every row is back, but for one that is kept."""
    if engine.kept:
        engine.decoder.close(engine.kept.number)
        engine.kept = None
    rows = [engine.decoder.open() for _ in range(engine.rows)]
    for row in rows:
        engine.decoder.close(row)
    return engine.decoder.pages_free == engine.pages and not engine.busy()


# ---- chance --------------------------------------------------------------------------------------


def some_request(rng: np.random.Generator) -> Request:
    """Any setting, most of them often left out."""
    def maybe(values, unset):
        return rng.choice(values).item() if rng.random() < 0.3 else unset

    greedy = rng.random() < 0.15
    ids, n = range(KNOWN), 1 if greedy else maybe([2, 3, 4], 1)
    return Request(
        prompt=rng.integers(0, KNOWN, rng.choice([1, 2, 7, 31, 32, 33, 64, 70])).tolist(),
        max_tokens=int(rng.choice([1, 2, 5, 17, 40, 90])),
        temperature=0 if greedy else float(rng.choice([0.5, 1.0, 3.0])),
        top_k=0 if greedy else maybe([1, 3, 8], 0), top_p=1.0 if greedy else maybe([0.3, 0.9], 1.0),
        min_p=0.0 if greedy else maybe([0.05, 0.2], 0.0),
        repetition_penalty=maybe([0.8, 1.3], 1.0), presence_penalty=maybe([-0.5, 1.0], 0.0),
        frequency_penalty=maybe([-0.2, 0.7], 0.0),
        logit_bias={int(id): float(rng.normal()) for id in rng.choice(ids, maybe([1, 4], 0))},
        allowed_tokens=sorted({*rng.choice(ids, 8).tolist()}) if rng.random() < 0.15 else None,
        seed=int(rng.integers(5)), stream=int(rng.integers(3)),
        n=n, keep=n == 1 and rng.random() < 0.5,
        stop=[["ab"], ["é"], ["a", "bc d"], ["bab", "\n\n", "h\ufffd"]][rng.integers(4)]
        if rng.random() < 0.4 else [],
        stop_tokens=rng.choice(ids, 2).tolist() if rng.random() < 0.2 else (),
        logprobs=maybe([0, 3], None), forget=bool(rng.random() < 0.3))


class Chance:
    """Requests that come, are forced into and are cancelled when chance wills, in little room."""

    def __init__(self, small: Small, seed: int):
        self.small, self.rng = small, np.random.default_rng(seed)
        rows = int(self.rng.choice([2, 3, 4]))
        self.engine = small.engine(rows, pages=int(self.rng.integers(4, 14)),
                                   tokens=int(self.rng.choice([1, 7, 40])))
        self.texts: list[Text] = []
        self.heard: dict[Text, str] = {}
        self.forced: dict[Text, dict[int, int]] = {}

    def ask(self) -> None:
        request = some_request(self.rng)
        try:
            texts = self.engine.submit(request)
        except ValueError as refusal:
            need = pages_needed(request, request.n, CONTEXT)
            assert request.n > self.engine.rows or need > self.engine.pages, refusal
            return
        for text in texts:
            self.texts.append(text)
            self.heard[text], self.forced[text] = "", {}

    def meddle(self) -> None:
        living = [text for text in self.texts if not text.finish]
        if not living:
            return
        text = living[self.rng.integers(len(living))]
        if self.rng.random() < 0.4:
            self.engine.cancel(text)
        elif room := self.engine.room(text):
            tokens = self.rng.integers(0, KNOWN, min(room, self.rng.integers(1, 50))).tolist()
            self.forced[text] |= dict(enumerate(tokens, len(text.tokens)))
            self.engine.force(text, tokens)

    def run(self, requests: int) -> None:
        for _ in range(requests):
            self.ask()
            for _ in range(self.rng.integers(12)):
                self.step()
            if self.rng.random() < 0.2:
                self.meddle()
        for _ in range(MOST_STEPS):
            if not self.engine.busy():
                break
            self.step()
        assert is_empty(self.engine)
        for text in self.texts:
            self.check(text)

    def step(self) -> None:
        before = self.engine.busy()
        assert bool(before) >= bool(self.engine.step())
        assert sum(len(group.living()) for group in self.engine.running) <= self.engine.rows
        for text in self.texts:
            self.heard[text] += text.news()

    def check(self, text: Text) -> None:
        result, request = text.result(), text.request
        assert self.heard[text] + text.news() == result.text
        assert result.sampled == [place not in self.forced[text]
                                  for place in range(len(result.tokens))]
        wanted = alone(self.small, request, text.stream - request.stream, self.forced[text])
        if result.finish == "cancelled":
            assert result.tokens == wanted.tokens[:len(result.tokens)]
        else:
            assert result.tokens == wanted.tokens
            assert (result.text, result.finish) == (wanted.text, wanted.finish)
        if request.logprobs is not None:
            self.check_logprobs(result, request)

    def check_logprobs(self, result, request: Request) -> None:
        assert len(result.logprobs) == len(result.tokens)
        for token, sampled, found in zip(result.tokens, result.sampled, result.logprobs):
            assert (found is not None) == sampled
            if found:
                assert len(found.top) == request.logprobs and found.logprob <= 0
                assert dict(found.top).get(token, found.logprob) == found.logprob


@pytest.mark.parametrize("seed", range(12))
def test_a_text_among_others_is_the_text_alone(small, seed):
    Chance(small, seed).run(requests=25)


@pytest.mark.parametrize("dtype", ["bf16", "int8"])
def test_in_other_types_too(dtype):
    Chance(Small(dtype), seed=5).run(requests=25)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 140))
def test_ten_thousand_texts_are_the_texts_alone(seed):
    Chance(Small(), seed).run(requests=250)


# ---- one thing at a time -------------------------------------------------------------------------


class Script:
    """A decoder whose model wants these tokens, one after the other."""

    def __init__(self, decoder, tokens):
        self.decoder, self.tokens = decoder, iter(tokens)

    def feed(self, inputs):
        logits = np.zeros_like(self.decoder.feed(inputs))
        for row in logits:
            row[next(self.tokens)] = 100
        return logits

    def __getattr__(self, name):
        return getattr(self.decoder, name)


def scripted(small: Small, said: str | bytes | list[int], request: Request) -> Text:
    """The text of a model that wants to say this, a byte or a character a token."""
    if isinstance(said, (str, bytes)):
        raw = said.encode() if isinstance(said, str) else said
        said = [TOKENS.index(bytes([byte])) for byte in raw]
    engine = small.engine()
    engine.decoder = Script(engine.decoder, said)
    text, = engine.submit(replace(request, max_tokens=len(said), temperature=0))
    text.heard = list(engine.stream(text))
    return text


def test_no_character_is_cut_in_two(small):
    said = "a é語 b"
    text = scripted(small, said.encode() + b"\xe8\xaa", Request([0]))
    assert text.heard == [*said, "\N{REPLACEMENT CHARACTER}"]


@pytest.mark.parametrize("said, stop, wanted", [
    ("abc def", ["c d"], "ab"),
    ("ab é語 a", ["é語"], "ab "),                 # inside the bytes of two characters
    ("ab é語 a", ["zz", "語 a"], "ab é"),
    ("abcabd", ["abd"], "abc"),                  # held back, given, and held back again
    ("abcd", ["bc", "abc"], ""),                 # both complete at once: the one that began first
    ("abc", ["cd"], "abc"),                      # what was held back comes at the end
])
def test_a_stop_text_may_lie_across_tokens(small, said, stop, wanted):
    text = scripted(small, said, Request([0], stop=stop))
    assert "".join(text.heard) == text.result().text == wanted
    assert text.finish == ("stop" if wanted != said else "length")


def test_the_end_of_the_document_ends_the_text(small):
    text = scripted(small, [0, 1, KNOWN - 1, 2], Request([0])).result()
    assert (text.text, text.tokens, text.finish) == ("ab", [0, 1, KNOWN - 1], "eot")


def test_a_stop_token_ends_the_text(small):
    text = scripted(small, [0, 1, 2, 3], Request([0], stop_tokens=[5, 2])).result()
    assert (text.text, text.tokens, text.finish) == ("ab", [0, 1, 2], "stop")


def one(small: Small, **settings):
    (result,), = small.engine().generate([Request(**{"prompt": [1, 2, 3]} | settings)])
    return result


def test_a_full_context_ends_the_text_or_forgets(small):
    ending = one(small, prompt=[1] * CONTEXT, max_tokens=5, allowed_tokens=[0, 1])
    assert (len(ending.tokens), ending.finish) == (1, "context")
    going = one(small, prompt=[1] * CONTEXT, max_tokens=99, allowed_tokens=[0, 1], forget=True)
    assert (len(going.tokens), going.finish) == (99, "length")


@pytest.mark.parametrize("setting", [
    dict(temperature=3.0), dict(top_k=2), dict(top_p=0.2), dict(min_p=0.5), dict(seed=7),
    dict(stream=4), dict(repetition_penalty=5.0), dict(presence_penalty=9.0),
    dict(frequency_penalty=9.0), dict(logit_bias={4: 50.0}), dict(allowed_tokens=[4, 5]),
    dict(max_tokens=3), dict(stop=[" "]), dict(stop_tokens=list(range(9)))], ids=str)
def test_every_setting_changes_the_text(small, setting):
    prompt = [5, 6, 7]
    plain = one(small, prompt=prompt, max_tokens=30, seed=1, logit_bias={KNOWN - 1: -1000})
    changed = one(small, **dict(prompt=prompt, max_tokens=30, seed=1,
                                logit_bias={KNOWN - 1: -1000}) | setting)
    assert changed.tokens != plain.tokens


def test_penalties_are_hugging_faces_and_openais():
    import torch

    rng = np.random.default_rng(0)
    logits, prompt, written = rng.normal(size=30).astype(np.float32), [3, 3, 9], [4, 3, 4, 4]
    bias = {3: 0.5, 11: -2.0}
    request = Request(prompt, logit_bias=bias, repetition_penalty=1.7)
    ids, theirs = torch.tensor([prompt + written]), torch.tensor(logits)[None]
    for processor in (
            transformers.SequenceBiasLogitsProcessor([[[id], x] for id, x in bias.items()]),
            transformers.RepetitionPenaltyLogitsProcessor(1.7)):
        theirs = processor(ids, theirs)
    ours = logits.copy()
    adjust(ours, request, written)
    assert ours.tobytes() == theirs[0].numpy().tobytes()

    ours = logits.copy()
    adjust(ours, Request(prompt, presence_penalty=0.3, frequency_penalty=0.2), written)
    counts = np.bincount(written, minlength=30)         # the prompt does not count
    openais = logits - counts * 0.2 - (counts > 0) * 0.3
    np.testing.assert_allclose(ours, openais, rtol=1e-6)

    ours = logits.copy()
    adjust(ours, Request(prompt, allowed_tokens=[8, 2]), written)
    assert np.isfinite(ours).nonzero()[0].tolist() == [2, 8] and ours[8] == logits[8]


def test_logprobs_are_the_models_own(small):
    request = Request([1, 2, 3], 6, temperature=2.0, top_k=3, repetition_penalty=1.5, logprobs=4,
                      logit_bias={KNOWN - 1: -1000})
    (result,), = small.engine().generate([request])
    context = [1, 2, 3]
    for token, found in zip(result.tokens, result.logprobs, strict=True):
        logits = small.whole_pass(context)[:KNOWN].astype(np.float64)
        logp = logits - np.log(np.exp(logits - logits.max()).sum()) - logits.max()
        np.testing.assert_allclose(found.logprob, logp[token], atol=1e-12)
        top = np.argsort(-logp, kind="stable")[:4]
        assert [id for id, _ in found.top] == top.tolist()
        np.testing.assert_allclose([p for _, p in found.top], logp[top], atol=1e-12)
        context.append(token)
    assert one(small, max_tokens=3, logprobs=0).logprobs[0].top == []
    assert one(small, max_tokens=3).logprobs is None
    everything = one(small, max_tokens=1, logprobs=999).logprobs[0].top
    assert sum(np.exp(p) for _, p in everything) == pytest.approx(1)


def test_several_texts_of_a_prompt_read_it_once(small):
    engine, fed = small.engine(rows=4, tokens=100), []

    class Counting(Script):
        def feed(self, inputs):
            fed.append(sum(len(tokens) for _, tokens, _ in inputs))
            return self.decoder.feed(inputs)
    engine.decoder = Counting(engine.decoder, ())
    texts = engine.submit(Request([1] * 64, 3, n=4, logit_bias={KNOWN - 1: -1000}))
    engine.step()
    assert engine.decoder.pages_free == engine.pages - 2        # what four rows hold together
    while engine.busy():
        engine.step()
    assert fed == [64, 4, 4]
    assert len({tuple(text.tokens) for text in texts}) > 1, "all texts are the same"


def test_forced_tokens_are_read_and_flagged(small):
    engine, quiet = small.engine(), {KNOWN - 1: -1000}
    text, = engine.submit(Request([1, 2], 12, seed=3, logit_bias=quiet, stop=["abc"]))
    for _ in range(3):
        engine.step()
    engine.force(text, [0, 1, 2, KNOWN - 1])            # neither the stop text nor the end counts
    assert not text.finish and "abc<|endoftext|>" in text.pieces.text()
    while not text.finish:
        engine.step()
    wanted = alone(small, text.request, forced=dict(enumerate([0, 1, 2, KNOWN - 1], 3)))
    assert text.tokens == wanted.tokens
    assert text.sampled[:8] == [True] * 3 + [False] * 4 + [True]
    with pytest.raises(ValueError, match=r"the text has ended \(\w+\); nothing can be forced"):
        engine.force(text, [0])


def test_who_came_first_is_served_first(small):
    """A large request waits for room, and small ones that came later do not pass it."""
    engine = small.engine(rows=3, pages=4)
    quiet = {KNOWN - 1: -1000}
    first, = engine.submit(Request([1], 40, logit_bias=quiet))
    large, = engine.submit(Request([1] * 40, 30, logit_bias=quiet))
    later = [engine.submit(Request([2], 20, logit_bias=quiet))[0] for _ in range(5)]
    while large.group not in engine.running:
        engine.step()
        assert large.group in engine.running or not any(text.tokens for text in later)
    assert first.finish == "length"
    while engine.busy():
        engine.step()
    assert all(len(text.tokens) == 20 for text in later)


@pytest.mark.parametrize("forget", [False, True])
@pytest.mark.parametrize("prompt", [1, 31, 32, 45, 64, 70])
@pytest.mark.parametrize("n", [1, 2, 4])
def test_the_pages_set_aside_are_enough(small, prompt, n, forget):
    request = Request([1] * prompt, 90, n=n, forget=forget, allowed_tokens=[0, 1, 2])
    engine = small.engine(pages=pages_needed(request, n, CONTEXT))
    assert {text.finish for text in engine.generate([request])[0]} == {
        "length" if forget else "context"}
    assert is_empty(engine)


def test_by_default_every_row_may_fill_its_context(small):
    engine = small.engine(rows=2)
    engine.submit(Request([1] * 45, 90, n=2, forget=True))
    engine.step()
    assert engine.running


def test_a_long_prompt_does_not_hold_up_the_others(small):
    engine = small.engine(rows=2, tokens=8)
    going, = engine.submit(Request([1], 30, logit_bias={KNOWN - 1: -1000}))
    engine.step()
    long, = engine.submit(Request([2] * 60, 5))
    steps = 0
    while not long.tokens:
        before = len(going.tokens)
        engine.step()
        steps += 1
        assert len(going.tokens) == before + 1
    assert steps == 9                                   # 7 of its tokens beside each of the other


def test_a_cancelled_text_gives_back_what_it_held(small):
    engine = small.engine(rows=2, tokens=8)
    writing, = engine.submit(Request([1], 30, logit_bias={KNOWN - 1: -1000}))
    reading, = engine.submit(Request([2] * 60, 5))
    queued, = engine.submit(Request([1], 30))
    engine.step()
    for text in (queued, reading, writing, writing):
        engine.cancel(text)
        assert text.finish == "cancelled"
    assert is_empty(engine) and engine.step() == []
    other = small.engine()
    theirs, = other.submit(Request([1], 5))
    with pytest.raises(ValueError, match="the text is another engine's"):
        engine.cancel(theirs)
    other.cancel(theirs)


@pytest.mark.parametrize("settings, sentence", [
    (dict(prompt=[]), "the prompt is empty"),
    (dict(prompt=[1] * 71), "the prompt has 71 tokens, but the model's context holds 70"),
    (dict(prompt=[KNOWN]), f"prompt: {KNOWN} is no token; they are 0 to {KNOWN - 1}"),
    (dict(prompt=[-1]), "prompt: -1 is no token"),
    (dict(prompt=[1.5]), "prompt: 1.5 is no token"),
    (dict(prompt="one"), "prompt: o is no token"),
    (dict(stop_tokens=[99]), "stop_tokens: 99 is no token"),
    (dict(logit_bias={99: 1.0}), "logit_bias: 99 is no token"),
    (dict(logit_bias={1: float("inf")}), "logit_bias of token 1 is inf, wanted -1000 to 1000"),
    (dict(allowed_tokens=[99]), "allowed_tokens: 99 is no token"),
    (dict(allowed_tokens=[]), "allowed_tokens allows none"),
    (dict(stop="end"), "stop is the text 'end', wanted a list"),
    (dict(stop=["a", ""]), "stop has an empty text"),
    (dict(stop=[b"a"]), "stop has b'a', wanted texts"),
    (dict(max_tokens=0), "max_tokens is 0, wanted 1 to"),
    (dict(max_tokens=None), "max_tokens is None, wanted a whole number"),
    (dict(max_tokens=2.5), "max_tokens is 2.5, wanted a whole number"),
    (dict(n=0), "n is 0, wanted 1 to"),
    (dict(n=5), "n is 5, but 4 texts are written at a time"),
    (dict(seed=-1), "seed is -1, wanted 0 to"),
    (dict(stream=2**20 - 1, n=2), "stream 1048575 and the 1 after it go beyond the last"),
    (dict(temperature=-1.0), "temperature is -1; wanted 0"),
    (dict(temperature=float("nan")), "temperature is nan"),
    (dict(top_p=1.5), "top_p is 1.5"),
    (dict(top_k=-1), "top_k is -1, wanted 0 to"),
    (dict(min_p=-0.5), "min_p is -0.5"),
    (dict(repetition_penalty=0.0), "repetition_penalty is 0.0, wanted 0.01 to 100"),
    (dict(presence_penalty=float("nan")), "presence_penalty is nan, wanted -1000 to 1000"),
    (dict(logprobs=-1), "logprobs is -1, wanted 0 to"),
    (dict(temperature=0, n=2), "n 2 with temperature 0 would be 2 times the same text"),
    (dict(temperature=0, top_p=0.5), "top_p means nothing with temperature 0"),
    (dict(keep=True, n=2), "keep is for one text, but n is 2; leave one of them out"),
    (dict(max_tokens=64), "the request may need 3 pages of 32 tokens (a prompt of 3, max_tokens "
                          "64, n 1), but the cache has 2"),
])
def test_what_cannot_be_done_is_said_in_a_sentence(small, settings, sentence):
    engine = small.engine(rows=4, pages=2)
    with pytest.raises((ValueError, RuntimeError)) as refusal:
        engine.submit(Request(**{"prompt": [1, 2, 3], "max_tokens": 9} | settings))
    assert sentence in str(refusal.value) and "\n" not in str(refusal.value)
    assert is_empty(engine)


class Counted:
    """A decoder that counts the tokens it is fed."""

    def __init__(self, decoder):
        self.decoder, self.count = decoder, 0

    def feed(self, inputs):
        self.count += sum(len(tokens) for _, tokens, _ in inputs)
        return self.decoder.feed(inputs)

    def __getattr__(self, name):
        return getattr(self.decoder, name)


@pytest.mark.parametrize("change, read", [(50, 2), (40, 12), (0, 52)])
def test_what_was_kept_is_not_read_again(small, change, read):
    """From the first token on that is another; the text is the one that is written alone."""
    engine = small.engine(rows=1)
    first = Request([1 + i % 7 for i in range(47)], 4, temperature=0, keep=True)
    said = engine.generate([first])[0][0]
    second = [*first.prompt, *said.tokens, 3]
    second[change] = (second[change] + 1) % 7
    engine.decoder = Counted(engine.decoder)
    found = engine.generate([Request(second, 1, temperature=0)])[0][0]
    assert len(second) == 52 and engine.decoder.count == read
    assert found.tokens == alone(small, Request(second, 1, temperature=0)).tokens and is_empty(engine)


def test_more_than_a_text_may_hold_is_not_forced(small):
    engine = small.engine()
    text, = engine.submit(Request([1] * 68, 9))
    with pytest.raises(ValueError, match="4 tokens to force, but the text may get only 3 more"):
        engine.force(text, [1] * 4)
    with pytest.raises(ValueError, match="force: 99 is no token"):
        engine.force(text, [99])
    engine.force(text, [1] * 3)
    assert text.finish == "context" and is_empty(engine)


def test_an_engine_of_no_rows_is_refused(small):
    with pytest.raises(ValueError, match="rows is 0, wanted 1 or more"):
        small.engine(rows=0)


def test_the_tokenizer_of_a_larger_model_is_refused(small):
    config = Config(**small.model.config.to_dict() | {"vocab_size": KNOWN - 1})
    with pytest.raises(ValueError, match=f"has {KNOWN} symbols, but the model knows {KNOWN - 1}; it is another"):
        Engine(Model(Device("cpu", 1), config), small.tokenizer)


def test_a_cache_of_no_page_is_refused(small):
    with pytest.raises(ValueError, match="cache_bytes is 10, but one page of 32 tokens takes"):
        Engine(small.model, small.tokenizer, cache_bytes=10)
