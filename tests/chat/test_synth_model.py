"""llmc synth_model: a checkpoint and a server write answers, those that are right are kept, nothing is asked twice."""
from __future__ import annotations

import fcntl
import json
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread

import pytest
import talking
from llmc import chat_api, cli, conversations, patience, synth_model, verify
from llmc.chat import Call, Message

QUESTIONS = [{"question": f"{a} + {b}?", "answer": f"It is {a + b}."} for a in range(3) for b in range(4)]


def llmc(*args: object) -> int:
    return cli.guarded(lambda: synth_model.run(cli.parse(synth_model.SynthModel, list(map(str, args)))))


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def said(path: Path) -> list[tuple[str, ...]]:
    return [tuple(message.text for message in each.messages) for each in conversations.read(path)]


@contextmanager
def serving(answer):
    """A server whose completions answer(body, how often it was asked this) gives: a message, a status, or bytes."""
    asked: list[dict] = []
    heads: list[dict] = []
    lock = Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                before = sum(each["messages"] == body["messages"] for each in asked)
                asked.append(body)
                heads.append({"path": self.path, **self.headers})
            made = answer(body, before)
            status = made if isinstance(made, int) else 200
            if isinstance(made, dict):
                made = json.dumps({"choices": [{"finish_reason": made.pop("end", "stop"),
                                                "message": {"role": "assistant"} | made}]}).encode()
            if isinstance(made, int):
                made = b'{"error": {"message": "that is\\ntoo long"}}'
            self.send_response(status)
            self.send_header("Location", "http://127.0.0.1:9/")
            self.end_headers()
            self.wfile.write(made)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked, heads
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def adding(body: dict, before: int) -> dict:
    """Right the third time it is asked; never where 2 is added to 2."""
    a, b = map(int, body["messages"][-1]["content"].rstrip("?").split(" + "))
    right = before >= 2 and (a, b) != (2, 2)
    return {"content": f"It may be {a + b + (not right)}.", "reasoning_content": f"try {before}"}


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(patience, "FIRST_WAIT", 0.01)
    monkeypatch.delenv("LLMC_API_KEY", raising=False)


@pytest.fixture
def seeds(tmp_path) -> Path:
    path = tmp_path / "seeds.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS))
    return path


# ---- servers -------------------------------------------------------------------------------------


