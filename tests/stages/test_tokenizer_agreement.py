"""What train_tokenizer learns means the same to tiktoken, to Hugging Face's library and to the C detokenizer, on texts
of many scripts and on any bytes. tiktoken is built here from the merges that the file lists."""
from __future__ import annotations

import json
import random
import unicodedata
import zipfile
from pathlib import Path

import pytest
import tiktoken
import tokenizers

from llmc import cli
from llmc.encodings import CHAT_TOKENS, EOT, byte_characters
from llmc.tokenizer import Tokenizer
from llmc.tokenizer_samples import SAMPLES
from llmc.train_tokenizer import PATTERNS, TrainTokenizer, run

SCRIPTS = ("LATIN", "CYRILLIC", "GREEK", "ARABIC", "HEBREW", "DEVANAGARI", "BENGALI", "TAMIL", "THAI", "LAO", "TIBETAN",
           "MYANMAR", "KHMER", "ETHIOPIC", "ARMENIAN", "GEORGIAN", "CHEROKEE", "MONGOLIAN", "HANGUL", "HIRAGANA", "KATAKANA",
           "CJK UNIFIED", "BOPOMOFO", "GOTHIC", "CUNEIFORM", "EGYPTIAN", "MATHEMATICAL", "MUSICAL", "COMBINING", "DIGIT")
BYTE_OF = {character: byte for byte, character in enumerate(byte_characters())}


class Three:
    """One learned tokenizer as each of the three reads it."""

    def __init__(self, core, path: Path):
        data = json.loads(path.read_bytes())
        vocab, added = data["model"]["vocab"], {token["content"]: token["id"] for token in data["added_tokens"]}
        pairs = [merge.split(" ") for merge in data["model"]["merges"]]
        ranks = {bytes([BYTE_OF[c]]): vocab[c] for c in BYTE_OF}
        ranks |= {bytes(BYTE_OF[c] for c in a + b): vocab[a + b] for a, b in pairs}
        assert len(ranks) + len(added) == len(vocab)
        pattern = data["pre_tokenizer"].get("pretokenizers", [{}])[0].get("pattern", {}).get("Regex", PATTERNS["gpt2"])
        self.tiktoken = tiktoken.Encoding("learned", pat_str=pattern, mergeable_ranks=ranks, special_tokens=added)
        self.library = tokenizers.Tokenizer.from_file(str(path))
        self.c = core.Detokenizer(str(path))
        self.ours = Tokenizer.load(path)

    def check(self, text: str) -> None:
        ids = self.tiktoken.encode_ordinary(text)
        self.library.encode_special_tokens = True       # names in a text are text
        assert self.library.encode(text).ids == ids == self.ours.encode(text)
        self.gives(ids, text.encode())

    def gives(self, ids: list[int], raw: bytes) -> None:
        assert b"".join(map(self.c.bytes, ids)) == raw == self.ours.decode_bytes(ids) == self.tiktoken.decode_bytes(ids)


@pytest.fixture(scope="module", params=["gpt2", "gpt4", "gpt4o"])
def three(request, core, tmp_path_factory) -> Three:
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "a.txt").write_text("\n".join(SAMPLES.values()) * 20)
    assert cli.guarded(lambda: run(TrainTokenizer([folder / "a.txt"], folder, 2000, split=request.param,
                                                  special="chat"))) == 0
    return Three(core, folder / "tokenizer.json")


def alphabet(script: str) -> list[str]:
    """Characters of a script, by the names that Unicode gives them."""
    named = (chr(point) for point in range(0x20, 0x1F700) if script in unicodedata.name(chr(point), ""))
    return [character for character, _ in zip(named, range(400))]


def test_texts_of_many_scripts_have_the_same_ids(three):
    draw = random.Random(11)
    for text in SAMPLES.values():
        three.check(text)
    for script in SCRIPTS:
        letters = alphabet(script)
        assert len(letters) >= 10, script
        for _ in range(20):
            words = ("".join(draw.choices(letters, k=draw.randint(1, 12))) for _ in range(30))
            three.check("".join(word + draw.choice([" ", " ", "  ", ", ", "\n", "\r\n", "\t", "'s ", "1234", ""])
                                for word in words))


def test_any_characters_have_the_same_ids(three):
    draw = random.Random(12)
    for _ in range(2000):
        points = [draw.choice((draw.randrange(0x80), draw.randrange(0xD800), draw.randrange(0xE000, 0x110000)))
                  for _ in range(draw.randint(1, 40))]
        # what Unicode has not assigned yet, the three may take for letters or not
        three.check("".join(c for c in map(chr, points) if unicodedata.category(c) != "Cn"))


def test_ten_thousand_strings_of_any_bytes_have_the_same_ids_and_come_back(three):
    spelling = byte_characters()
    draw = random.Random(13)
    common = [token for token in three.ours.ranks if len(token) > 1]
    for _ in range(10_000):
        raw = b"".join(draw.choice((draw.randbytes(draw.randint(1, 9)), draw.choice(common)))
                       for _ in range(draw.randint(1, 8)))
        ids = [token.id for token in three.library.model.tokenize("".join(spelling[byte] for byte in raw))]
        assert three.tiktoken._encode_single_piece(raw) == ids
        three.gives(ids, raw)


def test_special_tokens_have_the_same_ids_where_they_are_asked_for(three):
    three.library.encode_special_tokens = False
    for name in (EOT, *CHAT_TOKENS):
        three.check(f"a {name} b")
        three.library.encode_special_tokens = False
        text = f"{name}a{name}{name} b"
        ids = three.ours.encode(text, "all")
        assert three.library.encode(text).ids == ids == three.tiktoken.encode(text, allowed_special="all")
        assert ids.count(three.ours.special[name]) == 3
        three.gives(ids, text.encode())


@pytest.mark.shared
def test_the_declaration_of_human_rights_has_the_same_ids_in_every_language(three, shared):
    codecs = {"UTF8": "utf-8", "Latin1": "latin-1", "Latin2": "iso8859-2", "Cyrillic": "windows-1251", "Greek": "iso8859-7",
              "Hebrew": "iso8859-8", "Arabic": "iso8859-6", "SJIS": "shift-jis", "EUC": "euc-jp", "GB2312": "gb2312"}
    seen = 0
    with zipfile.ZipFile(shared / "data/corpora/nltk/udhr.zip") as archive:
        for name in archive.namelist():
            if not name.endswith("/"):
                codec = codecs.get(name.rsplit("-", 1)[-1], "latin-1")
                three.check(archive.read(name).decode(codec, "replace"))
                seen += 1
    assert seen > 300
