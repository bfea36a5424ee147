"""Conversations out of files: every published format, and the place of what is wrong."""
from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from llmc import conversations
from llmc.chat import Call, Message
from llmc.conversations import messages_of

HI = [Message("user", "Hi"), Message("assistant", "Yes?")]
PAIR = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}]}
CALLING = [
    {"from": "human", "value": "Rain?"}, {"from": "gpt", "value": "I look."},
    {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "Ulm"}}'},
    {"from": "observation", "value": "dry"}, {"from": "gpt", "value": "No."}]
WRAPPED = ("Below is an instruction that describes a task, paired with an input that provides further context. Write a "
           "response that appropriately completes the request.\n\n### Instruction:\nAdd.\n\n### Input:\n1, 2\n\n"
           "### Response:\n")
TREE = {"text": "Hi", "role": "prompter", "replies": [
    {"text": "worse", "role": "assistant", "rank": 1, "replies": []}, {"text": "gone", "role": "assistant", "rank": -1,
                                                                      "deleted": True},
    {"text": "Yes?", "role": "assistant", "rank": 0, "replies": [{"text": "Nothing.", "role": "prompter"}]}]}


@pytest.mark.parametrize("row, messages", [
    (PAIR, HI),
    ({"prompt": "Hi", "prompt_id": "1", **PAIR}, HI),           # UltraChat 200k
    ({"data": ["Hi", "Yes?"]}, HI),
    ({"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yes?"}]}, HI),
    ({"conversations": CALLING, "tools": '[{"name": "weather"}]', "system": "Be kind."}, [
        Message("system", 'Be kind.\n\nTools:\n[{"name": "weather"}]'), Message("user", "Rain?"),
        Message("assistant", "I look.", call=Call("weather", '{"city": "Ulm"}')), Message("tool", "dry"),
        Message("assistant", "No.")]),
    ({"instruction": "Hi", "input": "", "output": "Yes?"}, HI),
    ({"instruction": "Add.", "input": "1, 2", "response": "3", "system": "Count.", "history": [["Hi", "Yes?"]]},
     [Message("system", "Count."), *HI, Message("user", "Add.\n\n1, 2"), Message("assistant", "3")]),
    ({"instruction": "Who?", "context": "Ann came.", "response": "Ann", "category": "closed_qa"},
     [Message("user", "Who?\n\nAnn came."), Message("assistant", "Ann")]),
    ({"prompt": "Hi", "completion": "Yes?", "messages": None}, HI),
    ({"prompt": PAIR["messages"][:1], "completion": PAIR["messages"][1:]}, HI),
    ({"conversations": ["Hi", "Yes?"]}, HI),
    ({"conversations": PAIR["messages"]}, HI),
    ({"messages": [{"role": "system", "content": ""}, *PAIR["messages"]]}, HI),
    ({"messages": [{"role": "developer", "content": "Be kind."}, *PAIR["messages"]], "tools": [{"name": "f"}]},
     [Message("system", 'Be kind.\n\nTools:\n[{"name": "f"}]'), *HI]),
    ({"messages": [*PAIR["messages"][:1], PAIR["messages"][1] | {"weight": 0}]},
     [HI[0], Message("assistant", "Yes?", learned=False)]),
    ({"conversations": [{"from": "system", "value": "Be kind."}, *CALLING[:2]], "system": "Now."},
     [Message("system", "Be kind.\n\nNow."), Message("user", "Rain?"), Message("assistant", "I look.")]),
    ({"prompt": WRAPPED, "answer": "3"}, [Message("user", "Add.\n\n1, 2"), Message("assistant", "3")]),
    ({"message_tree_id": "1", "prompt": TREE}, HI)])
def test_every_format_is_read(row, messages):
    assert messages_of(row) == messages


@pytest.mark.parametrize("name, pack", [
    ("a.jsonl", lambda rows: "\n\n".join(map(json.dumps, rows)).encode()),
    ("a.json", lambda rows: json.dumps(rows, indent=1).encode()),
    ("a.json", lambda rows: "\n".join(map(json.dumps, rows)).encode()),
    ("a.json.gz", lambda rows: gzip.compress(json.dumps(rows).encode()))])
def test_lines_and_arrays_are_read(tmp_path, name, pack):
    (tmp_path / name).write_bytes(pack([PAIR, PAIR]))
    path, = conversations.find(tmp_path)
    found = list(conversations.read(path))
    assert [each.messages for each in found] == [HI, HI]
    what = "item" if pack([PAIR, PAIR]).startswith((b"[", b"\x1f")) else "line"
    assert found[0].place == f"{path}, {what} 1" and found[1].place.startswith(f"{path}, {what} ")


