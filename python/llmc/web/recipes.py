"""Which steps a document goes through, in which order: recipes by name, or from a YAML file.

    steps:
      - url
      - gopher_quality: {min_doc_words: 20}     # null turns a rule off

A step without options has the published values; see steps.py.
"""
from __future__ import annotations

import types
from collections.abc import Iterable
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from llmc import cli
from llmc.web import steps
from llmc.web.steps import Step

STEPS: dict[str, type[Step]] = {step.name: step for step in (
    steps.Url, steps.Extract, steps.Language, steps.Repetition, steps.Quality, steps.C4,
    steps.FineWeb, steps.Exact, steps.MinHash, steps.Decontaminate, steps.Personal, steps.Scores)}

RULES = ["language", "gopher_repetition", "gopher_quality", "c4", "fineweb_quality"]
ALL_PERSONAL = dict.fromkeys(("ipv6", "phone", "ssn", "card", "iban", "spare_versions"), True)
FINEWEB = ["url", "extract", *RULES, "minhash", "personal"]     # the published script
RECIPES: dict[str, list[str | dict[str, dict[str, Any]]]] = {
    "fineweb": FINEWEB,
    "fineweb-edu": [*FINEWEB, "quality"],       # of what is FineWeb the pages that educate
    "edu-scores": ["quality"],          # the same of documents that are cleaned already
    "llmc-default": ["url", {"extract": {"declared": True}}, *RULES, "exact", "minhash",
                     {"personal": ALL_PERSONAL}],
    "minimal": [{"extract": {"declared": True}}, "exact"],
}


def load(recipe: str, options: Iterable[str] = ()) -> list[Step]:
    """The steps of a recipe by name or of a YAML file; options are STEP.OPTION=VALUE and come
    last. A ValueError says what is not understood, and where."""
    if recipe in RECIPES:
        found = [_entry(entry, Path(recipe)) for entry in RECIPES[recipe]]
    else:
        found = _from_file(recipe)
    made = [_step(name, values, recipe) for name, values in found]
    for text in options:
        _change(made, text)
    return made


def _from_file(recipe: str) -> list[tuple[str, dict[str, Any]]]:
    import yaml

    path = Path(recipe)
    if path.suffix not in (".yaml", ".yml"):
        raise ValueError(f"there is no recipe {recipe!r}{cli.nearest(recipe, RECIPES)}; "
                         f"wanted {', '.join(RECIPES)}, or a .yaml file")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is no YAML: {cli.sentence(error)}") from None
    if not isinstance(content, dict) or not isinstance(content.get("steps"), list):
        raise ValueError(f"{path} has no list of steps; wanted 'steps:' and a line '- NAME' each")
    if unknown := [key for key in content if key != "steps"]:
        raise ValueError(f"{path}: there is no key {unknown[0]!r}; wanted 'steps' alone")
    return [_entry(entry, path) for entry in content["steps"]]


def _entry(entry: Any, path: Path) -> tuple[str, dict[str, Any]]:
    """A step's name, and the options given to it."""
    if isinstance(entry, str):
        return entry, {}
    if isinstance(entry, dict) and len(entry) == 1:
        (name, values), = entry.items()
        if isinstance(values, dict | None):
            return str(name), values or {}
    raise ValueError(f"{path}: {entry!r} is no step; wanted NAME, or NAME: {{OPTION: VALUE}}")


def _step(name: str, values: dict[str, Any], where: str) -> Step:
    if name not in STEPS:
        raise ValueError(f"{where}: there is no step {name!r}{cli.nearest(name, STEPS)}; wanted "
                         f"some of {', '.join(STEPS)}")
    step = STEPS[name]()
    for key, value in values.items():
        _set(step, key, value, where)
    return step


def _change(made: list[Step], text: str) -> None:
    """STEP.OPTION=VALUE, in every step of that name."""
    import yaml

    place, equals, value = text.partition("=")
    name, dot, key = place.partition(".")
    if not (equals and dot):
        raise ValueError(f"--set is {text!r}, wanted STEP.OPTION=VALUE, such as "
                         "gopher_quality.min_doc_words=20")
    mine = [step for step in made if step.name == name]
    if not mine:
        raise ValueError(f"--set {text}: the recipe has no step {name!r}"
                         f"{cli.nearest(name, [step.name for step in made])}")
    try:
        found = yaml.safe_load(value)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"--set {text}: {value!r} is no YAML: {cli.sentence(error)}") from None
    for step in mine:
        _set(step, key, found, "--set")


def _set(step: Step, key: str, value: Any, where: str) -> None:
    names = [field.name for field in fields(step)]
    if key not in names:
        raise ValueError(f"{where}: {step.name} has no option {key!r}"
                         f"{cli.nearest(str(key), names)}; wanted some of {', '.join(names)}")
    hint = get_type_hints(type(step), include_extras=True)[key]
    try:
        setattr(step, key, typed(value, hint))
    except TypeError as wanted:
        raise ValueError(f"{where}: {step.name}.{key} is {value!r}, wanted {wanted}") from None


WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text, in quotes",
         Path: "a path", types.NoneType: "null"}


def typed(value: Any, hint: Any) -> Any:
    """The value as the type has it; a TypeError that says what is wanted."""
    if get_origin(hint) in (Union, types.UnionType):
        wanted = []
        for choice in get_args(hint):
            try:
                return typed(value, choice)
            except TypeError as error:
                wanted.append(str(error))
        raise TypeError(" or ".join(wanted))
    if get_origin(hint) is Annotated:
        kind, check = get_args(hint)
        found = typed(value, kind)
        if isinstance(check, cli.Range):
            if not check.least <= found <= check.most:
                raise TypeError(f"{WORDS[kind]} from {check.least:,} to {check.most:,}")
        elif not check.holds(found):
            raise TypeError(check.wanted)
        return found
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise TypeError(f"one of {', '.join(get_args(hint))}")
        return value
    if get_origin(hint) is list:
        if not isinstance(value, list):
            raise TypeError("a list, [A, B]")
        return [typed(each, get_args(hint)[0]) for each in value]
    if get_origin(hint) is dict:
        if not isinstance(value, dict):
            raise TypeError("pairs, {A: B}")
        kinds = get_args(hint)
        return {typed(key, kinds[0]): typed(each, kinds[1]) for key, each in value.items()}
    if hint is Path and isinstance(value, str):
        return Path(value).absolute()       # others read it later, in other folders
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, hint) and (hint is not int or not isinstance(value, bool)):
        return value
    raise TypeError(WORDS[hint])


def described() -> str:
    """Every step with its options, their values and what they mean, for --help."""
    lines = ["steps, and their options (--set STEP.OPTION=VALUE):"]
    for name, step in STEPS.items():
        lines.append(f"\n  {name:<22}{' '.join(step.__doc__.split())}")
        comments = cli.field_comments(step)
        for field in fields(step):
            value = field.default if field.default is not MISSING else field.default_factory()
            lines.append(f"    {f'{field.name} = {value}':<38} {comments.get(field.name, '')}")
    return "\n".join(lines)
