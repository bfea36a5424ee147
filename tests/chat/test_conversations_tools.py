"""Published ways to write calls of tools, read without losing a character, or refused with the reason."""
from __future__ import annotations

import json
import lzma
import re
import time
from fractions import Fraction
from pathlib import Path

import pytest
from llmc import chat, conversations, encodings
from llmc.chat import Call, Message
from llmc.conversations import messages_of
from llmc.encodings import CHAT_TOKENS, Encoding
from llmc.tokenizer import Tokenizer

RAIN, SUN = Call("rain", '{"city": "Ulm"}'), Call("sun", '{"city": "Bonn"}')
ASKED = Message("user", "Rain in Ulm, sun in Bonn?")
BOTH = [ASKED, Message("assistant", "I look.", call=RAIN), Message("tool", "dry"), Message("assistant", call=SUN),
        Message("tool", "hot"), Message("assistant", "No, and yes.")]


def calls(*ids):
    return [{"id": id, "type": "function", "function": {"name": call.tool, "arguments": call.text}}
            for id, call in zip(ids, (RAIN, SUN))]


def openai(*outputs, made=("a", "b")):
    return {"messages": [{"role": "user", "content": ASKED.text},
                         {"role": "assistant", "content": "I look.", "tool_calls": calls(*made)}, *outputs,
                         {"role": "assistant", "content": "No, and yes."}]}


def output(text, id=None):
    return {"role": "tool", "content": text} | ({"tool_call_id": id} if id else {})


def sharegpt(*turns, **more):
    names = {"h": "human", "g": "gpt", "f": "function_call", "o": "observation", "t": "tool"}
    return {"conversations": [{"from": names[who], "value": text} for who, text in turns]} | more


def as_json(call):
    return json.dumps({"name": call.tool, "arguments": json.loads(call.text)})


HERMES = [("h", ASKED.text), ("g", f"I look.\n<tool_call>\n{as_json(RAIN)}\n</tool_call>\n"
                                   f"<tool_call>{{'name': 'sun', 'arguments': {{'city': 'Bonn'}}}}</tool_call>"),
          ("t", "<tool_response>\ndry\n</tool_response>\n<tool_response>\nhot\n</tool_response>"),
          ("g", "No, and yes.")]
GLAIVE = ("USER: Rain in Ulm?\n\n\nASSISTANT: <functioncall> {\"name\": \"rain\", \"arguments\": "
          "'{\"city\": \"Ulm\"}'} <|endoftext|>\n\n\nFUNCTION RESPONSE: dry\n\n\nASSISTANT: No.\n\nUSERS: all <|endoftext|>")
TOOLS = [{"name": "python", "description": "A shell.", "parameters": {
    "type": "object", "properties": {"code": {"type": "string"}}, "required": ["code"]}},
         {"name": "news", "description": "Headlines.\nOf today.", "parameters": {
             "type": "object", "properties": {"topic": {"type": "string"}}, "required": ["topic"]}}]
HEADER = ("toolformer: enabled\ntoolformer access: python, news\nA shell.\npython(codetoexecute)\nHeadlines.\n"
          "Of today.\nnews(topic)\n")


def toolformer(response, header=HEADER, **more):
    return {"instruction": f"{header}Do it.", "input": "now", "response": response} | more


DONE = [Message("system", f"Tools:\n{json.dumps(TOOLS)}"), Message("user", "Do it.\n\nnow")]


