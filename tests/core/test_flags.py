"""csrc/flags.c: a table gives command line, help and config; each mistake is one sentence."""
import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

DEFAULTS = {
    "data": None,
    "batch_size": 8,
    "shuffle": True,
    "seed": 1,
    "lr": 3e-4,
    "z_loss": 0.0,
    "schedule": "cosine",
    "run": "runs/new",
    "resume": False,
    "threads": 2,
}
DEFAULT, CONFIG, COMMAND_LINE = range(3)
LISTS = "and trial --help lists them all"


def changed(core, *arguments: str) -> dict:
    """What the arguments change, by the struct; the JSON has to say the same."""
    values, everything, only_set, sources = core.flags_parse(list(arguments))
    assert json.loads(everything) == values and list(json.loads(everything)) == list(DEFAULTS)
    assert set(json.loads(only_set)) == {name for name in sources if sources[name] != DEFAULT}
    return {name: values[name] for name in values if values[name] != DEFAULTS[name]}


def sentence(core, *arguments: str) -> str:
    with pytest.raises(RuntimeError) as failure:
        core.flags_parse(list(arguments))
    return str(failure.value)


def test_no_arguments_give_the_defaults(core):
    assert changed(core) == {}


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (["--batch_size", "3"], {"batch_size": 3}),
        (["--batch-size", "3"], {"batch_size": 3}),
        (["--batch-size=3"], {"batch_size": 3}),
        (["--batch_size=3", "--batch_size=4"], {"batch_size": 4}),
        (["--threads", "auto"], {"threads": "auto"}),
        (["--threads", "auto", "--threads", "3"], {"threads": 3}),
        (["--seed", "-9223372036854775808"], {"seed": -(2**63)}),
        (["--seed", "9223372036854775807"], {"seed": 2**63 - 1}),
        (["--lr", "1e-3"], {"lr": 1e-3}),
        (["--z-loss", "-2"], {"z_loss": -2.0}),
        (["--resume"], {"resume": True}),
        (["--resume", "--seed", "2"], {"resume": True, "seed": 2}),
        (["--resume", "1"], {"resume": True}),
        (["--resume", "yes"], {"resume": True}),
        (["--resume=true", "--resume", "off"], {}),
        (["--no-shuffle"], {"shuffle": False}),
        (["--no_shuffle"], {"shuffle": False}),
        (["--shuffle", "0"], {"shuffle": False}),
        (["--schedule", "linear"], {"schedule": "linear"}),
        (["--data", 'a b="c"\n\\é'], {"data": 'a b="c"\n\\é'}),
        (["--data=--strange"], {"data": "--strange"}),
    ],
)
def test_arguments_set_their_field_and_no_other(core, arguments, expected):
    assert changed(core, *arguments) == expected


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (["--batchsize", "3"], "unknown flag --batchsize; did you mean --batch_size?"),
        (["--shedule", "x"], "unknown flag --shedule; did you mean --schedule?"),
        (["--lrr", "x"], "unknown flag --lrr; did you mean --lr?"),
        (["--confg", "x"], "unknown flag --confg; did you mean --config?"),
        (["--something_else", "x"], "unknown flag --something_else; trial --help lists them all"),
        (["--" + "x" * 500], "unknown flag --" + "x" * 63 + "; trial --help lists them all"),
        (["--no_lr"], "unknown flag --no_lr; trial --help lists them all"),
        (["--schedule", "cosin"], "--schedule is 'cosin'; did you mean cosine?"),
        (["--schedule", "?"], "--schedule is '?'; wanted one of: cosine linear constant"),
        (["--schedule", "cosine linear"], "--schedule is 'cosine linear'; wanted one of: "
         "cosine linear constant"),
        (["--batch_size", "0"], "--batch_size is 0; wanted 1 to 4096"),
        (["--batch_size", "4097"], "--batch_size is 4097; wanted 1 to 4096"),
        (["--threads", "0"], "--threads is 0; wanted 1 to 64, or auto"),
        (["--threads", "Auto"], "--threads is 'Auto'; wanted a whole number, or auto"),
        (["--threads", "-9223372036854775808"], "--threads is -9223372036854775808; wanted 1 to 64, or auto"),
        (["--batch_size", "auto"], "--batch_size is 'auto'; wanted a whole number"),
        (["--batch_size", "1e3"], "--batch_size is '1e3'; wanted a whole number"),
        (["--batch_size", " 3"], "--batch_size is ' 3'; wanted a whole number"),
        (["--batch_size", ""], "--batch_size is ''; wanted a whole number"),
        (
            ["--seed", "9223372036854775808"],
            "--seed is '9223372036854775808'; wanted a whole number of at most 64 bits",
        ),
        (["--lr", "-1"], "--lr is -1; wanted 0 or more"),
        (["--lr", "fast"], "--lr is 'fast'; wanted a number"),
        (["--lr", "nan"], "--lr is 'nan'; wanted a number"),
        (["--lr", "1e999"], "--lr is '1e999'; wanted a number"),
        (
            ["--resume=maybe"],
            "--resume is 'maybe'; wanted 1 or 0, true or false, yes or no, on or off",
        ),
        (
            ["--no-resume=1"],
            "--no_resume takes no value, but '1' is given; write --resume=0 or --resume=1",
        ),
        (["x"], "unexpected argument 'x'; flags are written --name value, " + LISTS),
        (["--data="], "--data is empty; wanted a text"),
        (["--help=1"], "--help takes no value, but '1' is given"),
        (["--"], "unexpected argument '--'; flags are written --name value, " + LISTS),
        (
            ["--lr"],
            "--lr needs a value, and the command line ends there; write --lr VALUE (or --lr=VALUE)",
        ),
        (
            ["--data", "--lr", "1"],
            "--data needs a value, and the next argument is a flag; write --data VALUE "
            "(or --data=VALUE)",
        ),
    ],
)
def test_a_mistake_is_one_sentence(core, arguments, expected):
    assert sentence(core, *arguments) == expected


