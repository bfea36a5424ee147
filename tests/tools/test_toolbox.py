"""Tools that are functions of one's own, and what a model is told about a call that is wrong."""
from __future__ import annotations

import json
from pathlib import Path

import pytest
from llmc.chat import Call
from llmc.tools.search import Result
from llmc.tools.toolbox import CUT, Tool, Toolbox, tool_of, tools_of, usual


def weather(city: str, days: int = 1, units: list[str] | None = None) -> dict[str, object]:
    """The weather of a city.

    For so many days."""
    if city == "Atlantis":
        raise LookupError("no such city")
    return {"city": city, "days": days, "units": units}


def call(name: str, **arguments: object) -> Call:
    return Call(name, json.dumps(arguments))


def test_a_function_is_a_tool_by_its_hints_and_its_docstring():
    tool = tool_of(weather)
    assert (tool.name, tool.description) == ("weather", "The weather of a city.\n\nFor so many days.")
    assert tool.parameters["required"] == ["city"] and tool.parameters["additionalProperties"] is False
    assert {name: each.get("type") for name, each in tool.parameters["properties"].items()} == {
        "city": "string", "days": "integer", "units": None}
    box = Toolbox([tool])
    assert json.loads(box.answer(call("weather", city="Ålesund", days=2))) == {
        "city": "Ålesund", "days": 2, "units": None}
    assert "Ålesund" in box.answer(call("weather", city="Ålesund"))        # text is not escaped
    described = box.describe()
    assert "weather" in described and "The weather of a city." in described and '"city"' in described


@pytest.mark.parametrize("wrong, told", [
    (Call("weather", "{"), "Error: the arguments are no JSON."),
    (Call("weather", "[" * 100_000), "Error: the arguments are no JSON."),
    (Call("weather", "[1]"), "Error: the arguments are no object of JSON."),
    (Call("", "{}"), 'Error: this is no call. It is to be {"name": …, "arguments": {…}}.'),
    (Call("whether", "{}"), "Error: there is no tool 'whether'; there are: weather."),
    (Call("weather", "{}"), "Error: city: Field required."),
    (call("weather", city=3), "Error: city: Input should be a valid string."),
    (call("weather", city="Rome", days="many"), "Error: days: Input should be a valid integer"),
    (call("weather", city="Rome", sky="blue"), "Error: sky: Extra inputs are not permitted."),
    (call("weather", city="Atlantis"), "Error: LookupError: no such city"),
    (call("weather", city="Rome", units=["C", 4]), "Error: units.1: Input should be a valid string.")])
def test_a_wrong_call_is_answered_by_a_sentence(wrong: Call, told: str):
    assert Toolbox([tool_of(weather)]).answer(wrong).startswith(told)


def no_hint(city) -> str:
    """Has none."""
    return city


def no_words(city: str) -> str:
    return city


def any_number(*cities: str) -> str:
    """Takes any number."""
    return str(cities)


@pytest.mark.parametrize("function, sentence", [
    (no_hint, "no_hint has no type hint for city"), (no_words, "no_words has no docstring"),
    (any_number, r"any_number takes \*cities: 'str'; wanted parameters with a name")])
def test_a_function_that_tells_too_little_is_no_tool(function, sentence: str):
    with pytest.raises(ValueError, match=sentence):
        tool_of(function)


def test_a_file_of_tools(tmp_path: Path):
    path = tmp_path / "mine.py"
    path.write_text('"""Mine."""\nfrom __future__ import annotations\nfrom math import gcd\nfrom json import dumps\n\n\n'
                    'def twice(n: int) -> int:\n    """Two of it."""\n    return _of(n) * 2\n\n\n'
                    'def _of(n):\n    return n\n')
    tool, = tools_of(path)
    assert Toolbox([tool]).answer(call("twice", n=21)) == "42"
    for text, sentence in (("x = 1\n", "defines no function; wanted one for each tool"),
                           ("def f(x): pass\n", "the tool f has no docstring"),
                           ("def f(:\n", "SyntaxError: "), ("import nowhere_at_all\n", "ModuleNotFoundError: ")):
        path.write_text(text)
        with pytest.raises(ValueError, match=sentence) as raised:
            tools_of(path)
        assert str(raised.value).startswith(str(path))
    for other in (tmp_path / "none.py", tmp_path):
        with pytest.raises(ValueError, match="is no Python file; wanted NAME.py"):
            tools_of(other)


def test_limits_are_kept_and_told():
    box = Toolbox([Tool("long", "", {}, lambda given: "x" * 100)], calls=2, characters=20)
    assert box.answer(Call("long", "{}")) == "x" * (20 - len(CUT)) + CUT
    assert box.answer(Call("nothing", "{}"))[:5] == "Error"         # a wrong one counts too
    assert box.answer(Call("long", "{}")) == "Error: 2 calls were made, and a turn may have no more. Answer now."
    box.begin_turn()
    assert box.answer(Call("long", "{}")).startswith("xxx")
    for limits in ({"calls": 0}, {"characters": 0}, {"seconds": 0}):
        with pytest.raises(ValueError, match="wanted more than 0 of each"):
            Toolbox([], **limits)
    with pytest.raises(ValueError, match="two tools are called 'weather'"):
        Toolbox([tool_of(weather), tool_of(weather)])


class Library:
    """In an index's place."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def search(self, query: str) -> list[Result]:
        self.asked.append(query)
        return [Result(f"About {query}", f"{query}.txt", "It is so.", 1.0) for _ in range(2)]


def test_search_counts_on_within_a_turn_and_begins_anew_in_the_next():
    library = Library()
    with usual(["search"], index=library) as box:
        first, second = (box.answer(Call("search", query)) for query in ("kites", "owls"))
        assert first.splitlines()[0].startswith("[1] About kites") and "[3] About owls" in second
        assert [result.title for result in box.found] == ["About kites"] * 2 + ["About owls"] * 2
        box.begin_turn()
        assert box.found == [] and "[1] About" in box.answer(Call("search", "tea"))
    assert library.asked == ["kites", "owls", "tea"]
    with pytest.raises(ValueError, match="the tool search has nothing to search in; give --search"):
        usual(["search"])
    with pytest.raises(ValueError, match="there is no tool 'calculater'; there are python, calculator, search"):
        usual(["calculater"])


def test_the_calculator_is_called_in_the_general_form():
    with usual(["calculator"]) as box:
        assert box.answer(call("calculator", expression="1234 + 8766")) == "10000"
        assert box.answer(call("calculator", expression="import os")).startswith("Error: ")
        assert box.answer(call("calculator", expr="1")).startswith("Error: expression: Field required")


def test_what_a_tool_holds_ends_with_the_toolbox():
    ended = []
    with Toolbox([Tool("held", "", {}, lambda given: "", lambda: ended.append("held"))]):
        assert not ended
    assert ended == ["held"]