@pytest.mark.parametrize("row, messages", [
    (openai(output("dry", "a"), output("hot", "b")), BOTH),
    (openai(output("hot", "b"), output("dry", "a")), BOTH),
    (openai(output("dry"), output("hot")), BOTH),
    (sharegpt(("h", ASKED.text), ("g", "I look."), ("f", as_json(RAIN)), ("f", as_json(SUN)), ("o", "dry"),
              ("o", "hot"), ("g", "No, and yes.")), BOTH),
    (sharegpt(("h", ASKED.text), ("g", "I look."), ("f", f"[{as_json(RAIN)}, {as_json(SUN)}]"), ("o", "dry"),
              ("o", "hot"), ("g", "No, and yes.")), BOTH),
    (sharegpt(*HERMES, tools=[]), BOTH),
    (sharegpt(*HERMES, system="See <tools>[1]</tools>"), [Message("system", "See <tools>[1]</tools>"), *BOTH]),
    ({"messages": [{"role": "system", "content": "<tools>[1]</tools>"}, {"role": "user", "content": ASKED.text},
                   {"role": "assistant", "content": HERMES[1][1]}, output(HERMES[2][1]),
                   {"role": "assistant", "content": "No, and yes."}], "tools": "[1]"},
     [Message("system", "<tools>[1]</tools>"), *BOTH]),
    ({"system": "SYSTEM: Be kind.", "chat": GLAIVE},
     [Message("system", "Be kind."), Message("user", "Rain in Ulm?"), Message("assistant", call=RAIN),
      Message("tool", "dry"), Message("assistant", "No.\n\nUSERS: all")]),
    ({"id": 1, "query": "Rain?", "tools": '[{"name": "rain"}]', "answers": f"[{as_json(RAIN)}]"},
     [Message("system", 'Tools:\n[{"name": "rain"}]'), Message("user", "Rain?"), Message("assistant", call=RAIN)]),
    (toolformer("None is needed."), [*DONE, Message("assistant", "None is needed.")]),
    (toolformer("It is python('6 * 7')"), [*DONE, Message("assistant", "It is ", call=Call("python", "6 * 7"))]),
    (toolformer("See news('What's \\'new\\'?'), then python(\"'7'\")."),
     [*DONE, Message("assistant", "See ", call=Call("news", json.dumps({"topic": "What's 'new'?"}))), Message("tool"),
      Message("assistant", ", then ", call=Call("python", "'7'"), learned=False), Message("tool"),
      Message("assistant", ".", learned=False)]),
    ({"question": "6 * 7?", "answer": "Say cout << 1 = 2 >> it."},
     [Message("user", "6 * 7?"), Message("assistant", "Say cout << 1 = 2 >> it.")])])
def test_calls_are_read_one_at_a_time(row, messages):
    found = messages_of(row)
    assert found == messages
    chat.check(found)


def test_a_text_that_speaks_of_tags_stays_as_it_is():
    row = sharegpt(("h", "How?\n<tool_call>"), ("g", "Write <tool_call>{…}</tool_call>, then <tool_response>."))
    assert [message.text for message in messages_of(row)] == [turn["value"] for turn in row["conversations"]]


