"""The steps that keep a document, change it, or drop it with one reason.

A step has a name, options with the values published for it, and builds a block of datatrove's. The
comment behind an option is its help. Where the published pipeline leaves a value to datatrove, the
default here is datatrove's.

    [1] G. Penedo et al., "The FineWeb Datasets", 2024, https://arxiv.org/abs/2406.17557, and the
        script they published with datatrove, examples/fineweb.py
    [2] J. Rae et al., "Scaling Language Models: ... Gopher", 2021, tables A1 and A2,
        https://arxiv.org/abs/2112.11446
    [3] C. Raffel et al., "Exploring the Limits of Transfer Learning ...", 2020, section 2.2,
        https://arxiv.org/abs/1910.10683 (C4)
    [4] T. Brown et al., "Language Models are Few-Shot Learners", 2020, appendix C,
        https://arxiv.org/abs/2005.14165
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from llmc.cli import Count, CountOrZero, Range


class Check(NamedTuple):
    """What a value has to be, in the type of an option."""
    holds: Callable[[Any], bool]
    wanted: str


def _has_words(language: str) -> bool:
    from datatrove.utils.word_tokenizers import load_tokenizer_assignments

    return language in load_tokenizer_assignments()


File = Annotated[Path, Check(Path.is_file, "a file that is there")]
There = Annotated[Path, Check(Path.exists, "a file or folder that is there")]
WordsOf = Annotated[str, Check(_has_words, "a language whose words datatrove knows, as eng is one")]
Some = Annotated[list[str], Check(bool, "at least one, [A, B]")]
Fraction = Annotated[float, Range(0, 1)]
Ratio = Annotated[float, Range(0, 1e9)]
OrAny = Annotated[int, Range(-1, 2**31 - 1)]
Score = Annotated[float, Range(-1e9, 1e9)]
Seconds = Annotated[float, Range(0.01, 1e6)]
Few = Annotated[int, Range(1, 1000)]


@dataclass
class Step:
    """Options are the fields of its subclasses; a field that is None turns its rule off."""
    name: ClassVar[str]

    def prepare(self, work: Path) -> None:
        """What has to lie under work/ before the block is built."""

    def block(self, dropped: Any) -> Any:
        """datatrove's block; `dropped` writes the documents that it drops."""
        raise NotImplementedError


class Duplicates(Step):
    """A step that has to see all documents before it drops one, in phases of its own."""

    def blocks(self, sources: list[str], folder: Path, dropped: Any) -> tuple[Any, list[Any], Any]:
        """The block that signs documents; name, block and tasks of the phases that compare the
        signatures, without documents; and the filter. sources: all files, in order; folder: for
        what the phases tell one another."""
        raise NotImplementedError


@dataclass
class Url(Step):
    """Pages of blocked sites: malware, adult, … by lists of domains, of urls and of words.
    Documents that name no url are kept."""
    name = "url"
    lists: bool = True          # the UT1 lists and the words that datatrove ships [1]
    domains: File | None = None     # a file of more domains, one a line
    urls: File | None = None        # a file of more urls
    words: File | None = None       # a file of more words that no url may have
    soft_words: Count = 2       # so many of the doubtful words drop a page [1]

    def block(self, dropped: Any) -> Any:
        from llmc.web.urls import UrlFilter, extractor

        def lines(path: Path | None) -> list[str] | None:
            return path.read_text(encoding="utf-8").split() if path else None

        block = UrlFilter(soft_word_threshold=self.soft_words, extra_domains=lines(self.domains),
                          extra_urls=lines(self.urls), banned_words=lines(self.words),
                          use_integrated_lists=self.lists, exclusion_writer=dropped)
        block.tldextractor = extractor()
        return block


@dataclass
class Extract(Step):
    """The text of a page, out of its HTML; text passes as it is. Pages without any are dropped."""
    name = "extract"
    by: Literal["trafilatura", "resiliparse"] = "trafilatura"   # [1]; resiliparse is ten times as
                                # fast, and leaves three times as much of menus and the like
    precision: bool = True      # trafilatura: rather too little than too much [1]
    seconds: Seconds = 60       # on one page; [1] has 1, which drops other pages on busy machines
    declared: bool = False      # believe what a page says of its type and charset where datatrove's
                                # reader loses it

    def block(self, dropped: Any) -> Any:
        from llmc.web.extract import ByResiliparse, ByTrafilatura

        if self.by == "resiliparse":
            block = ByResiliparse(self.seconds)
        else:
            block = ByTrafilatura(favour_precision=self.precision, timeout=self.seconds)
        block.exclusion_writer = dropped
        return block


