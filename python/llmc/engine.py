"""Many requests, one model: texts that are written side by side, and join and leave at any token.

Each step is one call of the decoder: a token more for every text that is being written, and as much
of the prompts that are being read as the call has room for. Texts of one prompt share what was read
of it. A request waits, first come first served, until all the pages it may ever need are set aside
for it, so one that was begun never lacks memory. What a text becomes depends on its request alone.
"""
from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from llmc._core import CACHE_PAGE, Decoder, Model, Sampler, decoder_page_bytes
from llmc.logits import adjust, logprob
from llmc.pieces import Pieces
from llmc.request import Logprob, Request, Result, check, check_tokens
from llmc.tokenizer import Tokenizer


@dataclass
class Row:
    """A row of the decoder: it has read so many of the tokens it is to read."""
    number: int
    context: list[int]
    read: int = 0

    @property
    def waiting(self) -> int:
        return len(self.context) - self.read


class Text:
    """One text of a request, as far as it is written: what submit gives for each of the n."""

    def __init__(self, group: Group, stream: int):
        self.group, self.stream = group, stream
        self.tokens: list[int] = []
        self.sampled: list[bool] = []       # of each token; False: it was forced
        self.logprobs: list[Logprob | None] = []
        self.finish = ""                    # the reason, when it has ended: see Result
        self.paused = False                 # it waits for what is to be forced into it
        self.pieces = Pieces(group.request.stop, group.after_nothing)
        self.row: Row | None = None         # while it is being written

    @property
    def request(self) -> Request:
        return self.group.request

    def news(self) -> str:
        """The text that became certain since the last call."""
        return self.pieces.news()

    def result(self) -> Result:
        logprobs = self.logprobs if self.request.logprobs is not None else None
        return Result(self.pieces.text(), self.tokens, self.sampled, logprobs, self.finish)


class Group:
    """The texts of one request. The row is theirs together, while the prompt is being read.
    after_nothing: no text stands before theirs, so the space that the tokenizer puts before a text
    is not theirs."""

    def __init__(self, request: Request, after_nothing: bool):
        self.request, self.sampling, self.after_nothing = request, request.sampling(), after_nothing
        self.texts = [Text(self, request.stream + i) for i in range(request.n)]
        self.row: Row | None = None

    def living(self) -> list[Text]:
        return [text for text in self.texts if not text.finish]


