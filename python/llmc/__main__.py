"""llmc STAGE …: runs a stage, or lists them."""
from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# the order of the pipeline; stages that are not named here come after them
ORDER = ("crawl", "train_quality", "prepare_fineweb", "inspect", "prepare_text", "train_tokenizer",
         "tokenize", "tokenizer_report", "pretrain", "identity", "synth", "synth_model", "label",
         "sft", "assistant_report", "index", "chat", "sample", "perplexity", "convert", "plot",
         "doctor")


@contextmanager
def loading() -> Iterator[None]:
    """While modules load Ctrl-C ends the program at once: there is nothing to clean up, and some of
    them would make another error of it."""
    heard = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if heard:
        signal.signal(signal.SIGINT, lambda number, frame: os._exit(130))
    try:
        yield
    finally:
        if heard:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def stages() -> dict[str, str]:
    """Every stage with the first line of its module, read without importing it."""
    import ast
    from pathlib import Path

    found = {}
    for path in Path(__file__).parent.glob("*.py"):
        source = path.read_text(encoding="utf-8")
        if "cli.main(run)" in source and path.stem not in ("cli", "__main__"):
            found[path.stem] = (ast.get_docstring(ast.parse(source)) or "").split("\n")[0]
    place = {name: i for i, name in enumerate(ORDER)}
    return dict(sorted(found.items(), key=lambda item: (place.get(item[0], len(place)), item)))


def usage() -> str:
    """What `llmc` alone prints."""
    lines = [f"  {name:<16} {line}" for name, line in stages().items()]
    head = "usage: llmc STAGE [--flags …]    (llmc STAGE --help lists a stage's flags)"
    return "\n".join([head, "", *lines])


def version() -> str:
    """The installed package's version."""
    from importlib import metadata

    try:
        return metadata.version("llmc")
    except metadata.PackageNotFoundError:
        return "(not installed)"


def dispatch(argv: list[str]) -> None:
    """Do what the arguments of `llmc` say."""
    import importlib

    from llmc import cli

    if not argv or argv[0] in ("-h", "--help", "help"):
        print(usage())
        return
    if argv[0] == "--version":
        print(f"llmc {version()}")
        return
    name = argv[0].replace("-", "_")
    known = stages()
    if name not in known:
        kind = "flag" if argv[0].startswith("-") else "stage"
        raise ValueError(f"unknown {kind} {argv[0]}{cli.nearest(name, known)}; "
                         "`llmc --help` lists the stages")
    with loading():
        stage = importlib.import_module(f"llmc.{name}")
    cli.main(stage.run, argv[1:])


def main() -> None:
    """The program `llmc`."""
    with loading():
        from llmc import cli
    sys.exit(cli.guarded(lambda: dispatch(sys.argv[1:])))


if __name__ == "__main__":
    main()