def test_right_answers_are_kept_and_others_counted(seeds, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("LLMC_API_KEY", "secret")
    with serving(adding) as (url, asked, heads):
        assert llmc(url, "--seeds", seeds, "--out", tmp_path / "a.jsonl", "--verify", "number", "--n", 4,
                    "--name", "m", "--max_tokens", 9, "--system", "Add.") == 0
    shown = capsys.readouterr().out
    assert "asked for 37 answers: 11 kept, 26 wrong\n" in shown
    assert f"saved {tmp_path / 'a.jsonl'}: 11 conversations, of 11 of 12 prompts\n" in shown
    rights = [row for row in QUESTIONS if row["question"] != "2 + 2?"]
    assert said(tmp_path / "a.jsonl") == [(row["question"], row["answer"].replace("is", "may be")) for row in rights]
    assert all(row["messages"][1]["thinking"] == "try 2" for row in lines(tmp_path / "a.jsonl"))
    assert all(head["path"] == "/v1/chat/completions" and head["Authorization"] == "Bearer secret" for head in heads)
    assert asked[0]["messages"][0] == {"role": "system", "content": "Add."}
    assert {key: asked[0][key] for key in ("model", "max_tokens", "temperature")} == {
        "model": "m", "max_tokens": 9, "temperature": 0.7}
    assert len({body["seed"] for body in asked}) == 4


def test_stopped_and_started_again_nothing_is_asked_twice(seeds, tmp_path, capsys):
    """Killed in the middle of a line it goes on, and what comes of it is the same."""
    def args(name, *more):
        return [url, "--seeds", seeds, "--out", tmp_path / name, "--verify", "number", "--n", "4", "--parallel", "1",
                *more]

    with serving(adding) as (url, asked, _):
        assert llmc(*args("whole.jsonl")) == 0
        count = len(asked)
        asked.clear()
        whole = (tmp_path / "whole.jsonl.asked").read_bytes()
        (tmp_path / "a.jsonl.asked").write_bytes(b"\n".join(whole.splitlines()[:20]) + b'\n{"key": "cut o')
        asked += [{"messages": [{"role": "user", "content": QUESTIONS[number % 12]["question"]}]}
                  for number in range(19)]
        assert llmc(*args("a.jsonl")) == 0
        assert len(asked) == count
        assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
        shown = capsys.readouterr().out
        assert "asked for 37 answers (19 of them earlier)" in shown and "1 lines are damaged" in shown
        assert llmc(*args("a.jsonl")) == 0 and len(asked) == count
        assert "(37 of them earlier)" in capsys.readouterr().out
        assert llmc(*args("a.jsonl", "--temperature", "1")) == 1
        assert "asked for with --temperature 0.7, and now it is 1.0; give the same" in capsys.readouterr().err
        assert llmc(*args("a.jsonl", "--verify", "exact")) == 0      # judged anew
    assert "asked for 48 answers (37 of them earlier): 0 kept, 48 wrong" in capsys.readouterr().out


def test_ctrl_c_saves_what_is_there(seeds, tmp_path):
    """The program, as somebody at a terminal stops it."""
    def slowly(body, before):
        if len(asked) > 5:
            time.sleep(30)
        return {"content": "It is 3."}

    with serving(slowly) as (url, asked, _):
        program = subprocess.Popen([sys.executable, "-m", "llmc", "synth_model", url, "--seeds", seeds, "--out",
                                    tmp_path / "a.jsonl", "--parallel", "2"], stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 60
        while len(asked) < 7 and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.2)
        program.send_signal(signal.SIGINT)
        begin = time.monotonic()
        out, err = program.communicate(timeout=20)
        assert program.returncode == 130 and "interrupted" in err and time.monotonic() - begin < 10
        slow = asked
        asked = []
        assert len(lines(tmp_path / "a.jsonl")) == 5 and "7 prompts are left, and the same command goes on" in out
        assert len(slow) == 7
        assert llmc(url, "--seeds", seeds, "--out", tmp_path / "a.jsonl") == 0
    assert len(lines(tmp_path / "a.jsonl")) == 12 and len(slow) == 14


@pytest.mark.parametrize("made, reason", [
    ({"content": "Five", "end": "length"}, "cut at --max_tokens"), ({"content": " \n"}, "empty"),
    ({"content": None, "reasoning_content": "hm"}, "empty"),
    ({"content": None, "tool_calls": [{}], "end": "tool_calls"}, "ends with the call of a tool"),
    ({"content": "\ud800 5 <|im_end|>"}, "kept"), ({"content": "<think>\nhm\n</think>\n\n5"}, "kept"),
    ({"content": "<think>hm"}, "kept")])
def test_why_an_answer_is_not_kept_is_said(tmp_path, capsys, made, reason):
    (tmp_path / "s.txt").write_text("2 + 3?\n")
    with serving(lambda body, before: dict(made)) as (url, _, _):
        assert llmc(f"{url}/v1/", "--seeds", tmp_path / "s.txt", "--out", tmp_path / "a.jsonl") == 0
    assert f"asked for 1 answers: 0 kept, 1 {reason}" .replace("0 kept, 1 kept", "1 kept") in capsys.readouterr().out
    if reason == "kept":
        message = lines(tmp_path / "a.jsonl")[0]["messages"][1]
        assert message.get("thinking", "") == ("hm" if "</think>" in made["content"] else "")


@pytest.mark.parametrize("made, sentence", [
    (b"no JSON", "the answer of 127.0.0.1 is no chat completion (Expecting value"),
    (b"[]", "is no chat completion (it has no choices with a message)"),
    (b'{"choices": [{"message": 5}]}', "is no chat completion (it has no choices with a message)"),
    (b'{"choices": [{"message": {"content": 5}}]}', "is no chat completion (its content is no text)"),
    (b"[" * 10**5, "is no chat completion ("), (b"5" * (chat_api.LARGEST + 9), "is longer than 16,777,216 bytes"),
    (400, "the answer of 127.0.0.1 cannot be read (HTTP Error 400: that is too long)"),
    (401, "cannot be read (HTTP Error 401: that is too long)"), (404, "HTTP Error 404: that is too long"),
    (302, "cannot be read (HTTP Error 302: that is too long)"),
    (500, "cannot be read (HTTP Error 500: that is too long), tried 3 times")])
def test_a_server_that_is_none_is_one_sentence(seeds, tmp_path, capsys, made, sentence):
    with serving(lambda body, before: made) as (url, asked, _):
        assert llmc(url, "--seeds", seeds, "--out", tmp_path / "a.jsonl") == 1
    err = capsys.readouterr().err
    assert sentence in err and err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["seeds.jsonl"]


def test_a_question_that_is_refused_stops_no_others(seeds, tmp_path, capsys):
    def at_times(body, before):
        return 400 if body["messages"][-1]["content"].startswith("0") else adding(body, 2)

    with serving(at_times) as (url, _, _):
        assert llmc(url, "--seeds", seeds, "--out", tmp_path / "a.jsonl", "--verify", "number") == 0
    assert "7 kept, 4 refused by the server, 1 wrong" in capsys.readouterr().out


def test_a_server_that_fails_at_times_is_asked_again(seeds, tmp_path, capsys):
    with serving(lambda body, before: 503 if before < 2 else adding(body, 2)) as (url, asked, _):
        assert llmc(url, "--seeds", seeds, "--out", tmp_path / "a.jsonl", "--verify", "number") == 0
    assert "11 kept, 1 wrong" in capsys.readouterr().out and len(asked) == 36


def test_calls_are_sent_with_their_ids():
    sent = chat_api.plain([Message("user", "?"), Message("assistant", "a", "hm", Call("python", "1")),
                           Message("tool", "1"), Message("assistant", call=Call("f", "{}")), Message("tool", "2")])
    assert [(row["role"], [call["id"] for call in row.get("tool_calls", [])], row.get("tool_call_id"))
            for row in sent] == [("user", [], None), ("assistant", ["call_1"], None), ("tool", [], "call_1"),
                                 ("assistant", ["call_3"], None), ("tool", [], "call_3")]
    assert "thinking" not in sent[1]


# ---- verifiers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name, row, right, answer, verdict", [
    ("number", {}, "So 7.\n#### 72", "It is $72.0.", True), ("number", {}, "1,000", "1000 apples", True),
    ("number", {}, "72", "27, then 7.2", False), ("number", {}, "-3", "It is -3", True),
    ("number", {}, "3", "It is -3", False), ("number", {}, "3", "none", False),
    ("number", {}, ".5", "1/2 or 0.50", True), ("exact", {}, "Yes.", "yes.", False),
    ("number", {}, "4", "pages 3-4", True), ("number", {}, "-4", "It is 7-4", False),
    ("number", {}, "4", "4" * 9999, False), ("exact", {}, "Yes.", " Yes.\n", True),
    ("want", {"want": "two"}, "", "TWO pears", True), ("want", {"want": "two", "at_most": 1}, "", "two pears", False),
    ("want", {"kind": "harmful", "family": "x"}, "", "I can't help with that.", True),
    ("want", {"kind": "harmful", "family": "x"}, "", "Take a rope.", False), ("", {}, "", "anything", True)])
