"""A command out of a dataclass: its fields are the flags, the comments beside them the help.

A stage is `def run(config: Plot) -> None` and ends in `if __name__ == "__main__": cli.main(run)`;
`llmc plot` and `python -m llmc.plot` are then the same. What a user can do wrong is a ValueError,
an OSError or the engine's LlmcError: one line on stderr, exit status 1. LLMC_DEBUG=1 shows where.
"""
from __future__ import annotations

import argparse
import dataclasses
import difflib
import inspect
import io
import math
import os
import re
import signal
import sys
import tokenize
import types
import typing
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NamedTuple, NoReturn

from llmc import disk

POSITIONAL, REST = "positional", "rest"
PLAIN = "\0"                    # marks what argparse shall take for a value; no argument holds it


class Range(NamedTuple):
    """What a number may be, in the type of a field: `Annotated[int, Range(1, 9)]`."""
    least: float
    most: float


Count = Annotated[int, Range(1, 2**31 - 1)]
CountOrZero = Annotated[int, Range(0, 2**31 - 1)]
Threads = Annotated[int, Range(0, 4096)]
Seed = Annotated[int, Range(0, 9 * 10**15)]


def positional(default: Any = dataclasses.MISSING) -> Any:
    """A field that is given by its place, not by a flag; a list[...] takes all that are left."""
    return _special_field(POSITIONAL, default)


def rest() -> Any:
    """A list[str] field that takes every argument no flag of this command knows, in order."""
    return _special_field(REST, ())


def main(run: Callable[[Any], None], argv: Sequence[str] | None = None) -> NoReturn:
    """Run a stage as a program: arguments to its configuration, and the exit status."""
    sys.exit(guarded(lambda: run(parse(config_class(run), argv, program(run)))))


