"""What an assistant of llmc chat may call: by its chat.json, by flags, or functions of a file."""
from __future__ import annotations

from typing import NamedTuple

from llmc.chat import Chat, Manner
from llmc.tools.sandbox import UNSAFE, unavailable
from llmc.tools.toolbox import CHARACTERS, Toolbox, check_names, tools_of, usual
from llmc.tools.web_search import opened

FLAGS = ("tools", "search", "tools_file", "unsafe_tools")


class Hands(NamedTuple):
    """described: what the system's message says of the tools that the model was not taught;
    notes: for the user, of those it was taught and does not get."""
    toolbox: Toolbox
    described: str
    notes: list[str]


def hands(config: Chat, manner: Manner) -> Hands:
    """A ValueError for what cannot be as it was asked for."""
    names, notes = _names(config, manner)
    own = tools_of(config.tools_file) if config.tools_file else []
    room = config.context or CHARACTERS         # a character is a token at most
    toolbox = usual(names, opened(config.search) if config.search else None, config.unsafe_tools,
                    own, characters=min(CHARACTERS, max(room // 2, 100)))
    return Hands(toolbox, toolbox.describe(known=manner.tools), notes)


def _names(config: Chat, manner: Manner) -> tuple[list[str], list[str]]:
    """Those that are to be there; and of those it was taught, what is missing."""
    if config.tools is not None:
        asked = [name for name in dict.fromkeys(config.tools) if name != "none"]
        if asked and "none" in config.tools:
            raise ValueError(f"--tools are none and {', '.join(asked)}; give one or the other")
        check_names(asked)
        if config.search and "search" not in asked:
            raise ValueError("--search is for the tool search, and --tools does not name it")
        return asked, []
    names, notes = [*manner.tools], []
    if config.search and "search" not in names:
        names.append("search")
    if "search" in names and not config.search:
        names.remove("search")
        notes.append("it was taught to search, and there is no --search INDEX")
    if "python" in names and not config.unsafe_tools and (why := unavailable()):
        names.remove("python")
        notes.append(f"it was taught to call Python, which is not run: {why}; {UNSAFE}")
    return names, notes