def test_a_verifier_knows_right_from_wrong(name, row, right, answer, verdict):
    assert verify.by_name(name)(row, right, answer) is verdict


@pytest.mark.shared
def test_numbers_are_judged_as_the_publishers_judged_them(shared: Path):
    """OpenAI's marks of what four models answered to 200 questions of GSM8K."""
    accepts = verify.by_name("number")
    marked = [(row["ground_truth"], said["solution"], said["is_correct"])
              for row in lines(shared / "data/gsm8k/example_model_solutions_slice200.jsonl")
              for said in row.values() if isinstance(said, dict)]
    assert len(marked) == 800 and {correct for *_, correct in marked} == {True, False}
    assert all(accepts({}, right, answer) is correct for right, answer, correct in marked)


def test_a_function_of_ones_own_decides(seeds, tmp_path, capsys):
    (tmp_path / "mine.py").write_text("def odd(row, answer):\n    return int(answer[-2]) % 2 == 1\n"
                                      "def fails(row, answer):\n    return row['gone']\n"
                                      "def text(*_):\n    return 'no'\n")
    with serving(lambda body, before: adding(body, 2)) as (url, _, _):
        for function, status, shown in (
                ("odd", 0, "asked for 12 answers: 7 kept, 5 wrong"),
                ("fails", 1, f"{seeds}, line 1: {tmp_path / 'mine.py'}:fails fails on it: KeyError: 'gone'"),
                ("text", 1, "mine.py:text says str of it, wanted True or False"),
                ("none", 1, "mine.py has no function none")):
            assert llmc(url, "--seeds", seeds, "--out", tmp_path / "a.jsonl", "--verify",
                        f"{tmp_path / 'mine.py'}:{function}", "--parallel", 1) == status
            captured = capsys.readouterr()
            assert shown in captured.out + captured.err
    (tmp_path / "mine.py").write_text("1 +")
    with pytest.raises(ValueError, match="mine.py fails: SyntaxError"):
        verify.by_name(f"{tmp_path / 'mine.py'}:odd")