def guarded(function: Callable[[], None]) -> int:
    """Call it; the exit status: 0, 1 after one line about what is wrong, 130 after Ctrl-C. Asked to
    end by SIGTERM, or SIGHUP, it leaves as an exception does: what is unfinished is removed."""
    _open_streams()
    try:
        with _signals_raise():
            function()
            with disk.naming("standard output"):
                sys.stdout.flush()
        return 0
    except KeyboardInterrupt:
        print("llmc: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:             # the reader of our output left, as `head` does
        _drop_output()
        return 1
    except Exception as error:
        if os.environ.get("LLMC_DEBUG") or not is_users(error):
            raise
        print(f"llmc: {sentence(error)}", file=sys.stderr)
        _drop_output()
        return 1


def sentence(error: Exception) -> str:
    """What went wrong in one line."""
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    elif isinstance(error, ImportError) and "_core" in str(error):
        text = f"the engine is not built; run `make setup` ({error})"
    else:
        text = str(error) or type(error).__name__
    return re.sub(r"\s*\n\s*", " ", text.strip())


def config_class(run: Callable[[Any], None]) -> type:
    """The dataclass that a stage's run takes."""
    hints = typing.get_type_hints(run)
    return next(hint for name, hint in hints.items() if name != "return")


def program(run: Callable[[Any], None]) -> str:
    """What a stage is called: `llmc plot`."""
    spec = sys.modules[run.__module__].__spec__
    return (spec.name if spec else run.__module__).replace(".", " ")


def parse(config: type, argv: Sequence[str] | None = None, prog: str | None = None) -> Any:
    """An instance of the dataclass `config` out of arguments, or a ValueError. `given` names the
    fields that were."""
    parser = _Parser(prog=prog, description=inspect.getdoc(config), allow_abbrev=False,
                     formatter_class=_Formatter)
    parser.more_help = getattr(config, "more_help", None)
    fields = dataclasses.fields(config)
    hints = typing.get_type_hints(config, include_extras=True)
    comments = field_comments(config)
    for field in fields:
        if REST not in field.metadata:
            _add(parser, field, hints[field.name], comments.get(field.name, ""))
    takes_rest = next((field.name for field in fields if REST in field.metadata), None)
    known = [flag for flag in parser._option_string_actions if flag.startswith("--")]
    args = _for_argparse(sys.argv[1:] if argv is None else argv, parser)
    if takes_rest is None:
        for flag in (arg.split("=", 1)[0] for arg in args if arg.startswith("--")):
            if flag not in known:
                raise ValueError(f"unknown flag {flag}{nearest(flag, known)}")
    values, left = parser.parse_known_intermixed_args(args)
    left = [arg.removeprefix(PLAIN) for arg in left]
    if takes_rest is not None:
        setattr(values, takes_rest, left)
    elif left:
        raise ValueError(f"unexpected argument {left[0]!r}; see {parser.prog} --help")
    for name, value in vars(values).items():
        limits = next(iter(getattr(hints[name], "__metadata__", ())), None)
        if limits and not limits.least <= value <= limits.most:
            raise ValueError(f"--{name} is {value}, wanted {limits.least} to {limits.most}")
    made = config(**vars(values))
    made.given = frozenset(vars(values))
    return made


def arguments(made: Any, names: Collection[str]) -> list[str]:
    """What parse makes these fields of."""
    placed, flags = [], []
    for field in dataclasses.fields(made):
        value = getattr(made, field.name)
        if field.name not in names or value is None:
            continue
        values = list(map(str, value)) if isinstance(value, (list, tuple)) else [str(value)]
        if POSITIONAL in field.metadata:
            placed += values
        elif isinstance(value, bool):
            flags.append(f"--{'' if value else 'no-'}{field.name}")
        else:
            flags += [f"--{field.name}={each}" for each in values]
    return [*flags, "--", *placed] if placed else flags


def nearest(word: str, known: Iterable[str]) -> str:
    """"; did you mean …?", or nothing where no known word is near."""
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {found[0]}?" if found else ""


def field_comments(config: type) -> dict[str, str]:
    """Of each field of a dataclass, the comment at its line's end; lines of comment below go on."""
    comments: dict[str, str] = {}
    for cls in reversed(config.__mro__):
        if not dataclasses.is_dataclass(cls):
            continue
        field, indent, margin = None, 0, 0
        source = inspect.cleandoc("\n" + inspect.getsource(cls))
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            indent += (token.type == tokenize.INDENT) - (token.type == tokenize.DEDENT)
            if token.type == tokenize.NAME and indent == 1:
                name = re.match(r"(\s*)(\w+)\s*:", token.line)
                field, margin = (name[2], len(name[1])) if name else (None, 0)
            elif token.type == tokenize.COMMENT and field and token.start[1] > margin:
                text = token.string.lstrip("#").strip()
                comments[field] = f"{comments.get(field, '')} {text}".strip()
    return comments


def whole_number(text: str) -> int:
    """An int, also as 1_000, 1e6, 32K, 100M or 2B (powers of a thousand)."""
    powers = {"K": 10**3, "M": 10**6, "B": 10**9, "G": 10**9}
    try:
        scale = powers.get(text[-1:].upper(), 1)
        plain = text[:-1] if scale > 1 else text
        number = float(plain) * scale if re.search(r"[.eE]", plain) else int(plain) * scale
        if number == int(number):
            return int(number)
    except (ValueError, OverflowError):
        pass
    raise argparse.ArgumentTypeError(f"{text!r} is no whole number")


def real_number(text: str) -> float:
    """A float that is finite."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"{text!r} is no number")
    return number


def path(text: str) -> Path:
    """A path; an empty one, as an unset variable of a shell gives, would be the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("the path is empty")
    return Path(text)


class _Formatter(argparse.HelpFormatter):
    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=32)


class _Parser(argparse.ArgumentParser):
    more_help: Callable[[], str] | None = None      # of what the rest() of the flags may be

    def format_help(self) -> str:
        return super().format_help() + (f"\n{self.more_help()}" if self.more_help else "")

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        return super()._get_value(action, arg_string.removeprefix(PLAIN))

    def error(self, message: str) -> NoReturn:
        message = message.removeprefix("argument ")
        message = message.replace("the following arguments are required:", "missing:")
        raise ValueError(f"{message}; see {self.prog} --help")


def _special_field(kind: str, default: Any) -> Any:
    if isinstance(default, (list, tuple)):
        return dataclasses.field(default_factory=lambda: list(default), metadata={kind: True})
    return dataclasses.field(default=default, metadata={kind: True})


