"""What a model may call in one conversation, and the answers it gets, right or wrong.

A tool is a Python function with type hints and a docstring; the hints say which arguments a call
has to have, and are checked. A call that is wrong in any way is answered by a sentence for the
model, so that it can try again; nothing that a model writes raises an exception here.

    box = usual(["python", "calculator"], tools=[tool_of(weather)])
    box.answer(Call("calculator", '{"expression": "12 * 12"}'))     # "144"
"""
from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from threading import Lock
from typing import Any, get_type_hints

from llmc.chat import Call, tools_text
from llmc.chat_templates import ARGUMENT
from llmc.tools.search import Result, Searching, as_text

USUAL = ("python", "calculator", "search")
CALLS, CHARACTERS, SECONDS = 8, 2000, 20.0      # of a turn, of an output, of a call
CUT = " … (cut)"


@dataclass(frozen=True)
class Tool:
    """What can be called. parameters: a JSON schema of its arguments, an object; run: its answer to
    such an object, or a ValueError with a sentence for the model."""
    name: str
    description: str
    parameters: dict[str, Any]
    run: Callable[[dict[str, Any]], str]
    close: Callable[[], None] = lambda: None


class Toolbox:
    """The tools of one conversation. A turn of the assistant's has at most `calls` calls, and an
    output `characters` characters; what is longer is cut, and says so. `found` are the results of
    the turn's searches, of which the model cites the first as [1]."""

    def __init__(self, tools: Iterable[Tool], calls: int = CALLS, characters: int = CHARACTERS,
                 seconds: float = SECONDS, found: list[Result] | None = None):
        if calls < 1 or characters < 1 or not seconds > 0:
            raise ValueError(f"a toolbox of {calls} calls a turn, {characters} characters an "
                             f"output and {seconds:g} seconds a call; wanted more than 0 of each")
        self.tools: dict[str, Tool] = {}
        for tool in tools:
            if tool.name in self.tools:
                raise ValueError(f"two tools are called {tool.name!r}; give one another name")
            self.tools[tool.name] = tool
        self.calls, self.characters, self.seconds = calls, characters, seconds
        self.found = [] if found is None else found
        self.made = 0                       # calls of this turn
        self._one = Lock()                  # call at a time

    def begin_turn(self) -> None:
        """The assistant's next turn has its calls before it, and finds anew."""
        self.made = 0
        self.found.clear()

    def answer(self, call: Call) -> str:
        """What a tool says to a call, or why there is no answer."""
        self.made += 1
        if self.made > self.calls:
            return f"Error: {self.calls} calls were made, and a turn may have no more. Answer now."
        try:
            with self._one:
                output = self._run(call)
        except ValueError as error:
            output = f"Error: {error}"
        if len(output) > self.characters:
            output = output[:self.characters - len(CUT)] + CUT
        return output

    def describe(self, known: Collection[str] = ()) -> str:
        """For the system's message, those that the model does not know."""
        return tools_text([{"name": tool.name, "description": tool.description,
                            "parameters": tool.parameters} for tool in self.tools.values()
                           if tool.name not in known])

    def close(self) -> None:
        """What tools hold, such as a process, ends; the next call begins anew. A call that was left
        behind goes on to its own end, and what it holds ends with this program."""
        if self._one.acquire(blocking=False):
            try:
                for tool in self.tools.values():
                    tool.close()
            finally:
                self._one.release()

    def __enter__(self) -> Toolbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self, call: Call) -> str:
        if not call.tool:
            raise ValueError('this is no call. It is to be {"name": …, "arguments": {…}}.')
        tool = self.tools.get(call.tool)
        if tool is None:
            known = ", ".join(self.tools) or "none"
            raise ValueError(f"there is no tool {call.tool[:40]!r}; there are: {known}.")
        if call.tool in ARGUMENT:
            return tool.run({ARGUMENT[call.tool]: call.text})
        try:
            arguments = json.loads(call.text)
        except (ValueError, RecursionError):
            raise ValueError("the arguments are no JSON.") from None
        if not isinstance(arguments, dict):
            raise ValueError("the arguments are no object of JSON.")
        return tool.run(arguments)


# ---- one's own tools -----------------------------------------------------------------------------

