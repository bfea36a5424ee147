"""What datatrove is to run, one phase after the other, each cut in tasks that can start alone.

A phase reads what the one before it wrote, a file a task: blocks that look at one document at a
time follow one another in one phase, duplicates need phases of their own. How many tasks there
are depends on the sources alone, so that the result does not depend on how many work at a time.
"""
from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmc.web.steps import Duplicates, Step

FILE = "${rank}.jsonl.zst"


@dataclass
class Phase:
    """name: of its folders under work/; blocks: datatrove's; steps: what each block is, by its
    place in blocks, for the report."""
    name: str
    blocks: list[Any]
    tasks: int
    steps: dict[int, str] = field(default_factory=dict)
    writes: Path | None = None  # where its documents go, if others follow that read them

    @property
    def filters(self) -> bool:
        """Whether documents go on from here, or not."""
        return any(step != "read" for step in self.steps.values())


def plan(steps: Iterable[Step], readers: list[Any], files: list[str], tasks: int,
         work: Path) -> list[Phase]:
    """The phases of a recipe; the last one leaves the documents kept in work/kept. Each task reads
    its share of every reader's files; files: all of them, in order."""
    phases: list[Phase] = []
    current = Phase("1_read", list(readers), tasks, dict.fromkeys(range(len(readers)), "read"))
    for number, step in enumerate(steps, 2):
        place = f"{number}_{step.name}"
        before, dropped = work / current.name, _dropped(work, place)
        if isinstance(step, Duplicates):
            sign, between, block = step.blocks(files, work / place, dropped)
            phases += [_written(current, before),
                       Phase(f"{place}_signatures", [reader(before), sign], tasks),
                       *(Phase(f"{place}_{name}", [each], count) for name, each, count in between)]
            current = Phase(place, [reader(before)], tasks)
        else:
            block = step.block(dropped)
        current.steps[len(current.blocks)] = step.name
        current.blocks.append(block)
    phases.append(_written(current, work / "kept"))
    return phases


def _dropped(work: Path, place: str) -> Any:
    from datatrove.pipeline.writers import JsonlWriter

    return JsonlWriter(str(work / "dropped" / place), FILE, compression="zstd")


def reader(folder: Path) -> Any:
    """Of the documents that a phase wrote, those without text as well: pages that have none."""
    from datatrove.data import Document
    from datatrove.pipeline.readers import JsonlReader

    class Written(JsonlReader):
        def get_document_from_dict(self, data: dict, source_file: str, id_in_file: int) -> Document:
            text = data.get("text", "")
            found = super().get_document_from_dict(data | {"text": " "}, source_file, id_in_file)
            found.text = text
            return found

    return Written(str(folder), glob_pattern="*.jsonl.zst", add_file_path=False)


def _written(phase: Phase, folder: Path) -> Phase:
    from datatrove.pipeline.writers import JsonlWriter

    phase.blocks.append(JsonlWriter(str(folder), FILE, compression="zstd"))
    phase.writes = folder
    return phase


def any_in(folder: Path) -> bool:
    """Whether a phase wrote documents there."""
    return any(folder.glob("*.jsonl.zst"))