class Engine:
    """Texts of a model. `rows` are written at a time, `tokens` read in one call, and keys and
    values kept in cache_bytes (None: what all rows need for a full context). `ends` are the tokens
    that end a document (None: the tokenizer's). One thread may use it.
    """

    def __init__(self, model: Model, tokenizer: Tokenizer, rows: int = 8,
                 cache_bytes: int | None = None, tokens: int = 256,
                 ends: Collection[int] | None = None):
        if rows < 1:
            raise ValueError(f"rows is {rows}, wanted 1 or more")
        if tokenizer.vocab_size > model.config.vocab_size:
            raise ValueError(f"the tokenizer has {tokenizer.vocab_size:,} symbols, but the model "
                             f"knows {model.config.vocab_size:,}; it is another model's")
        self.config, self.tokenizer, self.rows = model.config, tokenizer, rows
        self.ends = frozenset([tokenizer.eot] if ends is None else ends)
        page = page_bytes(model)
        most = rows * pages_of(model.config.max_seq_len) + rows // 2    # see pages_needed
        self.pages = most if cache_bytes is None else min(cache_bytes // page, most)
        if self.pages < 1:
            raise ValueError(f"cache_bytes is {cache_bytes:,}, but one page of {CACHE_PAGE} tokens "
                             f"takes {page:,}")
        self.tokens = max(tokens, rows)         # of one call: every row can go on in each
        self.decoder = Decoder(model, rows, self.pages, self.tokens)
        self.sampler = Sampler(model.config.vocab_size)
        self.queue: deque[Group] = deque()
        self.running: list[Group] = []          # in the order they came
        self.kept: Row | None = None            # of a text that has ended: see Request.keep

    # ---- what a caller does ----------------------------------------------------------------------

    def check(self, request: Request) -> None:
        """A ValueError for a request that cannot be served, however long it waits."""
        check(request, self.tokenizer.vocab_size, self.config.max_seq_len)
        if request.n > self.rows:
            raise ValueError(f"n is {request.n}, but {self.rows} texts are written at a time; give "
                             "the engine more rows, or make several requests")
        need = pages_needed(request, request.n, self.config.max_seq_len)
        if need > self.pages:
            raise ValueError(f"the request may need {need} pages of {CACHE_PAGE} tokens (a prompt "
                             f"of {len(request.prompt):,}, max_tokens {request.max_tokens:,}, n "
                             f"{request.n}), but the cache has {self.pages}; lower max_tokens or n,"
                             " or give the engine more cache_bytes")

    def submit(self, request: Request) -> list[Text]:
        """Take a request; its n texts grow with each step."""
        self.check(request)
        known = self.tokenizer
        group = Group(request, known.space_first and list(request.prompt) == [known.bos])
        self.queue.append(group)
        return group.texts

    def step(self) -> list[Text]:
        """One call of the decoder, if there is anything to do: the texts that got a token."""
        self._admit()
        calls = self._share()
        if not calls:
            return []
        inputs = [(row.number, row.context[row.read:row.read + count], count == row.waiting)
                  for row, _, count in calls]
        logits = iter(self.decoder.feed(inputs))
        grown: list[Text] = []
        for row, owner, count in calls:
            row.read += count
            if row.waiting:
                continue
            if isinstance(owner, Group):
                grown += self._begin(owner, next(logits))
            else:
                self._draw(owner, next(logits))
                grown.append(owner)
        return grown

    def busy(self) -> bool:
        """Whether a step would do anything."""
        self._admit()
        return bool(self._owners())

    def cancel(self, text: Text, finish: str = "cancelled") -> None:
        """End a text now; what it has stays."""
        if text.finish:
            return
        if text.group not in self.queue and text.group not in self.running:
            raise ValueError("the text is another engine's; cancel it there")
        self._end(text, finish)

    def room(self, text: Text) -> int:
        """How many tokens more a text may get."""
        request, most = text.request, text.request.max_tokens
        if not request.forget:          # the last token of all need not be read
            most = min(most, self.config.max_seq_len + 1 - len(request.prompt))
        return 0 if text.finish else most - len(text.tokens)

    def force(self, text: Text, tokens: Sequence[int]) -> None:
        """Append tokens as given; a text that is paused goes on behind them. Stop texts, stop and
        pause tokens and the end of the document mean nothing among them; they count toward
        max_tokens, and penalties see them."""
        check_tokens(tokens, "force", self.tokenizer.vocab_size)
        if text.finish:
            raise ValueError(f"the text has ended ({text.finish}); nothing can be forced into it")
        if len(tokens) > self.room(text):
            raise ValueError(f"{len(tokens):,} tokens to force, but the text may get only "
                             f"{self.room(text):,} more")
        for token in tokens:
            text.pieces.force(self.tokenizer.token_bytes(token))
            self._append(text, token, None, sampled=False)
        text.paused &= len(tokens) == 0
        self._settle(text)

    def stream(self, text: Text) -> Iterator[str]:
        """Steps until a text has ended or is paused: its pieces, as they become certain."""
        while True:
            if news := text.news():
                yield news
            if text.finish or text.paused:
                return
            self.step()

    def generate(self, requests: Sequence[Request]) -> list[list[Result]]:
        """Steps until all have ended: of each request, its n texts. None may be paused, as nobody
        would force it on."""
        for request in requests:
            self.check(request)
            if request.pause_tokens:
                raise ValueError("generate got a request with pause_tokens; submit it, step, and "
                                 "force texts on")
        texts = [self.submit(request) for request in requests]
        while any(not text.finish for group in texts for text in group):
            self.step()
        return [[text.result() for text in group] for group in texts]

    # ---- rows ------------------------------------------------------------------------------------

    def _admit(self) -> None:
        """Begin with requests of the queue, as long as the first one fits."""
        most = self.config.max_seq_len
        rows = self.rows - sum(len(group.living()) for group in self.running)
        pages = self.pages - sum(pages_needed(group.request, len(group.living()), most)
                                 for group in self.running)
        while self.queue:
            group = self.queue[0]
            count = len(group.living())
            rows, pages = rows - count, pages - pages_needed(group.request, count, most)
            if rows < 0 or pages < 0:
                return
            group.row = self._row(list(group.request.prompt))
            self.running.append(self.queue.popleft())

    def _row(self, prompt: list[int]) -> Row:
        """One to read a prompt: the one that was kept, as far as it has read the same. Whoever
        comes takes it, so that its pages are never missing."""
        kept, self.kept = self.kept, None
        if kept is None:
            return Row(self.decoder.open(), prompt)
        same = agreement(prompt[:-1], kept.context[:kept.read])
        self.decoder.rewind(kept.number, same)
        return Row(kept.number, prompt, same)

    def _leave(self, row: Row, keep: bool) -> None:
        """Nobody needs a row any longer, unless it is kept."""
        if keep:                            # instead of the one before
            row, self.kept = self.kept, row
        if row:
            self.decoder.close(row.number)

    def _owners(self) -> list[Group | Text]:
        """Whose rows have something to read."""
        owners: list[Group | Text] = []
        for group in self.running:
            owners += [group] if group.row else [text for text in group.living()
                                                 if not text.paused]
        return owners

    def _share(self) -> list[tuple[Row, Group | Text, int]]:
        """How many tokens each row reads in this call: one, and the first rows what is left."""
        owners = self._owners()
        left, calls = self.tokens - len(owners), []
        for owner in owners:
            more = min(owner.row.waiting - 1, left)
            left -= more
            calls.append((owner.row, owner, 1 + more))
        return calls

    def _begin(self, group: Group, logits: np.ndarray) -> list[Text]:
        """The prompt has been read: each text gets a row that begins with it, and a token."""
        first, group.row = group.row, None
        texts = group.living()
        for text in texts:
            number = first.number
            if text is not texts[0]:
                number = self.decoder.lend(first.number, first.read)
            text.row = Row(number, first.context + text.tokens, first.read)
        for text in texts:
            if text.tokens:             # forced while it waited; they are to be read
                self._settle(text)
            else:
                self._draw(text, logits)
        return texts

    # ---- texts -----------------------------------------------------------------------------------

    def _draw(self, text: Text, logits: np.ndarray) -> None:
        """The next token, and what follows from it."""
        request, known = text.request, self.tokenizer.vocab_size
        changed = logits.copy()
        changed[known:] = -np.inf           # rows of wte that stand for no symbol
        adjust(changed, request, text.tokens)
        token = self.sampler.draw(changed, text.group.sampling, text.stream, len(text.tokens))
        found = None if request.logprobs is None else logprob(logits[:known], token,
                                                              request.logprobs)
        self._append(text, token, found, sampled=True)
        if token in self.ends:
            self._end(text, "eot")
        elif token in request.stop_tokens:
            self._end(text, "stop")
        else:
            text.pieces.add(self.tokenizer.token_bytes(token))
            self._settle(text)
            text.paused = not text.finish and token in request.pause_tokens

    def _append(self, text: Text, token: int, found: Logprob | None, sampled: bool) -> None:
        text.tokens.append(token)
        text.sampled.append(sampled)
        text.logprobs.append(found)
        if text.row:
            text.row.context.append(token)

    def _settle(self, text: Text) -> None:
        """A text with new tokens ends, or forgets, or goes on."""
        row, most = text.row, self.config.max_seq_len
        if text.pieces.stopped:
            self._end(text, "stop")
        elif len(text.tokens) >= text.request.max_tokens:
            self._end(text, "length")
        elif len(text.request.prompt) + len(text.tokens) > most and not text.request.forget:
            self._end(text, "context")
        elif row and len(row.context) > most:
            while len(row.context) > most:          # as if the tokens had come one by one
                del row.context[:most + 1 - max(most // 2, 1)]
            self.decoder.rewind(row.number, 0)
            row.read = 0

    def _end(self, text: Text, finish: str) -> None:
        text.finish, text.paused = finish, False
        text.pieces.end()
        if text.row:
            self._leave(text.row, text.request.keep)
            text.row = None
        group = text.group
        if group.living():
            return
        if group.row:
            self._leave(group.row, group.request.keep)
            group.row = None
        if group in self.running:
            self.running.remove(group)
        else:
            self.queue.remove(group)


def page_bytes(model: Model) -> int:
    """What CACHE_PAGE tokens of one row take."""
    return decoder_page_bytes(model.config, model.dtype)


def agreement(one: Sequence, other: Sequence) -> int:
    """How many elements of two sequences agree before the first that differs."""
    return next((i for i, (a, b) in enumerate(zip(one, other)) if a != b),
                min(len(one), len(other)))


def pages_of(tokens: int) -> int:
    return -(-tokens // CACHE_PAGE)


def pages_needed(request: Request, texts: int, max_seq_len: int) -> int:
    """The most pages that so many texts of a request hold at a time: those the prompt fills are
    shared, unless the context may be forgotten. One more is for the page that the prompt fills in
    part: until each text has its copy, the decoder asks for room for one that is not made."""
    begin, end = len(request.prompt), len(request.prompt) + request.max_tokens
    shared = 0 if request.forget and end > max_seq_len else begin // CACHE_PAGE
    copied = request.n > 1 and begin % CACHE_PAGE > 0
    return shared + copied + texts * (pages_of(min(end, max_seq_len)) - shared)