@dataclass
class Language(Step):
    """Documents in other languages, or in none that is clear, by fastText's lid.176."""
    name = "language"
    languages: Some | None = field(default_factory=lambda: ["en"])      # codes; null: any
    threshold: Fraction = 0.65  # the score that a document has to exceed [1]

    def block(self, dropped: Any) -> Any:
        from llmc.web.language import LanguageStep

        return LanguageStep(self.languages, self.threshold, exclusion_writer=dropped)


@dataclass
class Repetition(Step):
    """Text that repeats itself: lines, paragraphs, n-grams [2]."""
    name = "gopher_repetition"
    language: WordsOf = "eng"   # whose words are counted
    dup_line_frac: Fraction | None = 0.3        # of lines that occurred before [2]
    dup_para_frac: Fraction | None = 0.3        # of paragraphs [2]
    dup_line_char_frac: Fraction | None = 0.2   # of characters, in such lines [2]
    dup_para_char_frac: Fraction | None = 0.2   # of characters, in such paragraphs [2]
    top_n_grams: dict[Few, Fraction] = field(  # the most frequent n-gram's share of characters [2]
        default_factory=lambda: {2: 0.2, 3: 0.18, 4: 0.16})
    dup_n_grams: dict[Few, Fraction] = field(  # repeated n-grams' share of characters [2]
        default_factory=lambda: {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.1})

    def block(self, dropped: Any) -> Any:
        from datatrove.pipeline.filters import GopherRepetitionFilter

        options = asdict(self)
        for key in ("top_n_grams", "dup_n_grams"):
            options[key] = tuple(sorted(options[key].items()))
        return GopherRepetitionFilter(exclusion_writer=dropped, **options)


@dataclass
class Quality(Step):
    """Text that does not read like prose: too short, odd words, bullets, few stop words [2]."""
    name = "gopher_quality"
    language: WordsOf = "eng"   # whose words are counted
    min_doc_words: CountOrZero | None = 50      # [2]
    max_doc_words: CountOrZero | None = 100_000     # [2]
    min_avg_word_length: Ratio | None = 3       # letters [2]
    max_avg_word_length: Ratio | None = 10      # [2]
    max_symbol_word_ratio: Ratio | None = 0.1   # of # and … to words [2]
    max_bullet_lines_ratio: Ratio | None = 0.9      # lines that begin with a bullet [2]
    max_ellipsis_lines_ratio: Ratio | None = 0.3    # lines that end with … [2]
    max_non_alpha_words_ratio: Ratio | None = 0.8   # words with a letter, at least [2]
    min_stop_words: CountOrZero | None = 2      # of the, be, to, of, and, that, have, with [2]

    def block(self, dropped: Any) -> Any:
        from datatrove.pipeline.filters import GopherQualityFilter

        return GopherQualityFilter(exclusion_writer=dropped, **asdict(self))


@dataclass
class C4(Step):
    """C4's rules for lines and pages [3]; lines without an end mark are kept, as [1] has it."""
    name = "c4"
    language: WordsOf = "eng"
    filter_no_terminal_punct: bool = False      # true in [3]; [1] lost too much by it
    min_num_sentences: OrAny = 5                # -1: any [3]
    min_words_per_line: OrAny = 3               # -1: any [3]
    max_word_length: OrAny = 1000               # characters; -1: any
    remove_citations: bool = True               # Wikipedia's [1], [edit], … [3]
    filter_lorem_ipsum: bool = True             # [3]
    filter_javascript: bool = True              # lines that ask for it [3]
    filter_curly_bracket: bool = True           # pages of code [3]
    filter_policy: bool = True                  # lines of cookie and privacy notices [3]

    def block(self, dropped: Any) -> Any:
        from llmc.web.lines import C4Filter

        return C4Filter(exclusion_writer=dropped, **asdict(self))


@dataclass
class FineWeb(Step):
    """FineWeb's own rules: end marks, short lines, repeated characters, line breaks [1]."""
    name = "fineweb_quality"
    language: WordsOf = "eng"
    line_punct_thr: Ratio = 0.12                # lines that end with an end mark, at least [1]
    short_line_thr: Ratio = 0.67                # lines of at most short_line_length, at most [1]
    short_line_length: Count = 30               # characters [1]
    char_duplicates_ratio: Ratio = 0.01         # of characters, in lines that occurred before [1]
    new_line_ratio: Ratio = 0.3                 # line breaks a word, at most [1]

    def block(self, dropped: Any) -> Any:
        from datatrove.pipeline.filters import FineWebQualityFilter

        return FineWebQualityFilter(exclusion_writer=dropped, **asdict(self))