@pytest.mark.parametrize("row, sentence", [
    (openai(output("dry", "a")), "message 2, the assistant's, has 2 calls of tools and not 2 outputs right behind it"),
    (openai(output("dry", "a"), output("hot", "c")), "has the calls 'a, b', and behind it are the outputs of 'a, c'"),
    (openai(output("dry", "a"), output("hot", "a")), "has the calls 'a, b', and behind it are the outputs of 'a, a'"),
    (openai(output("dry", "a"), output("hot", "b"), made="aa"), "has the calls 'a, a', and behind it"),
    (sharegpt(("h", "?"), ("g", "<tool_call>{]</tool_call>")), "message 2 has a call that is no object in JSON: "),
    (sharegpt(("h", "?"), ("g", "<tool_call>")), "message 2, the assistant's, has a <tool_call> that does not end"),
    (sharegpt(("h", "?"), ("g", f"<tool_call>{as_json(RAIN)}</tool_call> Fine.")), "text behind its call: 'Fine.'"),
    (sharegpt(("h", "?"), ("g", '<tool_call>{"name": 5}</tool_call>')), "message 2 has a call that names no function"),
    (sharegpt(("h", "?"), ("g", "<tool_call>{'name': {1}}</tool_call>")), "a call that is no object in JSON"),
    (sharegpt(("h", "?"), ("g", "<tool_call>" + "[" * 10**5 + "</tool_call>")), "a call that is no object in JSON"),
    (sharegpt(("h", "?"), ("f", '{"name": "f", "arguments": {}, "why": 1}')),
     "turn 2 is no call of a function: has a call with why beside its arguments"),
    (sharegpt(("h", "?"), ("f", '{"name": "f", "arguments": {"a": 1, "a": 2}}')), "an object has a key twice"),
    (sharegpt(("h", "?"), ("f", '{"name": "f", "arguments": {"a": 1e999}}')), "calls f with arguments that are no JSON: "),
    (sharegpt(("h", "?"), ("f", "[5]")), "turn 2 is no call of a function: has a call that names no function"),
    ({"chat": "Hello"}, "chat begins with 'Hello', wanted USER: or ASSISTANT:"),
    ({"chat": ["USER: "]}, "system and chat are to be texts"),
    ({"chat": "USER: a <|endoftext|> b"}, "<|endoftext|> stands in the middle of what somebody says"),
    ({"query": "?", "tools": "[]", "answers": f"[{as_json(RAIN)}, {as_json(SUN)}]"}, "it has 2 calls at a time"),
    ({"query": "?", "tools": "[]", "answers": "[]"}, "it has 0 calls at a time"),
    ({"query": "?", "tools": "[", "answers": "[]"}, "tools or answers are no JSON: "),
    ({"query": 5, "tools": "[]", "answers": "[]"}, "query is to be a text, and answers a list of calls"),
    ({"query": "?", "tools": "[]", "answers": "[5]"}, "the answer has a call that names no function"),
    (toolformer("news(topic)"), "its call of news does not hold one text in quotes: 'news(topic)'"),
    (toolformer("news('a', 'b')"), "its call of news does not hold one text in quotes: "),
    (toolformer("python('print('a')')"), "its call of python does not hold one text in quotes: "),
    (toolformer("python('a\\nb')"), "its call of python has a backslash, and does not say whether it is one: "),
    (toolformer("python('news(\"a\")')"), "its call of python has one of news inside"),
    (toolformer("x", example_input="y"), "it has example_input beside the response, which the format does not know"),
    (toolformer("x", input=5), "input and response are to be texts"),
    (toolformer("x", HEADER.replace("news(topic)", "")), "the instruction does not describe 'news'"),
    (toolformer("x", "toolformer: enabled\ntoolformer access: \n(a)\n"), "the instruction does not describe ''"),
    (toolformer("x", "toolformer: enabled\n"), "the instruction has no tool, or no task behind the tools"),
    ({"question": "?", "answer": 5}, "question and answer are to be texts")])
def test_what_may_lose_something_is_refused_with_the_reason(row, sentence):
    with pytest.raises(ValueError) as error:
        chat.check(messages_of(row))
    assert sentence in str(error.value) and "\n" not in str(error.value)


NOTED = {"question": "How many?", "answer": "48/2 = <<48/2=24>>24 in May,\n<<24+.5=24.5>>24.5 in all.\n#### 24.5"}


def test_notes_become_calls_of_the_calculator():
    first, second = Call("calculator", '{"expression": "48/2"}'), Call("calculator", '{"expression": "24+.5"}')
    assert messages_of(NOTED) == [
        Message("user", "How many?"), Message("assistant", "48/2 = ", call=first), Message("tool", "24"),
        Message("assistant", "24 in May,\n", call=second), Message("tool", "24.5"),
        Message("assistant", "24.5 in all.\n#### 24.5")]


def test_a_note_may_be_rounded():
    found = messages_of({"question": "?", "answer": "<<2/3=0.67>>0.67, <<.5*3=1.50>>\n#### 1.5"})
    assert [message.role for message in found] == ["user", *["assistant", "tool"] * 2, "assistant"]