def test_parquet_is_read(tmp_path):
    pq.write_table(pa.Table.from_pylist([PAIR] * 2100), tmp_path / "a.parquet")
    found = list(conversations.read(tmp_path / "a.parquet"))
    assert len(found) == 2100 and found[2099] == (HI, f"{tmp_path / 'a.parquet'}, row 2100")


GOOD = json.dumps(PAIR).encode() + b"\n"


@pytest.mark.parametrize("name, raw, sentence", [
    ("a.jsonl", GOOD * 7311 + b'{"messages": [\n' + GOOD, "a.jsonl, line 7312: no JSON: Expecting value at column 15"),
    ("a.jsonl", GOOD + b"5\n", "a.jsonl, line 2: it is int, wanted an object"),
    ("a.jsonl", b'{"text": "x"}', "a.jsonl, line 1: no format of conversations has the keys text; wanted messages"),
    ("a.jsonl", b'{"messages": []}', "a.jsonl, line 1: the conversation has no messages"),
    ("a.json", b'[{"instruction": "Hi", "output": ""}]', "a.json, item 1: message 2, the assistant's, is empty"),
    ("a.json", b'[{"instruction": "Hi", "output": 5}]', "a.json, item 1: output is int, wanted text"),
    ("a.json", b'[{"instruction": "Hi", "output": "x", "history": [1]}]', "history is no list of [question, answer]"),
    ("a.json", b'[{"conversations": [{"from": "alien", "value": "x"}]}]', "item 1: turn 1 is from 'alien'; wanted one"),
    ("a.json", b'[{"conversations": [5]}]', 'item 1: turn 1 is no {"from", "value"} of texts'),
    ("a.json", b'[{"conversations": [{"from": "function_call", "value": "x"}]}]',
     "turn 1 is no call of a function: Expecting value"),
    ("a.json", b'[{"data": 5}]', "item 1: data is no list of texts"),
    ("a.json", b'[{"message_tree_id": "1", "prompt": {"text": "x"}}]', "a message of the tree has no role"),
    ("a.json", b'[{"message_tree_id": "1", "prompt": {"text": "x", "role": "prompter"}}]', "has no messages"),
    ("a.json", b"[", "a.json is no JSON: "),
    ("a.json", b"[" * 99999, "a.json is no JSON: "),
    ("a.json", b'[{"message_tree_id": "1", "prompt": {"text": "x", "role": "prompter", "replies": [5]}}]',
     "the replies of a message are no list of messages"),
    ("a.json", b'[{"instruction": "Hi", "output": "x", "system": 5}]', "item 1: system is int, wanted text"),
    ("a.jsonl.gz", gzip.compress(GOOD * 99)[:-9], "a.jsonl.gz is damaged or cut off"),
    ("a.parquet", b"PAR1", "a.parquet cannot be read from row 1 on: ")])
def test_what_is_wrong_is_named_with_its_place(tmp_path, name, raw, sentence):
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(ValueError) as error:
        list(conversations.read(tmp_path / name))
    assert sentence in str(error.value) and "\n" not in str(error.value)


def test_bad_rows_can_be_left_out(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + GOOD + b"{\n5\n" + GOOD)
    faults: list[ValueError] = []
    assert len(list(conversations.read(tmp_path / "a.jsonl", faults.append))) == 2
    assert ["line 2" in str(faults[0]), "line 3" in str(faults[1]), len(faults)] == [True, True, 2]


def test_what_is_no_file_of_conversations_is_refused(tmp_path):
    with pytest.raises(ValueError, match="there is no such file or folder"):
        conversations.find(tmp_path / "gone")
    (tmp_path / "a.txt").touch()
    with pytest.raises(ValueError, match="no file of conversations; wanted .json, .jsonl, .ndjson, .parquet"):
        conversations.find(tmp_path)


@pytest.mark.shared
@pytest.mark.parametrize("name, count, lengths", [
    ("alpaca_data_cleaned_first_1000.json.xz", 1000, {2: 1000}), ("dolly_hhrlhf_train_small.jsonl.xz", 1000, {2: 1000}),
    ("dolly_151.jsonl.xz", 151, {2: 151}), ("fastchat_dummy_conversation.json.xz", 500, {2: 167, 6: 167, 4: 166}),
    ("raschka_instruction_data.json", 1100, {2: 1100}), ("oasst_en_100_tree.jsonl.xz", 100, {2: 58, 4: 42}),
    ("glaive_toolcall_en_demo.json.xz", 300, None), ("lima.json.xz", 1029, None)])
def test_published_sets_are_read_whole(shared: Path, name, count, lengths):
    found = list(conversations.read(shared / "data/conversations" / name))
    assert len(found) == count
    assert lengths is None or Counter(len(each.messages) for each in found) == lengths
    assert not any("### Instruction" in message.text for each in found for message in each.messages)