@dataclass
class MinHash(Duplicates):
    """Near-duplicates: of documents whose n-grams' hashes agree in a bucket one is kept. Two of
    Jaccard similarity J meet with probability 1 - (1 - J**hashes)**buckets (A. Broder, "On the
    resemblance and containment of documents", 1997)."""
    name = "minhash"
    language: WordsOf = "eng"   # whose words make the n-grams
    n_grams: Few = 5            # words of one [1]
    buckets: Few = 14           # [1]
    hashes: Few = 8             # of a bucket [1]

    def blocks(self, sources: list[str], folder: Path, dropped: Any) -> tuple[Any, list[Any], Any]:
        from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupFilter
        from datatrove.pipeline.dedup.minhash import MinhashConfig
        from datatrove.utils.hashing import HashConfig

        from llmc.web.near import Clusters, Signatures

        signatures, buckets, remove = (str(folder / each)
                                       for each in ("signatures", "buckets", "remove"))
        config = MinhashConfig(n_grams=self.n_grams, num_buckets=self.buckets,
                               hashes_per_bucket=self.hashes,
                               hash_config=HashConfig(precision=64, hash_fc="sha1"))
        between = [
            ("buckets", MinhashDedupBuckets(signatures, buckets, config=config), self.buckets),
            ("clusters", Clusters(buckets, remove, config), 1)]
        return (Signatures(signatures, config, self.language), between,
                MinhashDedupFilter(remove, exclusion_writer=dropped))


@dataclass
class Exact(Duplicates):
    """Exact duplicates: the same words in the same order; the first in the sources is kept."""
    name = "exact"
    same_numbers: bool = True   # false: texts that differ in digits alone are the same

    def blocks(self, sources: list[str], folder: Path, dropped: Any) -> tuple[Any, list[Any], Any]:
        from llmc.web.exact import exact_dedup

        sign, match, block = exact_dedup(sources, str(folder), 1, self.same_numbers, dropped)
        return sign, [("matches", match, 1)], block


@dataclass
class Decontaminate(Step):
    """Documents that share an n-gram with an evaluation set, named in the reason."""
    name = "decontaminate"
    sets: list[There] = field(default_factory=list)    # files and folders: .jsonl, .txt, .md
    n_gram: Few = 13            # words [4]

    def prepare(self, work: Path) -> None:
        """The index of the sets, which the block reads."""
        from llmc.web.decontaminate import Index

        if not self.sets:
            raise ValueError("decontaminate has no evaluation sets; wanted files or folders, as in "
                             "--set decontaminate.sets=[evals/]")
        self.index = work / "decontaminate.index"
        Index.build(self.sets, self.n_gram).save(self.index)

    def block(self, dropped: Any) -> Any:
        from llmc.web.decontaminate import Decontaminate as Filter

        return Filter(self.index, exclusion_writer=dropped)


@dataclass
class Personal(Step):
    """Personal data, masked; FineWeb masks e-mail and public IP addresses [1]."""
    name = "personal"
    action: Literal["mask", "drop"] = "mask"    # drop: documents that hold any
    email: bool = True
    ip: bool = True             # public ones, of version 4
    ipv6: bool = False          # public ones, of version 6
    phone: bool = False         # as written in phone_regions, or with + and the country's code
    ssn: bool = False           # US social security numbers
    card: bool = False          # of payment cards, checked by Luhn's sum
    iban: bool = False          # of bank accounts, checked by their sum
    address: bool = False       # postal, of the US: house, street, city, state, ZIP code
    phone_regions: list[str] = field(default_factory=lambda: ["US"])    # countries
    spare_versions: bool = False    # leave what is rather a version than an IP address

    def block(self, dropped: Any) -> Any:
        from llmc.web.personal import EXAMPLES, PersonalData

        masks = {kind: mask if getattr(self, kind) else None for kind, mask in EXAMPLES.items()}
        return PersonalData(self.action, **masks, phone_regions=self.phone_regions,
                            spare_versions=self.spare_versions, exclusion_writer=dropped)


@dataclass
class Scores(Step):
    """Documents of low quality: their score is one they carry, such as FineWeb-Edu's, or one that a
    classifier gives, see llmc train_quality."""
    name = "quality"
    model: There | None = None  # folder of a classifier; null: documents carry scores
    field: str | None = None    # that holds the score; null: int_score, or else score, rounded
    threshold: Score | None = None  # scores kept, at least; null: 3 [1, section 4], or what the
                                # classifier learned with

    def prepare(self, work: Path) -> None:
        """The classifier is there, and whole."""
        from llmc.web import quality

        if self.model:
            quality.about(self.model)

    def block(self, dropped: Any) -> Any:
        from llmc.web import quality

        model = self.model and self.model.resolve()
        threshold = self.threshold
        if threshold is None:
            threshold = quality.about(model)["threshold"] if model else quality.EDU
        return quality.QualityFilter(threshold, model, self.field, dropped)