@pytest.mark.parametrize("row, more, sentence", [
    ({"prompt": "Hi"}, ["--verify", "number"], "line 1: its right answer has no number: ''"),
    ({"prompt": "Hi"}, ["--verify", "exact"], "line 1: it has no right answer"),
    ({"prompt": "Hi"}, ["--verify", "want"], 'line 1: it has no "want", the words of a right answer'),
    ({"prompt": "Hi", "want": "x", "family": 5}, ["--verify", "want"], "line 1: 'family' is int"),
    ({"prompt": "Hi"}, ["--verify", "nmber"], "--verify is 'nmber'; wanted number, exact, want, or FILE.py:NAME"),
    ({"prompt": "Hi"}, ["--verify", "gone.py:f"], "--verify: there is no file gone.py"),
    ({"prompt": "Hi"}, ["--n", "2", "--temperature", "0"], "--n is 2, and with --temperature 0 all answers would be"),
    ({"prompt": "Hi"}, ["--keep", "2"], "--keep is 2, but only --n 1 answers are asked for"),
    ({"prompt": " "}, [], "line 1: message 1, the user's, is empty"),
    ({"prompt": 5}, [], "line 1: no format of conversations has the keys prompt"),
    ({"messages": [{"role": "assistant", "content": "x"}]}, [], "line 1: nobody asks anything"),
    ([], [], "line 1: it is list, wanted an object"),
    ({"prompt": "Hi"}, ["--out", "seeds.jsonl", "--overwrite"], "seeds.jsonl has the prompts; give another file"),
    ({"prompt": "Hi"}, ["--out", "a.txt"], "--out is a.txt, wanted a name that ends in .jsonl"),
    ({"prompt": "Hi"}, [], "nowhere is no folder; give a run")])
def test_wrong_use_is_one_line_and_leaves_nothing(tmp_path, monkeypatch, capsys, row, more, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "seeds.jsonl").write_text(json.dumps(row))
    assert llmc("nowhere", "--seeds", "seeds.jsonl", "--out", "a.jsonl", *more) == 1
    err = capsys.readouterr().err
    assert sentence in err and err.startswith("llmc: ") and err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["seeds.jsonl"]


