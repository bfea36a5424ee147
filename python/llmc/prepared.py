"""A folder of shards as the stages that make them leave it: whole, in place of what was there."""
from __future__ import annotations

import os
import re
from pathlib import Path

from llmc.tokenizer import Tokenizer

SPLITS = ("train", "val")
SHARD_NAME = re.compile(r"(.+)_(?:train|val)(?:_\d+)?\.bin")


LONGEST_NAME = 200              # bytes; file systems have 255 for a whole name


def shard_name(name: str, out: Path) -> str:
    """What shards are called: the name given, or else the folder's; a ValueError if no file can be
    called so."""
    name = name or out.resolve().name
    if (not name.strip(". ") or Path(name).name != name or len(name.splitlines()) > 1
            or len(os.fsencode(name)) > LONGEST_NAME):
        raise ValueError(f"shards cannot be called {name!r}, as a part of a file's name; give "
                         "another --name")
    return name


def old_shards(out: Path, name: str, tokenizer: Tokenizer, overwrite: bool,
               flag: str = "--overwrite") -> list[Path]:
    """The shards to be replaced; a ValueError if there are any that must not be. flag: what allows
    it."""
    named = {path: SHARD_NAME.fullmatch(path.name) for path in sorted(out.glob("*.bin"))}
    mine = [path for path, match in named.items() if match and match[1] == name]
    others = [path for path, match in named.items() if match and match[1] != name]
    if others:
        raise ValueError(f"{others[0]} is of another data set, and training on {out} would mix "
                         "the two; choose another --out")
    if mine and not overwrite:
        raise ValueError(f"{mine[0]} is there already; {flag} replaces it and its like")
    json_path = out / "tokenizer.json"
    if json_path.is_file() and not overwrite and json_path.read_bytes() != tokenizer.to_json():
        raise ValueError(f"{json_path} is another tokenizer than {tokenizer.name}, or the same "
                         f"written otherwise; {flag} replaces it, another --out keeps it")
    return mine


def put_in_place(folder: Path, out: Path, old: list[Path]) -> None:
    """The new files where the old ones were. While prepared.json is there, so are all others."""
    (out / "prepared.json").unlink(missing_ok=True)
    for path in old:
        path.unlink()
    for path in sorted(folder.iterdir(), key=lambda path: path.name == "prepared.json"):
        path.replace(out / path.name)
