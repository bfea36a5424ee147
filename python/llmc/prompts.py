"""Files of prompts and of examples -> the texts a model is to continue.

An example becomes "Input: …\\nOutput: …\\n\\n", and the prompt after all of them
"Input: …\\nOutput:".
"""
from __future__ import annotations

from pathlib import Path

from llmc import disk

NEXT_QUESTION = "\n\nInput:"    # where an answer ends, if the model goes on with the next question


def question(prompt: str) -> str:
    """What a prompt becomes after examples."""
    return f"Input: {prompt}\nOutput:"


def read_prompts(path: Path) -> list[str]:
    """One prompt a line; of .jsonl the "prompt" of each line's object. Empty lines are passed."""
    if path.suffix == ".jsonl":
        prompts = [row["prompt"] for row in read_rows(path, "prompt")]
    else:
        prompts = [line for line in lines(path) if line.strip()]
    if not prompts:
        raise ValueError(f"{path} holds no prompt")
    return prompts


def read_examples(path: Path) -> list[str]:
    """One example a line: input, tab, output; of .jsonl the "input" and "output" of an object."""
    if path.suffix == ".jsonl":
        pairs = [(row["input"], row["output"]) for row in read_rows(path, "input", "output")]
    else:
        pairs = []
        for number, line in enumerate(lines(path), 1):
            if line.strip():
                pair = line.split("\t")
                if len(pair) != 2:
                    raise ValueError(f"{path}, line {number}: {len(pair) - 1} tabs, wanted one, "
                                     "between input and output")
                pairs.append((pair[0], pair[1]))
    if not pairs:
        raise ValueError(f"{path} holds no example")
    return [f"{question(input)} {output}\n\n" for input, output in pairs]


def read_rows(path: Path, *keys: str) -> list[dict[str, str]]:
    """The objects of a .jsonl file, each with texts for these keys."""
    wanted = dict.fromkeys(keys, str)
    return [disk.parse_json(line.encode(), f"{path}, line {number}", wanted)
            for number, line in enumerate(lines(path), 1) if line.strip()]


def lines(path: Path) -> list[str]:
    """Unlike str.splitlines, which also cuts at what JSON leaves in its texts."""
    return read_text(path).replace("\r\n", "\n").split("\n")


def read_text(path: Path) -> str:
    """A file in UTF-8; a mark of its byte order is passed."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8: {error.reason} at byte {error.start}") from error


def text_or_file(given: str) -> str:
    """The text of the file that is called so, if there is one; else what was given."""
    try:
        found = Path(given).is_file()
    except (OSError, ValueError):           # too long for a name
        found = False
    return read_text(Path(given)) if found else given