def tool_of(function: Callable[..., Any]) -> Tool:
    """A function as a tool: by its name, docstring and type hints. What it returns is text, or is
    written as JSON; what it raises is told by its last line. A ValueError where a hint or the
    docstring is missing."""
    from pydantic import ConfigDict, ValidationError, create_model

    name = function.__name__
    if not (function.__doc__ or "").strip():
        raise ValueError(f"the tool {name} has no docstring, which tells a model what it does")
    hints, fields = get_type_hints(function), {}
    for key, parameter in inspect.signature(function).parameters.items():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise ValueError(f"the tool {name} takes {parameter}; wanted parameters with a name")
        if key not in hints:
            raise ValueError(f"the tool {name} has no type hint for {key}, which tells a model "
                             "what to write there")
        fields[key] = (hints[key], ... if parameter.default is parameter.empty
                       else parameter.default)
    wanted = create_model(name, __config__=ConfigDict(extra="forbid"), **fields)

    def run(arguments: dict[str, Any]) -> str:
        try:
            checked = wanted.model_validate(arguments)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"])) or "the arguments"
            raise ValueError(f"{place}: {first['msg']}.") from None
        try:
            result = function(**{key: getattr(checked, key) for key in fields})
        except Exception as error:      # whatever it raises, the model is told
            raise ValueError(f"{type(error).__name__}: {error}") from error
        return result if isinstance(result, str) else json.dumps(result, ensure_ascii=False,
                                                                 default=str)

    return Tool(name, inspect.cleandoc(function.__doc__), wanted.model_json_schema(), run)


def tools_of(path: Path) -> list[Tool]:
    """Of a Python file: every function that it defines, unless its name begins with _."""
    spec = spec_from_file_location(path.stem, path)
    if spec is None or not path.is_file():
        raise ValueError(f"{path} is no Python file; wanted NAME.py with functions in it")
    module = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        found = [tool_of(each) for name, each in vars(module).items()
                 if inspect.isfunction(each) and each.__module__ == path.stem and name[0] != "_"]
    except Exception as error:          # whatever stands in the file
        raise ValueError(f"{path}: {type(error).__name__ if type(error) is not ValueError else ''}"
                         f"{': ' * (type(error) is not ValueError)}{error}") from error
    if not found:
        raise ValueError(f"{path} defines no function; wanted one for each tool")
    return found


# ---- the usual ones ------------------------------------------------------------------------------

def check_names(names: Collection[str]) -> None:
    """A ValueError for a name that is none of the usual tools'."""
    for name in names:
        if name not in USUAL:
            raise ValueError(f"there is no tool {name!r}; there are {', '.join(USUAL)}, and those "
                             "of a --tools_file")


def usual(names: Collection[str], index: Searching | None = None, unsafe: bool = False,
          tools: Iterable[Tool] = (), **limits: Any) -> Toolbox:
    """Those of USUAL that are named, and others, for one conversation. index: what is searched;
    unsafe: Python is not held; limits: Toolbox's. A ValueError where there is no index, or Python
    cannot be held here."""
    check_names(names)
    found: list[Result] = []
    make = {"python": lambda: _python(unsafe), "calculator": _calculator,
            "search": lambda: _search(index, found)}
    return Toolbox([*(make[name]() for name in names), *tools], found=found, **limits)


def _python(unsafe: bool) -> Tool:
    from llmc.tools.sandbox import Sandbox, Unsafe

    held = Unsafe() if unsafe else Sandbox()
    return Tool("python", "Runs Python code and answers with what it prints, and the value of a "
                "last expression. Variables stay until the conversation ends.",
                _one_text("code"), lambda given: held.run(given["code"]), held.close)


def _calculator() -> Tool:
    def calculator(expression: str) -> str:
        """Works out an expression of numbers exactly, such as 12.5 * (3 + 4)."""
        from llmc.tools.calculator import calculate

        return calculate(expression)

    return tool_of(calculator)


def _search(index: Searching | None, found: list[Result]) -> Tool:
    if index is None:
        raise ValueError("the tool search has nothing to search in; give --search and an index "
                         "that llmc index made, or a web API's .json file")

    def run(given: dict[str, Any]) -> str:
        results = index.search(given["query"])
        found.extend(results)
        return as_text(results, len(found) - len(results) + 1)

    return Tool("search", "Finds passages for a query. Cite them by their numbers, such as [1].",
                _one_text("query"), run)


def _one_text(key: str) -> dict[str, Any]:
    return {"type": "object", "properties": {key: {"type": "string"}}, "required": [key]}
