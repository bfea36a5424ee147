"""Commands made of dataclasses: flags, help, errors in one line, and `llmc` itself."""
from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import pytest

from llmc import __main__, cli


@dataclass
class Base:
    """Fields that others inherit."""
    seed: int = 0               # where random numbers start


@dataclass
class Bake(Base):
    """Turn flour into bread.

    Slowly.
    """
    flour: str = field(kw_only=True, metadata={cli.POSITIONAL: True})  # the kind
                                                                # of flour
    out: Path = field(kw_only=True)     # where the loaf goes, 100% sure
    toppings: list[str] = cli.positional([])    # what lies on top
    oven: Literal["gas", "wood"] = "wood"       # what burns
    flavour: str = ""
    top_heat: float = 0.5           # share from above
    # a comment of the next field's, not of top_heat's
    loaves: int | None = None       # how many
    heat: Annotated[float, cli.Range(0, 0.5)] = 0.25    # how hot
    sold: cli.Count = 1             # how many were sold
    crust: bool = True
    salts: list[float] = field(default_factory=list)    # grams, "#" and all


@dataclass
class Wrap:
    """A command in front of another."""
    ranks: int = 1
    args: list[str] = cli.rest()    # the other's


@dataclass
class Slice:
    """A command with a text that need not be there."""
    text: str | None = cli.positional(None)
    thin: bool = False


def bake(*args: str) -> Bake:
    return cli.parse(Bake, ["rye", "--out", "x", *args], "llmc bake")


def test_flags_become_typed_fields_and_the_rest_keeps_defaults():
    config = bake("seeds", "oats", "--oven=gas", "--top_heat", "1e-1", "--loaves", "2K",
                  "--salts", "1", "2.5", "--salts", "3", "--no-crust", "--seed", "7")
    assert config == Bake(flour="rye", out=Path("x"), toppings=["seeds", "oats"], oven="gas",
                          top_heat=0.1, loaves=2000, crust=False, salts=[1.0, 2.5, 3.0], seed=7)
    assert bake() == Bake(flour="rye", out=Path("x"))
    assert bake("--crust").crust is True


def test_dashes_and_underscores_are_the_same_in_flags_only():
    assert bake("--top-heat=2").top_heat == 2
    assert bake("--top-heat", "3", "a-b_c").toppings == ["a-b_c"]


def test_two_configurations_share_no_default_list():
    bake().salts.append(1.0)
    bake().toppings.append("x")
    assert (bake().salts, bake().toppings) == ([], [])


@pytest.mark.parametrize("text, number", [
    ("12", 12), ("1_000", 1000), ("-3", -3), ("100M", 10**8), ("1.5k", 1500), ("1e6", 10**6),
    ("2B", 2 * 10**9), ("9007199254740993", 9007199254740993)])
def test_whole_numbers_may_carry_a_power(text, number):
    assert cli.whole_number(text) == number


@pytest.mark.parametrize("text", ["", "M", "1.5", "x", "1e999", "nan", "1MM", "0x10"])
def test_what_is_no_whole_number_is_refused(text):
    with pytest.raises(ValueError, match="--seed: .* is no whole number"):
        bake(f"--seed={text}")


@pytest.mark.parametrize("args, message", [
    (["--sold", "0"], "--sold is 0, wanted 1 to 2147483647"),
    (["--sold=1e20"], "--sold is 100000000000000000000, wanted 1 to 2147483647"),
    (["--sold", "-1"], "--sold is -1, wanted 1 to"),
    (["--heat", "0.6"], "--heat is 0.6, wanted 0 to 0.5"),
    (["--top_heat", "nan"], "--top_heat: 'nan' is no number"),
    (["--heat", "inf"], "--heat: 'inf' is no number"),
    (["--salts", "1", "infinity"], "--salts: 'infinity' is no number"),
    (["--out", ""], "--out: the path is empty")])
def test_values_that_cannot_be_are_refused(args, message):
    with pytest.raises(ValueError) as error:
        bake(*args)
    assert str(error.value).startswith(message)


def test_a_range_holds_its_ends():
    assert (bake("--heat", "0.5").heat, bake("--sold=2147483647").sold) == (0.5, 2**31 - 1)


def test_a_value_may_begin_with_a_dash():
    assert bake("--flavour", "-x").flavour == bake("--flavour=-x").flavour == "-x"
    assert bake("--flavour=--").flavour == "--"
    assert bake("--salts", "-1", "2").salts == [-1, 2]


