"""Files as the commands leave them: whole or not there, named when they are damaged, and one
program at a time in a folder."""
from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


def read_json(path: Path, wanted: dict[str, type], advice: str) -> dict[str, Any]:
    """The object in a JSON file, which has the keys wanted, each of its type. Otherwise a
    ValueError names the file, says what was found and gives the advice."""
    try:
        return parse_json(path.read_bytes(), str(path), wanted)
    except ValueError as error:
        raise ValueError(f"{error}; {advice}") from error


def parse_json(raw: bytes, where: str, wanted: dict[str, type]) -> dict[str, Any]:
    """The same of bytes; `where` names their place."""
    try:
        data = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is no JSON: {json_fault(error)}") from error
    if type(data) is not dict:
        raise ValueError(f"{where} holds {type(data).__name__}, wanted an object")
    for key, kind in wanted.items():
        if type(data.get(key)) is not kind:
            found = type(data[key]).__name__ if key in data else "missing"
            raise ValueError(f"{where}: {key!r} is {found}, wanted {kind.__name__}")
    return data


def json_fault(error: Exception) -> str:
    """What json.loads complains of. Of one line the column alone, whose line the caller knows."""
    if not isinstance(error, json.JSONDecodeError):
        return str(error)
    whole = error.doc.rstrip()
    if "\n" in whole:
        return f"{error.msg} at line {error.lineno}, column {error.colno}"
    return f"{error.msg} at column {min(error.pos, len(whole)) + 1}"


def write_whole(path: Path, data: bytes) -> None:
    """The file with this in it, or what was there before."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with unfinished.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError as error:
        error.filename = str(path)              # the one that was asked for
        raise
    finally:
        with suppress(OSError):
            unfinished.unlink()


def check_new(path: Path, flag: str, overwrite: bool, ending: str = "") -> None:
    """A ValueError where a file that a flag asks for cannot be made, is there and is to stay, or
    lacks the ending by which others know what it holds."""
    if ending and path.suffix != ending:
        raise ValueError(f"{flag} is {path}, wanted a name that ends in {ending}: what reads such "
                         "files knows them by it")
    if path.is_dir():
        raise ValueError(f"{flag} is {path}, which is a folder; give the name of a file")
    if path.exists() and not overwrite:
        raise ValueError(f"{path} is there already; --overwrite replaces it")
    above = next(each for each in path.absolute().parents if each.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        what = "cannot be written to" if above.is_dir() else "is no folder"
        raise ValueError(f"{flag} is {path}, but {above} {what}; give another place")


def sha256(path: Path) -> str:
    """Of a file's bytes, in hexadecimal digits; a part of them is in memory at a time."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


@contextmanager
def naming(path: object) -> Iterator[None]:
    """An OSError that names no file names this one: a full disk does not say what was written."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """A folder, made if it is missing, that no other program writes to meanwhile; one that was made
    in vain goes again. The lock ends with the program, however that ends."""
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:                # not every file system has locks
            if error.errno == errno.EWOULDBLOCK:
                raise ValueError(f"{folder}: another program is writing there; wait for it, or "
                                 "give another --out") from error
        yield
    finally:
        if made and not any(folder.iterdir()):
            folder.rmdir()
        os.close(handle)
