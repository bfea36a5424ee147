"""llmc chat as a user meets it: what is typed, piped and read, in a terminal and beside one."""
from __future__ import annotations

import json
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import talking
from llmc.encodings import EOT, GPT2_PATTERN, Encoding
from llmc.tokenizer import Tokenizer
from terminals import Screen

LLMC = [sys.executable, "-m", "llmc", "chat"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return talking.write(tmp_path_factory.mktemp("chat") / "talker")


@pytest.fixture
def chat(model):
    """A terminal with llmc chat in it, and flags of its own."""
    def begun(*flags: object) -> Screen:
        return Screen(*LLMC, model, "--temperature", 0, *flags)
    return begun


def piped(model: Path, text: str | bytes, *flags: object, status: int = 0) -> tuple[bytes, str]:
    """Standard output and error of one that reads a pipe."""
    done = subprocess.run([*LLMC, model, "--temperature", "0", *map(str, flags)], capture_output=True, timeout=60,
                          input=text.encode() if isinstance(text, str) else text)
    assert done.returncode == status, done.stderr.decode()
    return done.stdout, done.stderr.decode()


# ---- an answer -----------------------------------------------------------------------------------


def test_a_conversation_is_answered_and_ctrl_d_leaves(chat):
    with chat() as screen:
        assert "16,384 tokens of context · /help lists the commands, Ctrl-D leaves" in screen.ready()[0]
        assert screen.say("who") == ["I am Ada."]
        assert screen.say("sum") == ["two and two is four.", "It is é 四."]
        screen.type("\x04")
        assert screen.end() == 0


def test_an_answer_is_shown_as_it_grows_and_ctrl_c_stops_it_and_not_the_program(chat, tmp_path):
    with chat("--max_tokens", 15000) as screen:
        screen.ready()
        screen.type("ticks\r")
        screen.until(lambda lines: lines[-1].count("tick") > 1 and lines[-2].startswith("tick"), "a second line")
        assert not any("cut after" in line for line in screen.lines()), "it had ended before it was seen to grow"
        screen.type("\x03")
        said = screen.ready()
        assert said[-3] == "stopped" and said.count("stopped") == 1
        ticks = sum(line.count("tick") for line in said[2:])
        screen.say(f"/save {tmp_path / 'talk.json'}")
        screen.say("/undo")
        assert screen.say("who") == ["I am Ada."]
    asked, saved = json.loads((tmp_path / "talk.json").read_text())["messages"]
    assert asked == {"role": "user", "content": "ticks"}
    assert saved["content"].count("tick") == ticks < 15000 and saved["weight"] == 0, "what was cut is marked"


def test_lines_are_broken_between_words(chat):
    with chat("--max_tokens", 100) as screen:
        lines = screen.say("ticks")
    assert lines[:6] == [" ".join(["tick"] * 16)] * 6 and lines[6] == "tick tick tick tick"
    assert lines[7] == "cut after 100 tokens (--max_tokens)"


def test_control_characters_of_the_model_are_harmless(chat, model):
    with chat() as screen:
        assert screen.say("red") == ["\N{REPLACEMENT CHARACTER}[31mred\N{REPLACEMENT CHARACTER} x"]
        assert b"\x1b[31mred" not in screen.raw
    assert piped(model, "red")[0] == b"\x1b[31mred\x07 x\n", "a pipe gets what the model wrote"


def test_an_empty_answer_is_said(chat):
    with chat() as screen:
        assert screen.say("empty") == ["an empty answer"]
        assert screen.say("who") == ["I am Ada."]


def test_thinking_is_folded_until_it_is_asked_for(chat):
    with chat() as screen:
        assert screen.say("muse") == ["thought for 3 tokens", "yes"]
        assert screen.say("/think") == ["what the model thinks is shown", "hm hm hm"]
        assert screen.say("muse") == ["hm hm hm", "yes"]
        assert screen.say("/think") == ["what the model thinks is folded"]
        assert screen.say("muse") == ["thought for 3 tokens", "yes"]


NO_SEARCH = "search: rain → Error: there is no tool 'search'; there are: none."


def test_a_call_of_a_tool_that_is_not_there_is_answered_so(chat, tmp_path):
    with chat() as screen:
        assert screen.say("tool") == ["Let me see", NO_SEARCH, "It is rain [1]."]
        assert screen.say("who") == ["I am Ada."]
        screen.say(f"/save {tmp_path / 'talk.json'}")
    saved = json.loads((tmp_path / "talk.json").read_text())["messages"]
    assert saved[1]["tool_calls"][0]["function"]["name"] == "search"
    assert saved[2] == {"role": "tool", "content": NO_SEARCH.partition("→ ")[2]}
    assert saved[3] == {"role": "assistant", "content": "It is rain [1]."}


@pytest.fixture(scope="module")
def rain(tmp_path_factory):
    """An index of one document."""
    folder = tmp_path_factory.mktemp("rain")
    (folder / "a.jsonl").write_text(json.dumps({"title": "Rain", "url": "https://rain.example", "text":
                                                "Rain is water that falls from clouds.\nIt is wet."}) + "\n")
    subprocess.run([sys.executable, "-m", "llmc.index", folder / "a.jsonl", "--out", folder / "index"], check=True,
                   capture_output=True)
    return folder / "index"


@pytest.fixture(scope="module")
def searcher(model, tmp_path_factory):
    """The model, which says that it was taught to search: nothing is described to it."""
    folder = tmp_path_factory.mktemp("searcher") / "searcher"
    shutil.copytree(model, folder)
    (folder / "chat.json").write_text('{"template": "llmc", "system": "", "tools": ["search"]}')
    return [*LLMC, folder, "--temperature", 0]


def test_calls_are_folded_and_what_is_cited_is_named(searcher, rain):
    result = talking.FOUND
    with Screen(*searcher, "--search", rain) as screen:
        assert "it may call search" in screen.ready()
        assert screen.say("tool") == ["Let me see", f"search: rain → {result[:50]}…", "It is rain [1].",
                                      "[1] Rain · https://rain.example"]
        assert screen.say("/tools") == ["calls of tools are shown", f"search: rain → {result}"]
        assert screen.say("tool")[1] == f"search: rain → {result}"
        assert screen.say("/tools") == ["calls of tools are folded"]


def test_ctrl_c_stops_an_answer_that_waits_for_a_tool(searcher, tmp_path):
    tools = tmp_path / "slow.py"
    tools.write_text('import time\n\ndef search(query: str) -> str:\n    """Takes long."""\n    time.sleep(100)\n')
    with Screen(*searcher, "--tools_file", tools) as screen:
        assert "it was taught to search, and there is no --search INDEX" in screen.ready()
        screen.type("tool\r")
        screen.until(lambda lines: any("waiting for search" in line for line in lines), "the tool")
        screen.type("\x03")
        assert screen.ready()[-4:-2] == ["Let me see", "stopped"]
        screen.say("/new")
        assert screen.say("who") == ["I am Ada."]


def test_tools_that_cannot_be_are_refused_in_one_sentence(model, rain, tmp_path):
    (tmp_path / "bad.py").write_text("def f(x):\n    pass\n")
    for flags, sentence in (
            (["--tools", "pyton"], "there is no tool 'pyton'"), (["--tools", "search"], "has nothing to search in"),
            (["--tools", "none", "python"], "--tools are none and python; give one or the other"),
            (["--tools", "python", "--search", rain], "--search is for the tool search, and --tools does not name it"),
            (["--tools_file", tmp_path / "bad.py"], "the tool f has no docstring"),
            (["--base", "--tools", "python"], "leave --tools out")):
        out, errors = piped(model, "who", *flags, status=1)
        assert out == b"" and sentence in errors and errors.count("\n") == 1, errors


def test_every_turn_of_a_conversation_may_call(model):
    from llmc.chat import Manner, Message
    from llmc.chat_session import Conversation
    from llmc.checkpoint import open_checkpoint
    from llmc.request import Request
    from llmc.tools.toolbox import Tool, Toolbox

    asked = []
    tool = Tool("search", "", {}, lambda given: asked.append(given["query"]) or "Rain.")
    talk = Conversation(open_checkpoint(model, threads=1), Manner("llmc"), Request([0], 60, temperature=0),
                        toolbox=Toolbox([tool]))
    for turn in range(3):
        news = [*talk.ask("tool")]
        assert "".join(each.text for each in news) == "Let me seeIt is rain [1]."
        assert [(call.text, output) for each in news for call, output in each.calls] == [("rain", "Rain.")]
        assert [message.role for message in talk.messages] == ["user", "assistant", "tool", "assistant"] * (turn + 1)
        assert talk.messages[-2] == Message("tool", "Rain.")
    assert asked == ["rain"] * 3

# ---- typing --------------------------------------------------------------------------------------


def test_a_message_may_have_several_lines(chat, tmp_path):
    with chat() as screen:
        for keys in ("a\\\rb", "a\x1b\rb", "\x1b[200~a\nb\x1b[201~"):      # \ and Enter, Alt-Enter, a paste
            screen.say(keys)
        screen.say("//a and /b")
        screen.say(f"/save {tmp_path / 'talk.json'}")
    saved = json.loads((tmp_path / "talk.json").read_text())["messages"]
    assert [message["content"] for message in saved if message["role"] == "user"] == ["a\nb"] * 3 + ["/a and /b"]


def test_ctrl_c_at_the_prompt_says_how_to_leave_and_drops_what_is_typed(chat):
    with chat() as screen:
        screen.ready()
        screen.type("\x03")
        screen.until(lambda lines: "Ctrl-D or /quit leaves" in lines)
        screen.ready()
        screen.type("nonsense\x03")
        assert screen.say("who") == ["I am Ada."]
        screen.type("/qu\t\r")
        assert screen.end() == 0


def test_what_is_typed_meanwhile_stays(chat):
    with chat("--max_tokens", 15000) as screen:
        screen.ready()
        screen.type("ticks\r")
        screen.until(lambda lines: lines[-1].startswith("tick"))
        screen.type("who")
        screen.read(0.2)
        screen.type("\x03")
        lines = screen.until(lambda lines: lines[-1] == "> who")
        assert not any("who" in line for line in lines[:-1])


# ---- commands ------------------------------------------------------------------------------------


def test_every_command_is_in_the_help(chat):
    with chat() as screen:
        said = screen.say("/help")
    assert [line.split()[0] for line in said[:11]] == [
        "/system", "/temp", "/retry", "/undo", "/think", "/tools", "/new", "/save", "/load", "/help", "/quit"]


def test_the_system_message_is_set_shown_and_removed(chat):
    with chat() as screen:
        screen.say("who")
        assert screen.say("/system Bob") == ["the conversation begins anew"]
        assert screen.say("who") == ["I am Bob."]
        assert screen.say("/system") == ["the system's message: Bob"]
        assert screen.say("/new") == ["this is the beginning"]
        assert screen.say("who") == ["I am Bob."]
        screen.say("/system -")
        assert screen.say("/system") == ["there is no system's message"]
        assert screen.say("who") == ["I am Ada."]
    with chat("--system", "Bob") as screen:
        assert screen.say("who") == ["I am Bob."]


def test_retry_draws_another_answer_and_undo_takes_the_question_back(chat, tmp_path):
    with chat("--max_tokens", 12) as screen:
        assert screen.say("/retry") == ["there is no question yet"]
        assert screen.say("/undo") == ["there is nothing to take back"]
        screen.say("who")
        first = screen.say("zz")
        assert screen.say("/retry") == ["with temperature 0 another answer would be the same; raise it first"]
        assert screen.say("/temp 9") == ["the temperature is 9"]
        drawn = [screen.say("/retry"), screen.say("/retry")]
        assert drawn[0] != drawn[1] and first not in drawn
        assert screen.say("/undo") == ["taken back; the end is now:", "> who", "I am Ada."]
        assert screen.say("/undo") == ["taken back; nothing is said yet"]


def test_what_was_saved_is_loaded_and_goes_on(chat, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = Path("a talk.json")
    with chat("--system", "Bob") as screen:
        assert screen.say(f"/save {path}")[0].startswith("saved ")
        screen.say("sum")
        assert screen.say(f"/save {path}")[0].startswith("saved "), "its own file is written again"
        saved = path.read_bytes()
    with chat() as screen:
        screen.say("who")
        assert "is there already; give another name" in " ".join(screen.say(f"/save {path}"))
        assert screen.say(f"/load {path}")[-3:] == ["> sum", "two and two is four.", "It is é 四."]
        assert screen.say("who") == ["I am Bob."]
        assert screen.say("/undo")[-3:] == ["> sum", "two and two is four.", "It is é 四."]
        screen.say(f"/save {path}")
    assert path.read_bytes() == saved
    assert json.loads(saved)["messages"][0] == {"role": "system", "content": "Bob"}


@pytest.mark.parametrize("typed, sentence", [
    ("/retri", "there is no command /retri; did you mean /retry? (/help lists them; a text that begins with / is "
               "sent with // instead)"),
    ("/", "there is no command / (/help lists them"),
    ("/temp hot", "/temp wants a number, such as 0.7, and found 'hot'"),
    ("/temp -1", "temperature is -1; wanted 0"),
    ("/temp nan", "temperature is nan"),
    ("/undo it", "/undo takes nothing behind it, and found 'it'"),
    ("/save", "/save wants a file: /save FILE"),
    ("/save no/such/file", "no/such/file: No such file or directory"),
    ("/load no.json", "no.json: No such file or directory"),
    ("/load broken.json", "broken.json is no JSON"),
    ("/load list.json", "list.json holds list, wanted an object"),
    ("/load forged.json", "forged.json: message 1: there is no role 'root'"),
])
def test_what_cannot_be_done_is_a_sentence_and_nothing_changes(chat, tmp_path, monkeypatch, typed, sentence):
    monkeypatch.chdir(tmp_path)
    Path("broken.json").write_text("{")
    Path("list.json").write_text("[]")
    Path("forged.json").write_text('{"messages": [{"role": "root", "content": "x"}]}')
    with chat() as screen:
        screen.say("who")
        assert sentence in " ".join(screen.say(typed))
        assert screen.say("/save talk.json") == ["saved talk.json"]
    assert len(json.loads(Path("talk.json").read_text())["messages"]) == 2


def test_a_long_conversation_loses_its_beginning_which_is_said_once(chat, tmp_path):
    with chat("--context", 80, "--system", "Bob", "--max_tokens", 40) as screen:
        answers = [screen.say("sum") for _ in range(6)]
        assert screen.say("who") == ["I am Bob."]
        assert screen.say("x " * 80)[-1].endswith("has room for 60; shorten it")
        assert screen.say("who") == ["I am Bob."]
        screen.say(f"/save {tmp_path / 'talk.json'}")
    told = ["the conversation no longer fits the context; the model does not see its oldest", "turns"]
    said = ["two and two is four.", "It is é 四."]
    assert [answer for answer in answers if answer != said] == [told + said]
    assert len(json.loads((tmp_path / "talk.json").read_text())["messages"]) == 1 + 2 * 8, "nothing is lost"


# ---- beside a terminal ---------------------------------------------------------------------------


def test_a_pipe_gets_the_answer_and_nothing_else(model):
    assert piped(model, "who\n") == (b"I am Ada.\n", "")
    assert piped(model, "", "--prompt", "who") == (b"I am Ada.\n", "")
    assert piped(model, "muse") == (b"yes\n", "")
    assert piped(model, "sum") == ("two and two is four.\n\nIt is é 四.\n".encode(), ""), "no blanks around it"
    assert piped(model, "tool") == (b"Let me see\nIt is rain [1].\n", f"llmc: {NO_SEARCH}\n")
    assert piped(model, "empty") == (b"\n", "llmc: an empty answer\n")
    assert piped(model, "ticks", "--max_tokens", 3) == (b"tick tick tick\n",
                                                        "llmc: cut after 3 tokens (--max_tokens)\n")
    assert piped(model, "ticks", "--context", 24) == (
        b" ".join([b"tick"] * 8) + b"\n", "llmc: cut after 8 tokens: the context is full\n")


def test_python_m_llmc_chat_is_the_same(model):
    command = [sys.executable, "-m", "llmc.chat", model, "--prompt", "who"]
    done = subprocess.run(command, capture_output=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, b"I am Ada.\n")


@pytest.mark.parametrize("text, flags, sentence", [
    (" \n", (), "standard input holds no message"),
    (b"\xff", (), "standard input is not UTF-8; wanted a text"),
    ("x" * 16000, (), "the message makes 16,015 tokens, and beside an answer the context of 16,384 has room for"),
    ("who", ("--context", 50000), "a context of 50,000 tokens was asked for, but the model's holds 16,384"),
    ("who", ("--top_p", 0.5), "top_p means nothing with temperature 0"),
    ("who", ("--template", "llama3"), "has no special token <|begin_of_text|>, which the template llama3 writes"),
    ("who", ("--base", "--system", "x"), "--base goes on with a document, which has no turns; leave --system out"),
])
def test_what_cannot_be_answered_is_one_sentence(model, text, flags, sentence):
    out, err = piped(model, text, *flags, status=1)
    assert out == b"" and err.startswith("llmc: ") and sentence in err and err.count("\n") == 1


def test_a_terminal_is_not_talked_to_through_a_file(model, tmp_path):
    _, slave = pty.openpty()
    done = subprocess.run([*LLMC, model], stdin=slave, capture_output=True, timeout=60)
    assert done.returncode == 1 and done.stderr.startswith(b"llmc: standard output is no terminal; give a --prompt")


# ---- a base model --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def base(model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights with a tokenizer that has no tokens of conversations."""
    folder = talking.write(tmp_path_factory.mktemp("base") / "base")
    known = talking.tokenizer()
    bare = Tokenizer("bare", Encoding(GPT2_PATTERN, known.ranks, {EOT: known.eot}))
    (folder / "tokenizer.json").write_bytes(bare.to_json())
    return folder


def test_a_base_model_wants_to_be_told_so(base):
    _, err = piped(base, "who", status=1)
    assert "is a base model, which knows no conversations; --base lets it go on with what you type" in err


def test_a_base_model_goes_on_with_a_document(base, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = Path("document.txt")
    with Screen(*LLMC, base, "--base", "--temperature", 0, "--max_tokens", 5, erased=True) as screen:
        assert "a document grows here" in screen.ready()[1]
        said = screen.say("tick tick tick tick")
        assert said == ["tick" + " tick" * 8, "cut after 5 tokens (--max_tokens)"]
        assert screen.say("") == [" tick tick tick tick tick", "cut after 5 tokens (--max_tokens)"]
        assert screen.say("/system x") == ["a document has no turns, so /system means nothing here"]
        assert screen.say(f"/save {path}")[0].startswith("saved ")
        assert path.read_text() == "tick" + " tick" * 13
        assert screen.say("/undo") == ["taken back; the end is now:", "tick" + " tick" * 8]
        screen.say("/new")
        assert screen.say("/save other") == ["nothing is written yet, so there is nothing to save"]
        assert screen.say(f"/load {path}")[-1] == "tick" + " tick" * 13
        screen.say(" tick")
        screen.say(f"/save {path}")
    assert path.read_text() == "tick" + " tick" * 19


def test_ctrl_c_stops_a_document_and_not_the_program(base):
    with Screen(*LLMC, base, "--base", "--temperature", 0, "--max_tokens", 15000) as screen:
        screen.ready()
        screen.type("tick tick tick tick\r")
        screen.until(lambda lines: len(lines) > 5 and lines[-1].startswith("tick"), "three lines")
        screen.type("\x03")
        assert screen.ready()[-3] == "stopped"
        screen.type("\x04")
        assert screen.end() == 0


def test_a_pipe_gets_what_the_document_goes_on_with(base):
    assert piped(base, "tick tick tick tick", "--base", "--max_tokens", 3)[0] == b" tick tick tick\n"