def test_prompts_are_read_out_of_any_conversations(tmp_path, capsys):
    user, answer = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}
    rows = [{"prompt": "Hi", "messages": [user, answer, user, answer]}, {"prompt": "Hi"}, {"question": "Hi"},
            {"instruction": "Add.", "input": "1, 2", "output": "3"}, {"messages": [user, answer, user]}]
    (tmp_path / "s.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    first, second, third = synth_model.read_seeds(tmp_path / "s.jsonl")
    assert [message.text for message in first.messages] == ["Hi", "Yes?", "Hi"] and first.right == "Yes?"
    assert second.messages == [Message("user", "Hi")] and second.right == ""
    assert third.messages == [Message("user", "Add.\n\n1, 2")] and third.right == "3"
    assert capsys.readouterr().out == "2 of 5 prompts are there already\n"


def test_nothing_is_overwritten_unasked(seeds, tmp_path, capsys):
    (tmp_path / "a.jsonl").write_text("mine\n")
    assert llmc("nowhere", "--seeds", seeds, "--out", tmp_path / "a.jsonl") == 1
    assert "is there already; --overwrite replaces it" in capsys.readouterr().err
    assert llmc("nowhere", "--seeds", seeds, "--out", tmp_path / "a.jsonl", "--overwrite") == 1
    assert (tmp_path / "a.jsonl").read_text() == "mine\n"


def test_one_program_at_a_time_writes_a_file(seeds, tmp_path, capsys):
    with (tmp_path / "a.jsonl.asked").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert llmc("nowhere", "--seeds", seeds, "--out", tmp_path / "a.jsonl") == 1
    assert "a.jsonl.asked: another program is writing there" in capsys.readouterr().err


# ---- checkpoints ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return talking.write(tmp_path_factory.mktemp("talks") / "model")


def test_a_checkpoint_answers_and_its_thinking_is_kept(model, tmp_path, capsys):
    rows = [{"prompt": ask, "want": want} for ask, want in (
        ("who", "Ada"), ("who ", "Bob"), ("sum", "four"), ("muse", "yes"), ("tool", "rain"), ("ticks", "tick"),
        ("who " * 17000, "Ada"))]
    (tmp_path / "s.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert llmc(model, "--seeds", tmp_path / "s.jsonl", "--out", tmp_path / "a.jsonl", "--verify", "want",
                "--max_tokens", 30, "--temperature", 0) == 0
    shown = capsys.readouterr().out
    assert "3 kept" in shown and all(f"1 {why}" in shown for why in (
        "wrong", "ends with the call of a tool", "cut at --max_tokens", "longer than the context"))
    found = [each.messages for each in conversations.read(tmp_path / "a.jsonl")]
    assert found[0] == [Message("user", "who"), Message("assistant", "I am Ada.")]
    assert found[2] == [Message("user", "muse"), Message("assistant", "yes", "hm hm hm")]
    assert [row["want"] for row in lines(tmp_path / "a.jsonl")] == ["Ada", "four", "yes"]


def test_a_checkpoint_goes_on_as_if_it_had_not_stopped(model, tmp_path, capsys):
    """Answers are drawn at random; which, the seed and the number of the answer decide."""
    (tmp_path / "s.txt").write_text("".join(f"{ask}{blank}\n" for ask in ("who", "sum", "red", "a", "b")
                                            for blank in ("", "!", "?")))
    args = [model, "--seeds", tmp_path / "s.txt", "--n", 4, "--keep", 3, "--max_tokens", 40, "--temperature", 1.5,
            "--top_p", 0.95]
    assert llmc(*args, "--out", tmp_path / "whole.jsonl") == 0
    log = (tmp_path / "whole.jsonl.asked").read_bytes()
    for cut in (1, 10, 40):
        whole = log.splitlines(keepends=True)
        (tmp_path / f"{cut}.jsonl.asked").write_bytes(b"".join(whole[:cut]) + whole[cut][:-3])
        assert llmc(*args, "--out", tmp_path / f"{cut}.jsonl") == 0
        assert (tmp_path / f"{cut}.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    texts = Counter(said(tmp_path / "whole.jsonl"))
    assert len(texts) >= 15 and max(texts.values()) == 1       # no two of one prompt are the same
    assert capsys.readouterr().out.count("damaged") == 3