def test_what_follows_two_dashes_is_no_flag():
    loaf = bake("--flavour", "-x", "a", "--", "-y", "--top-heat", "-help", "--", "--flavour=z")
    assert loaf.toppings == ["a", "-y", "--top-heat", "-help", "--", "--flavour=z"]
    assert loaf.flavour == "-x"
    assert cli.parse(Slice, ["--", "-hello"]) == Slice("-hello")
    assert cli.parse(Slice, ["--thin", "--", "--thin"]) == Slice("--thin", thin=True)
    assert cli.parse(Wrap, ["--ranks", "2", "--", "--ranks"]) == Wrap(2, ["--ranks"])
    with pytest.raises(ValueError, match="--top_heat: '-h' is no number"):
        bake("--top_heat", "-h")


@pytest.mark.parametrize("args, message", [
    (["--top_haet", "1"], "unknown flag --top_haet; did you mean --top_heat?"),
    (["--top-haet=1"], "unknown flag --top-haet; did you mean --top_heat?"),
    (["--no-crusts"], "unknown flag --no-crusts; did you mean --no-crust?"),
    (["--zzzzzz"], "unknown flag --zzzzzz"),
    (["--top"], "unknown flag --top"),
    (["-x"], "unexpected argument '-x'; see llmc bake --help"),
    (["--oven", "coal"], "--oven: invalid choice: 'coal'"),
    (["--top_heat"], "--top_heat: expected one argument; see llmc bake --help"),
    (["--top_heat", "hot"], "--top_heat: 'hot' is no number")])
def test_wrong_flags_are_named(args, message):
    with pytest.raises(ValueError) as error:
        bake(*args)
    assert str(error.value).startswith(message)


def test_a_misspelt_flag_is_named_before_the_one_it_leaves_missing():
    with pytest.raises(ValueError, match="unknown flag --uot; did you mean --out"):
        cli.parse(Bake, ["rye", "--uot", "x"], "llmc bake")


def test_what_is_missing_is_named():
    with pytest.raises(ValueError, match="missing: --out; see llmc bake --help"):
        cli.parse(Bake, ["rye"], "llmc bake")
    with pytest.raises(ValueError, match="missing: FLOUR; see llmc bake --help"):
        cli.parse(Bake, ["--out", "x"], "llmc bake")


def test_help_is_made_of_the_comments_and_the_docstring(capsys):
    with pytest.raises(SystemExit) as exit:
        cli.parse(Bake, ["--help"], "llmc bake")
    assert exit.value.code == 0
    text = re.sub(r"\s+", " ", capsys.readouterr().out)
    for part in ("Turn flour into bread. Slowly.", "FLOUR the kind of flour",
                 "--out PATH where the loaf goes, 100% sure", "share from above (default: 0.5)",
                 "--oven {gas,wood} what burns (default: wood)", "--loaves N how many",
                 "where random numbers start (default: 0)", '--salts X [X ...] grams, "#" and all',
                 "--crust, --no-crust (default: on)"):
        assert part in text, part
    assert "a comment of the next" not in text.split("--top_heat X")[1].split("--loaves")[0]


def test_rest_takes_what_the_command_does_not_know():
    config = cli.parse(Wrap, ["--n_layer", "6", "--ranks", "2", "--lr=1e-3"], "llmc wrap")
    assert config == Wrap(ranks=2, args=["--n_layer", "6", "--lr=1e-3"])


def fail(error: BaseException):
    def function():
        raise error
    return function


@pytest.mark.parametrize("error, line", [
    (ValueError("two\n  lines"), "llmc: two lines"),
    (FileNotFoundError(2, "No such file", "a.txt"), "llmc: a.txt: No such file"),
    (ImportError("cannot import name '_core'"), "llmc: the engine is not built; run `make setup`"),
    (ValueError(), "llmc: ValueError")])
def test_a_users_error_is_one_line_and_exit_1(error, line, capsys, monkeypatch):
    monkeypatch.delenv("LLMC_DEBUG", raising=False)
    assert cli.guarded(fail(error)) == 1
    out, err = capsys.readouterr()
    assert err.startswith(line) and err.count("\n") == 1 and out == ""


def test_the_engines_errors_are_users_errors(capsys):
    from llmc import Device

    assert cli.guarded(lambda: Device("no-such-device")) == 1
    assert capsys.readouterr().err.startswith("llmc: ")


def test_a_bug_and_llmc_debug_show_the_traceback(monkeypatch):
    with pytest.raises(KeyError):
        cli.guarded(fail(KeyError("bug")))
    monkeypatch.setenv("LLMC_DEBUG", "1")
    with pytest.raises(ValueError):
        cli.guarded(fail(ValueError("users")))