@pytest.mark.parametrize("note, sentence", [
    ("<<48/2=25>>", "its note '<<48/2=25>>' is wrong: it is 24"),
    ("<<48/5=9>>", "its note '<<48/5=9>>' is wrong: it is 9.6"),
    ("<<2/3=0.66>>", "its note '<<2/3=0.66>>' is wrong: it is "),
    ("<<1=1e999999999>>", "its note '<<1=1e999999999>>' is wrong: it is 1"),
    ("<<48/=24>>", "its note '<<48/=24>>' is no calculation: "),
    ("<<1/0=24>>", "its note '<<1/0=24>>' is no calculation: "),
    ("<<48/2=about 24>>", "its note '<<48/2=about 24>>' is wrong: it is 24"),
    ("<<1+1=2>> << 5", "its answer has << outside of a note like <<48/2=24>>")])
def test_a_wrong_note_is_refused(note, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        messages_of({"question": "?", "answer": f"It is {note}.\n#### 24"})


@pytest.mark.parametrize("row", [
    sharegpt(("h", "?"), ("g", "<tool_call>" * 10**5)), sharegpt(("h", "?"), ("g", "<functioncall>" * 10**5)),
    sharegpt(("h", "?"), ("g", "<tool_call>{'a': " * 10**5)), sharegpt(("h", "?"), ("g", "\n \t" * 3 * 10**5)),
    sharegpt(("h", "?"), ("g", "\n<tool_call>{}</tool_call>" * 4 * 10**4)),
    sharegpt(("h", "?"), ("f", "[" * 10**6)), sharegpt(("h", "?"), ("t", "<tool_response>" * 10**5)),
    {"chat": "USER: a" + "\n" * 10**6}, {"chat": "USER:\n\n" * 10**5}, {"chat": "USER: <|endoftext|>" * 10**5},
    toolformer("python('" * 10**5), toolformer("python('a'" * 10**5), toolformer('python("' * 10**5),
    toolformer("python('" + "a'a" * 3 * 10**5), toolformer("x", HEADER.replace("python,", "python," * 10**4)),
    toolformer("x", HEADER + "\npython(" * 10**5), {"question": "?", "answer": "<<1=" * 3 * 10**5 + "\n#### 1"},
    {"question": "?", "answer": "<" * 10**6 + "\n#### 1"}, {"question": "?", "answer": "\n#### " * 10**5}],
    ids=range(19))
def test_a_megabyte_of_nonsense_is_read_or_refused_at_once(row):
    begin = time.process_time()
    try:
        chat.check(messages_of(row))
    except ValueError as error:
        assert len(str(error)) < 2000
    assert time.process_time() - begin < 5          # what grows with the square takes minutes


ODD = [None, 5, "", [], [5], {}, {"": 5}, "\ud800", "<tool_call>", True, [[]], [{}], {"from": [], "value": {}}]


@pytest.mark.parametrize("keys", ["messages", "conversations", "chat system", "query tools answers", "question answer",
                                  "instruction output input", "messages tools"])
def test_wrong_types_are_refused_as_anything_is(keys):
    for first in ODD:
        for other in ODD:
            row = dict.fromkeys(keys.split(), other) | {keys.split()[0]: first}
            for each in (row, {key: [value, {"role": "assistant", "tool_calls": value, "content": other}]
                               for key, value in row.items()}):
                try:
                    chat.check(messages_of(each))
                except ValueError as error:
                    assert str(error)


# ---- published sets ------------------------------------------------------------------------------


def both_sides(path: Path):
    """Of a published array each row, and its conversation or None; and why some have none."""
    rows, faults = json.loads(lzma.open(path).read()), []
    made = {each.place: each.messages for each in conversations.read(path, faults.append)}
    assert len(made) + len(faults) == len(rows)
    assert all(re.match(r".*, item \d+: .{10}", str(fault)) for fault in faults)
    return [(row, made.get(f"{path}, item {number}")) for number, row in enumerate(rows, 1)], faults


def bare(text):
    """Without what marks a call and its text."""
    return re.sub(r"[\s'\"()\\]", "", text)


@pytest.mark.shared
def test_toolformer_loses_no_character(shared: Path):
    pairs, faults = both_sides(shared / "data/conversations/gpteacher_toolformer.json.xz")
    assert len(faults) < len(pairs) / 100
    for row, messages in pairs:
        if messages is None:
            continue
        system, user, *answer = messages
        tools = json.loads(system.text.removeprefix("Tools:\n"))
        own = {"python": "codetoexecute"}
        parts = [f"{tool['description']}\n{tool['name']}"
                 f"({own.get(tool['name']) or next(iter(tool['parameters']['properties']))})\n" for tool in tools]
        header = f"toolformer: enabled\ntoolformer access: {', '.join(tool['name'] for tool in tools)}\n"
        given = f"\n\n{row['input']}" if row["input"] else ""
        assert header + "".join(parts) + user.text == row["instruction"] + given
        said = "".join(message.text + (call.tool + (call.text if call.tool in ("python", "search")
                                                    else next(iter(json.loads(call.text).values())))
                                       if (call := message.call) else "") for message in answer)
        assert bare(said) == bare(row["response"])
        assert all(message.text == "" for message in answer if message.role == "tool")
        unknown = [message.learned for message in answer if message.role == "assistant"]
        assert unknown == [True] + [False] * (len(unknown) - 1)


@pytest.mark.shared
def test_glaive_loses_no_character(shared: Path):
    pairs, faults = both_sides(shared / "data/conversations/glaive_toolcall_en_demo.json.xz")
    assert not faults
    for row, messages in pairs:
        said = []
        for message in messages:
            said += [message.text] * bool(message.text)
            if call := message.call:
                said.append({"name": call.tool, "arguments": json.loads(call.text)})
        tools = [f"Tools:\n{row['tools']}"] if row["tools"] != "[]" else []
        assert said == tools + [json.loads(turn["value"]) if turn["from"] == "function_call" else turn["value"]
                                for turn in row["conversations"]]


@pytest.mark.shared
def test_gsm8k_loses_no_character(shared: Path):
    path = shared / "data/gsm8k/train.jsonl"
    rows, faults = [json.loads(line) for line in path.read_text().splitlines()], []
    made = {each.place: each.messages for each in conversations.read(path, faults.append)}
    assert len(made) + len(faults) == len(rows) == 7473 and len(faults) < 8
    assert all(re.search(r"train.jsonl, line \d+: its note '<<.*>>' is ", str(fault)) for fault in faults)
    for number, row in enumerate(rows, 1):
        if (messages := made.get(f"{path}, line {number}")) is None:
            continue
        answer = iter(re.split("<<(.*?)=(.*?)>>", row["answer"]))
        assert messages[0].text == row["question"]
        for message in messages[1:]:
            if message.role == "tool":
                assert Fraction(message.text) == Fraction(next(answer))
            else:
                assert message.text == next(answer)
            if message.call:
                assert json.loads(message.call.text) == {"expression": next(answer)}
        assert next(answer, None) is None


@pytest.mark.shared
@pytest.mark.parametrize("name", ["conversations/gpteacher_toolformer.json.xz", "gsm8k/train.jsonl"])
def test_what_tools_answer_is_never_learned(shared: Path, name):
    gpt2 = encodings.load("gpt2")
    tokenizer = Tokenizer("chat", Encoding(gpt2.pattern, gpt2.ranks, {
        token: len(gpt2.ranks) + number for number, token in enumerate(CHAT_TOKENS)}))
    for count, each in enumerate(conversations.read(shared / "data" / name, lambda fault: None)):
        if count == 300:
            break
        ids, learned = chat.render(each.messages, tokenizer)
        inside, ends = False, tokenizer.special["<|output_end|>"]
        for id, is_learned in zip(ids, learned):
            inside |= id == tokenizer.special["<|output_start|>"]
            assert not (inside and is_learned)
            inside &= id != ends