def _add(parser: argparse.ArgumentParser, field: dataclasses.Field, hint: Any, text: str) -> None:
    """One field as one argument. Defaults stay with the dataclass: what is not given is not set."""
    if field.default_factory is not dataclasses.MISSING:
        default = field.default_factory()
    else:
        default = field.default
    kind, many = _kind(hint)
    silent = default in ("", []) or any(default is x for x in (False, None, dataclasses.MISSING))
    if not silent:
        shown = " ".join(map(str, default)) if many else "on" if default is True else default
        text += f" (default: {shown})"
    options: dict[str, Any] = {"help": text.replace("%", "%%").strip(),
                               "default": argparse.SUPPRESS}
    required = default is dataclasses.MISSING
    if kind is bool:
        parser.add_argument(f"--{field.name}", action=argparse.BooleanOptionalAction, **options)
        return
    if typing.get_origin(kind) is typing.Literal:
        options.update(choices=typing.get_args(kind), type=type(typing.get_args(kind)[0]))
    else:
        read, shown = {int: (whole_number, "N"), float: (real_number, "X"),
                       Path: (path, "PATH")}.get(kind, (kind, field.name.upper()))
        options.update(type=read, metavar=shown)
    if POSITIONAL in field.metadata:
        options["metavar"] = field.name.upper()
        options["nargs"] = ("+" if required else "*") if many else (None if required else "?")
        parser.add_argument(field.name, **options)
        return
    if many:
        options.update(nargs="+", action="extend")
    parser.add_argument(f"--{field.name}", required=required, **options)


def _kind(hint: Any) -> tuple[Any, bool]:
    """The type of one value, and whether there may be many: list[str] -> (str, True)."""
    if typing.get_origin(hint) is Annotated:
        hint = typing.get_args(hint)[0]
    if typing.get_origin(hint) in (typing.Union, types.UnionType):      # X | None
        hint = next(arg for arg in typing.get_args(hint) if arg is not type(None))
    if typing.get_origin(hint) is list:
        return typing.get_args(hint)[0], True
    return hint, False


def _for_argparse(args: Sequence[str], parser: argparse.ArgumentParser) -> list[str]:
    """Flags as they are defined, where they are given with dashes for underscores or otherwise.
    What argparse would take for a flag is marked as a value: -x after a flag, all that follows --.
    """
    flags = parser._option_string_actions
    spelling = {flag.replace("_", "-"): flag for flag in flags}
    result: list[str] = []
    for at, arg in enumerate(args):
        if arg == "--":
            return result + [PLAIN + value for value in args[at + 1:]]
        before = flags.get(result[-1]) if result else None
        if re.match("-[^-]", arg) and before and before.nargs in (None, "+"):
            result.append(PLAIN + arg)
            continue
        name, equals, value = arg.partition("=")
        value = PLAIN + value if value == "--" else value
        result.append(spelling.get(name.replace("_", "-"), name) + equals + value)
    return result


def _open_streams() -> None:
    """Where the shell closed a standard stream nothing is read, and what is said is lost rather
    than written into the next file that is opened, which would get its number. What the encoding of
    a stream lacks is escaped."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


@contextmanager
def _signals_raise() -> Iterator[None]:
    """SIGTERM and SIGHUP, where they are not ignored, are SystemExit, the status as a shell's."""
    def leave(number: int, frame: object) -> NoReturn:
        signal.signal(number, signal.SIG_IGN)           # cleaning up is not to be interrupted
        raise SystemExit(128 + number)

    ends = [number for number in (signal.SIGTERM, signal.SIGHUP)
            if signal.getsignal(number) is signal.SIG_DFL]
    for number in ends:
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number in ends:
            signal.signal(number, signal.SIG_DFL)


def _drop_output() -> None:
    """If what was printed cannot be written, Python shall not try again and complain at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def is_users(error: Exception) -> bool:
    """Whether an error is about what the user gave, and not about this program."""
    core = sys.modules.get("llmc._core")
    engine = (core.LlmcError,) if core else ()
    return isinstance(error, (ValueError, OSError, ImportError, MemoryError, *engine))
