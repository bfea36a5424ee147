"""Text that reads like English to a filter: words as frequent as Zipf's law has them, many of them English's commonest,
in sentences and lines; the same for the same seed."""
from __future__ import annotations

import numpy as np

COMMON = ("the of and to in a is that for it was with as on be by at this have from or his her they you not are but "
          "an which we had their one all there been if has will more when who out so said what about up its into "
          "than them can only other time new some these two may then do first any my now such like over our even "
          "most me after also made many before must through back years where much your way well down should because "
          "each just those people how too little state good very make world still own see men work long get here "
          "between both life being under never day same another know while last might us great old year off come "
          "since against go came right used take three").split()
SYLLABLES = "ba con de fer gar hin is jo ker lan men nor ous per quin ra ster tion un vel wen yar zo ment ing".split()
VOCABULARY = 20_000


class Writer:
    def __init__(self, seed: int):
        self.rng = np.random.default_rng(seed)
        others = {"".join(row[:length]) for row, length in zip(
            self.rng.choice(SYLLABLES, (2 * VOCABULARY, 4)), self.rng.integers(2, 5, 2 * VOCABULARY))}
        self.words = np.array([*COMMON, *self.rng.permutation(sorted(others - set(COMMON)))[:VOCABULARY - len(COMMON)]])
        share = 1 / np.arange(3, 3 + len(self.words))
        share[:len(COMMON)] *= 2                # fastText takes less for other languages
        self._sum = np.cumsum(share / share.sum())

    def take(self, count: int) -> list[str]:
        """So many words, each drawn by its frequency."""
        return self.words[np.searchsorted(self._sum, self.rng.random(count))].tolist()

    def text(self, words: int) -> str:
        """Sentences of 8 to 20 words, three in a line."""
        drawn, sentences = self.take(words), []
        while drawn:
            length = int(self.rng.integers(8, 21))
            sentences.append(" ".join(drawn[:length]).capitalize() + ".")
            drawn = drawn[length:]
        return "\n".join(" ".join(sentences[i:i + 3]) for i in range(0, len(sentences), 3))