def test_ctrl_c_exits_130(capsys):
    assert cli.guarded(fail(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == "llmc: interrupted\n"


def llmc(*args: str, **more) -> subprocess.CompletedProcess:
    package = Path(cli.__file__).parent.parent
    env = {**os.environ, "PYTHONPATH": str(package)}
    return subprocess.run([sys.executable, "-m", "llmc", *args], capture_output=True, text=True,
                          env=env, **more)


STREAMS = """
import os, sys
from llmc import cli
def function():
    print("naïve \\udcff")
    print("✓", file=sys.stderr)
    print(len(sys.stdin.read()), os.open("file", os.O_CREAT))
sys.exit(cli.guarded(function))
"""


def shell(code: str, redirected: str, cwd: Path, **env: str) -> tuple[int, str, str]:
    """A Python program under a shell's redirections."""
    package = Path(cli.__file__).parent.parent
    done = subprocess.run(
        ["/bin/sh", "-c", f'"$0" -c "$1" {redirected}', sys.executable, code], cwd=cwd,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(package), "PYTHONUNBUFFERED": "", **env})
    return done.returncode, done.stdout.decode(), done.stderr.decode()


@pytest.mark.parametrize("redirected, out, err", [
    ("</dev/null", "naïve \\udcff\n0 3\n", "✓\n"), ("<&-", "naïve \\udcff\n0 3\n", "✓\n"),
    ("</dev/null >&-", "", "✓\n"), ("</dev/null 2>&-", "naïve \\udcff\n0 3\n", ""),
    ("<&- >&- 2>&-", "", ""), ("</dev/null | true", "", "✓\n"),
    ("</dev/null >/dev/full", "", "✓\nllmc: standard output: No space left on device\n")])
def test_streams_may_be_closed_left_or_full(redirected, out, err, tmp_path):
    status, *said = shell(STREAMS, redirected, tmp_path)
    assert (said, status) == ([out, err], int("full" in redirected))


def test_an_encoding_that_lacks_a_character_escapes_it(tmp_path):
    status, out, err = shell(STREAMS, "</dev/null", tmp_path, PYTHONIOENCODING="ascii")
    assert (status, out, err) == (0, "na\\xefve \\udcff\n0 3\n", "\\u2713\n")


SIGNALS = """
import os, signal, sys, time
from llmc import cli
{first}
def function():
    try:
        os.kill(os.getpid(), signal.{name})
        print("went on")
    finally:
        print("cleaned up")
sys.exit(cli.guarded(function))
"""


@pytest.mark.parametrize("name, status", [("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_signal_to_end_cleans_up_first(name, status, tmp_path):
    first = f"signal.signal(signal.{name}, signal.SIG_DFL)"         # nohup ignores it
    assert shell(SIGNALS.format(first=first, name=name), "", tmp_path) == (status, "cleaned up\n", "")


def test_a_hangup_that_is_ignored_stays_ignored(tmp_path):
    code = SIGNALS.format(first="signal.signal(signal.SIGHUP, signal.SIG_IGN)", name="SIGHUP")
    assert shell(code, "", tmp_path) == (0, "went on\ncleaned up\n", "")


def test_llmc_lists_its_stages_without_importing_them():
    code = ("import sys; from llmc import __main__; print(__main__.usage());"
            "print([m for m in ('numpy', 'rich', 'tiktoken', 'matplotlib') if m in sys.modules])")
    package = Path(cli.__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(package)})
    assert done.stdout.endswith("[]\n"), done.stdout + done.stderr
    for name, line in __main__.stages().items():
        assert name in done.stdout and line, f"{name} has no docstring"
    assert llmc().stdout == llmc("--help").stdout == done.stdout[:-3]


@pytest.mark.parametrize("before, status", [("default_int_handler", 130), ("SIG_IGN", 0)])
def test_ctrl_c_while_modules_load_ends_quietly(before, status, tmp_path):
    """Also in a module that makes another error of it; and a program in the background goes on."""
    code = ("import os, signal, sys; sys.path.insert(0, os.path.dirname(os.path.dirname(sys.argv[1])))\n"
            "from llmc import __main__\n"
            f"signal.signal(signal.SIGINT, signal.{before})\n"
            "class Finder:\n"
            "    def find_spec(self, name, *rest):\n"
            "        if name == 'llmc.plot':\n"
            "            try: os.kill(os.getpid(), signal.SIGINT)\n"
            "            except KeyboardInterrupt: raise ImportError('initialization failed')\n"
            "sys.meta_path.insert(0, Finder()); sys.argv[1:] = ['plot', '--help']; __main__.main()\n")
    done = subprocess.run([sys.executable, "-c", code, cli.__file__], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (status, "")


def test_llmc_names_the_nearest_stage(monkeypatch):
    monkeypatch.setattr(__main__, "stages", lambda: {"tokenize": "shows tokens"})
    with pytest.raises(ValueError, match="unknown stage toknize; did you mean tokenize?"):
        __main__.dispatch(["toknize"])


def test_llmc_tells_its_version():
    done = llmc("--version")
    assert re.fullmatch(r"llmc (\d+\.\d+\.\d+|\(not installed\))\n", done.stdout)


def test_wrong_usage_is_one_line_on_stderr():
    done = llmc("--verison")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("llmc: unknown flag --verison") and done.stderr.count("\n") == 1