def test_config_is_lines_or_json_and_the_command_line_wins(core, tmp_path):
    lines, as_json = tmp_path / "a.cfg", tmp_path / "a.json"
    lines.write_text('# comment\n\n  batch-size = 5\r\ndata = "two words"\nlr=0.5\nresume = yes')
    as_json.write_text(
        '\n {"batch-size": 5, "data": "two words", "lr": 0.5, "resume": true, "run": null}'
    )
    marked = tmp_path / "with a byte order mark.json"
    marked.write_text(as_json.read_text(), encoding="utf-8-sig")
    expected = {"batch_size": 5, "data": "two words", "lr": 0.5, "resume": True}
    for path in lines, as_json, marked:
        assert changed(core, "--config", str(path)) == expected
        for arguments in ["--lr", "0.25", f"--config={path}"], ["--config", str(path), "--lr=0.25"]:
            assert changed(core, *arguments) == expected | {"lr": 0.25}
            sources = dict.fromkeys(DEFAULTS, DEFAULT) | dict.fromkeys(expected, CONFIG)
            assert core.flags_parse(arguments)[3] == sources | {"lr": COMMAND_LINE}


@pytest.mark.parametrize(
    "text, expected",
    [
        ("batch_size 3", ":1: 'batch_size 3' is not name = value"),
        ("help = 1", ":1: unknown flag help; trial --help lists them all"),
        ("\nbatchsize = 3", ":2: unknown flag batchsize; did you mean batch_size?"),
        ("lr = 1\nbatch_size = 0\n", ":2: batch_size is 0; wanted 1 to 4096"),
        ("lr = \n", ":1: lr is ''; wanted a number"),
        ("lr = 1\0", ": byte 6 is 0; wanted a JSON object or lines of name = value"),
        ('{"batchsize": 3}', ": unknown flag batchsize; did you mean batch_size?"),
        ('{"batch_size": 0}', ": batch_size is 0; wanted 1 to 4096"),
        ('{"schedule": "cosin"}', ": schedule is 'cosin'; did you mean cosine?"),
        ('{"batch_size": "3"}', ': batch_size is "3", wanted a whole number'),
        ('{"batch_size": 3.5}', ": batch_size is 3.5, wanted a whole number"),
        ('{"resume": 1}', ": resume is 1, wanted true or false"),
        ('{"lr": true}', ": lr is true, wanted a number"),
    ],
)
def test_a_mistake_in_the_config_names_file_and_place(core, tmp_path, text, expected):
    path = tmp_path / "run.cfg"
    path.write_text(text)
    assert sentence(core, "--config", str(path)) == f"{path}{expected}"


def test_a_config_that_cannot_be_read_is_named(core, tmp_path):
    assert str(tmp_path / "none") in sentence(core, "--config", str(tmp_path / "none"))
    assert str(tmp_path) in sentence(core, "--config", str(tmp_path))
    assert "--config needs a value" in sentence(core, "--config")


@given(
    batch_size=st.integers(1, 4096),
    seed=st.integers(-(2**63), 2**63 - 1),
    lr=st.floats(0, allow_nan=False, allow_infinity=False),
    resume=st.booleans(),
    data=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20),
)
@settings(max_examples=60, deadline=None)
def test_what_a_run_wrote_reads_back_as_its_config(
    core, tmp_path_factory, batch_size, seed, lr, resume, data
):
    arguments = [f"--batch_size={batch_size}", f"--seed={seed}", f"--lr={lr!r}", f"--data={data}"]
    values, everything, only_set, _ = core.flags_parse([*arguments, f"--resume={int(resume)}"])
    assert values["lr"] == lr and values["data"] == data and values["seed"] == seed
    for text in everything, only_set:
        path = tmp_path_factory.mktemp("run") / "config.json"
        path.write_text(text)
        assert core.flags_parse(["--config", str(path)])[0] == values


def test_names_can_be_left_out_of_the_json(core):
    arguments = ["--resume", "--lr=1", "--run=x"]
    _, everything, only_set, _ = core.flags_parse(arguments, without="resume run no")
    assert set(json.loads(everything)) == set(DEFAULTS) - {"resume", "run"}
    assert set(json.loads(only_set)) == {"lr"}


def test_help_names_every_flag_with_its_default_within_100_columns(core):
    text = core.flags_help()
    lines = text.splitlines()
    assert max(map(len, lines)) <= 100 and max(map(len, lines)) > 90
    assert re.findall(r"^  --(\w+)", text, re.M) == [*DEFAULTS, "config", "help"]
    groups = [line for line in lines if line and line[0] != " "][2:]
    assert groups == ["data", "optimizer", "run", "also"]
    flowing = " ".join(text.split())
    assert "rows in one micro-batch; 1 to 4096 (default 8)" in flowing
    assert "peak learning rate; 0 or more (default 3e-4)" in flowing
    assert "how lr falls; one of: cosine linear constant (default cosine)" in flowing
    assert "once more after that, however wide (not set)" in flowing


def test_help_wins_over_mistakes_beside_it(core, capfd):
    assert core.flags_parse(["--nonsense", "--help"]) is None
    assert core.flags_parse(["--help", "--lr"]) is None


def test_a_wrong_table_is_refused(core):
    with pytest.raises(RuntimeError, match="^n is 'many'; wanted a whole number$"):
        core.flags_open_bad_default()
    with pytest.raises(RuntimeError, match="^the flag batch_size stands twice in its table"):
        core.flags_open_twice()
