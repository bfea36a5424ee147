"""Conversations as ids: token by token in every template, back to messages, and nobody can forge a turn."""
from __future__ import annotations

import json
import random
from itertools import groupby

import pytest
from llmc import chat, encodings
from llmc.chat import Call, Message
from llmc.chat_templates import TEMPLATES
from llmc.encodings import Encoding
from llmc.tokenizer import Tokenizer, from_json

LLAMA3 = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|eom_id|>",
          "<|python_tag|>"]
QWEN = ["<|im_start|>", "<|im_end|>", "<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>",
        "</tool_response>"]
NAMES = {"llmc": encodings.CHAT_TOKENS, "chatml": QWEN, "llama3": LLAMA3}


def tokenizer_for(template: str) -> Tokenizer:
    """GPT-2's, with the special tokens of a template."""
    gpt2 = encodings.load("gpt2")
    return Tokenizer(template, Encoding(gpt2.pattern, gpt2.ranks, gpt2.special | {
        name: 50257 + number for number, name in enumerate(NAMES[template])}))


def by_the_library(template: str) -> Tokenizer:
    """The same as Qwen's are: a normalizer, and added tokens that are not called special, which Hugging Face's
    library finds in any text."""
    data = json.loads(tokenizer_for(template).to_json()) | {"normalizer": {"type": "NFC"}}
    for token in data["added_tokens"]:
        token["special"] = not token["content"].startswith(("<t", "</t"))
    return from_json(json.dumps(data).encode(), template, template)


def of_sentencepiece(template: str) -> Tokenizer:
    """A vocabulary of characters and bytes as llama2.c's, which has a space before each text."""
    names = ["<unk>", "<s>", "</s>", *NAMES[template]]
    vocab = {token: id for id, token in enumerate([*names, *(f"<0x{b:02X}>" for b in range(256)), "▁", "a", "s",
                                                   "▁a"])}
    added = [{"id": id, "content": name, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
              "special": True} for id, name in enumerate(names)]
    return from_json(json.dumps({
        "version": "1.0", "added_tokens": added, "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "pre_tokenizer": None, "post_processor": None, "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"},
            {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "dropout": None, "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True,
                  "vocab": vocab, "merges": [["▁", "a"]]}}).encode(), template, template)


KINDS = {"tiktoken": tokenizer_for, "library": by_the_library, "sentencepiece": of_sentencepiece}
TOKENIZERS = {template: tokenizer_for(template) for template in TEMPLATES}
WHOLE = [Message("system", "Be brief."), Message("user", "What is 2+3?"),
         Message("assistant", "Let me see.", call=Call("python", "print(2+3)")), Message("tool", "5\n"),
         Message("assistant", "Five."), Message("user", "And who won?"),
         Message("assistant", call=Call("search", "who won")), Message("tool", ""),
         Message("assistant", "", call=Call("weather", '{"city": "Köln"}')), Message("tool", "rain"),
         Message("assistant", "Nobody.")]


def shown(rendered: chat.Rendered, tokenizer: Tokenizer) -> str:
    """What is learned between brackets."""
    text = ""
    for learned, run in groupby(zip(*rendered), lambda pair: pair[1]):
        run = b"".join(tokenizer.token_bytes(id) for id, _ in run).decode()
        text += f"[{run}]" if learned else run
    return text


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("template, wanted", [
    ("llmc", "<|im_start|>system<|im_sep|>Be brief.<|im_end|><|im_start|>user<|im_sep|>What is 2+3?<|im_end|>"
     "<|im_start|>assistant<|im_sep|>[Let me see.<|python_start|>print(2+3)<|python_end|>]<|output_start|>5\n"
     "<|output_end|>[Five.<|im_end|>]<|im_start|>user<|im_sep|>And who won?<|im_end|><|im_start|>assistant<|im_sep|>"
     "[<|search_start|>who won<|search_end|>]<|output_start|><|output_end|>[<|call_start|>"
     '{"name": "weather", "arguments": {"city": "Köln"}}<|call_end|>]<|output_start|>rain<|output_end|>'
     "[Nobody.<|im_end|>]"),
    ("chatml", "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhat is 2+3?<|im_end|>\n"
     '<|im_start|>assistant\n[Let me see.\n<tool_call>\n{"name": "python", "arguments": {"code": "print(2+3)"}}\n'
     "</tool_call><|im_end|>]\n<|im_start|>user\n<tool_response>\n5\n\n</tool_response><|im_end|>\n"
     "<|im_start|>assistant\n[Five.<|im_end|>]\n<|im_start|>user\nAnd who won?<|im_end|>\n<|im_start|>assistant\n"
     '[<tool_call>\n{"name": "search", "arguments": {"query": "who won"}}\n</tool_call><|im_end|>]\n<|im_start|>user\n'
     "<tool_response>\n\n</tool_response><|im_end|>\n<|im_start|>assistant\n"
     '[<tool_call>\n{"name": "weather", "arguments": {"city": "Köln"}}\n</tool_call><|im_end|>]\n<|im_start|>user\n'
     "<tool_response>\nrain\n</tool_response><|im_end|>\n<|im_start|>assistant\n[Nobody.<|im_end|>]\n"),
    ("llama3", "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
     "<|start_header_id|>user<|end_header_id|>\n\nWhat is 2+3?<|eot_id|><|start_header_id|>assistant<|end_header_id|>"
     "\n\n[Let me see.<|python_tag|>print(2+3)<|eom_id|>]<|start_header_id|>ipython<|end_header_id|>\n\n5<|eot_id|>"
     "<|start_header_id|>assistant<|end_header_id|>\n\n[Five.<|eot_id|>]<|start_header_id|>user<|end_header_id|>\n\n"
     "And who won?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
     '[<|python_tag|>{"name": "search", "parameters": {"query": "who won"}}<|eom_id|>]<|start_header_id|>ipython'
     "<|end_header_id|>\n\n<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
     '[<|python_tag|>{"name": "weather", "parameters": {"city": "Köln"}}<|eom_id|>]<|start_header_id|>ipython'
     "<|end_header_id|>\n\nrain<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n[Nobody.<|eot_id|>]")])
def test_what_is_learned_token_by_token(kind, template, wanted):
    tokenizer = KINDS[kind](template)
    found = shown(chat.render(WHOLE, tokenizer, template), tokenizer)
    if tokenizer.space_first:           # before every text
        found, wanted = found.replace(" ", ""), wanted.replace(" ", "")
    assert found == wanted


@pytest.mark.parametrize("template, wanted", [
    ("llmc", "[<|think_start|>Hm.<|think_end|>Yes.<|im_end|>]"),
    ("chatml", "[<think>\nHm.\n</think>\n\nYes.<|im_end|>]\n")])
def test_thinking_is_learned(template, wanted):
    messages = [Message("user", "Is it?"), Message("assistant", "Yes.", thinking="Hm.")]
    rendered = chat.render(messages, TOKENIZERS[template], template)
    assert shown(rendered, TOKENIZERS[template]).endswith(wanted)
    assert chat.parse(rendered.ids, TOKENIZERS[template], template) == messages
    with pytest.raises(ValueError, match="llama3 has no place for thinking"):
        chat.render(messages, TOKENIZERS["llama3"], "llama3")


def test_gpt_4o_s_format():
    """The ids that OpenAI's tokenizer page shows for these messages."""
    tokenizer = chat.load_tokenizer("o200k_base")
    messages = [Message("system", "You are a helpful assistant"), Message("user", "Hello!!")]
    ids = chat.render(messages, tokenizer, answer=True).ids
    assert ids[:3] == [200264, 17360, 200266] and len(ids) == 18 and max(ids) == 200266
    assert [id for id in ids if id > 200000] == [200264, 200266, 200265] * 2 + [200264, 200266]
    assert chat.load_tokenizer("cl100k_base").special["<|im_sep|>"] == 100266


def text_of(rng: random.Random, names: list[str]) -> str:
    """Words, blanks, halves of names, and names of special tokens."""
    alphabet = [*names, *names, "<|", "|>", "im_start", "\n", "\n\n", " ", "user", "system\n", "Grüße", "日本", "\x00",
                "<", "/", "a", "\u200d", "🙂", "<|im_start|", "|im_end|>", "{", '"', "\\", "\ud800"]
    return "".join(rng.choice(alphabet) for _ in range(rng.randint(1, 12)))


def conversation(rng: random.Random, template: str, text) -> list[Message]:
    messages = [Message("system", text())] * (rng.random() < 0.5)
    for _ in range(rng.randint(1, 3)):
        messages.append(Message("user", text()))
        thinking = text() if template != "llama3" and rng.random() < 0.3 else ""
        while rng.random() < 0.3:
            call = rng.choice([Call("search", text()), Call("python", text()), Call("f", '{"a": 1}')])
            messages += [Message("assistant", text(), thinking, call), Message("tool", text())]
        messages.append(Message("assistant", text(), thinking))
    return messages


@pytest.mark.parametrize("kind, texts_tried", [("tiktoken", 10_000), ("library", 2_000), ("sentencepiece", 2_000)])
@pytest.mark.parametrize("template", TEMPLATES)
def test_no_text_gives_a_special_token_and_messages_come_back(kind, texts_tried, template):
    rng, tokenizer, names = random.Random(7), KINDS[kind](template), list(NAMES[template])
    special, texts = set(tokenizer.special.values()), 0
    while texts < texts_tried:
        def text() -> str:
            nonlocal texts
            texts += 1
            return text_of(rng, names).encode("utf-8", "replace").decode().strip() or "x"
        messages = conversation(rng, template, text)
        tame = [Message(m.role, "x", "x" * bool(m.thinking), m.call and Call(
            m.call.tool, '{"a": 1}' if m.call.tool == "f" else "x")) for m in messages]
        rendered = chat.render(messages, tokenizer, template)
        assert [id for id in rendered.ids if id in special] == [
            id for id in chat.render(tame, tokenizer, template).ids if id in special]
        assert chat.parse(rendered.ids, tokenizer, template) == messages
        assert chat.from_dict(chat.to_dict(messages)) == messages


USER, ANSWER = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}
CALL = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}


@pytest.mark.parametrize("data, sentence", [
    ({"conversation": []}, "the messages are NoneType, wanted a list"),
    ([], "the conversation has no messages"),
    (["Hi"], "message 1 is str, wanted an object"),
    ([{"content": "Hi"}], "message 1 has no role"),
    ([{"role": "bot", "content": "Hi"}], "message 1: there is no role 'bot'; wanted system, user, assistant, tool"),
    ([USER, {"role": "assistant", "content": " \n"}], "message 2, the assistant's, is empty"),
    ([USER, {"role": "assistant", "content": 5}], "message 2, the assistant's, has no content that is text"),
    ([USER, ANSWER, ANSWER], "message 3 is the assistant's, and so is the one before"),
    ([USER, {"role": "system", "content": "x"}], "message 2 is the system's, which is to come first"),
    ([USER, {"role": "tool", "content": "x"}], "message 2 is the output of a tool that was not called"),
    ([USER, CALL, USER], "message 3 follows a call of a tool, and is not its output"),
    ([USER | {"thinking": "x"}], "message 1 is the user's, and thinks or calls a tool; only the assistant does"),
    ([USER, CALL | {"tool_calls": CALL["tool_calls"] * 2}], "message 2, the assistant's, has 2 calls of tools and"),
    ([USER, CALL | {"tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}], "arguments that are no JSON"),
    ([USER, CALL | {"tool_calls": [{"function": {"name": "f", "arguments": "[]"}}]}], "with list, wanted an object"),
    ([USER, CALL | {"tool_calls": [{"function": {"name": "python", "arguments": {"code": b"1"}}}]}], "that are no JSON"),
    ([USER, CALL | {"tool_calls": [{"function": {}}]}], "message 2 has a call that names no function"),
    ([{"role": "user", "content": [{"type": "image"}]}], "message 1 has a part that is no text: {'type': 'image'}")])
def test_what_is_no_conversation_is_one_sentence(data, sentence):
    with pytest.raises(ValueError) as error:
        chat.from_dict(data)
    assert sentence in str(error.value) and "\n" not in str(error.value)


def test_what_a_model_left_open_is_read(tmp_path):
    tokenizer = TOKENIZERS["llmc"]
    ids = chat.render([Message("user", "Hi")], tokenizer, answer=True).ids
    assert chat.parse(ids, tokenizer) == [Message("user", "Hi")]
    ids += [*tokenizer.encode("Well"), tokenizer.special["<|call_start|>"], *tokenizer.encode("no call")]
    assert chat.parse(ids, tokenizer)[1:] == [Message("assistant", "Well", call=Call("", "no call"))]
    assert chat.parse([5, 6, tokenizer.special["<|im_end|>"]], tokenizer) == []
    with pytest.raises(ValueError, match="the last message is the assistant's already"):
        chat.render([Message("user", "Hi"), Message("assistant", "x")], tokenizer, answer=True)
    with pytest.raises(ValueError, match=r"gpt2 has no special token <\|im_start\|>, which the template llmc writes"):
        chat.render([Message("user", "Hi")], Tokenizer.load("gpt2"))
    with pytest.raises(ValueError, match="no template is called 'vicuna'; there are llmc, chatml, llama3"):
        chat.parse([], tokenizer, "vicuna")


@pytest.mark.parametrize("template, written", [
    ("llmc", '<|im_start|>assistant<|im_sep|>Two.<|call_start|>{"name": "f", "arguments": {}}<|call_end|>'
     '<|search_start|>x<|search_end|><|im_end|><|im_start|>assistant<|im_sep|><|search_start|>y<|search_end|>'),
    ("chatml", '<|im_start|>assistant\nTwo.\n<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>\n<tool_call>\n'
     '{"name": "g", "arguments": {}}\n</tool_call><|im_end|>\n<|im_start|>assistant\n<tool_call>\n'
     '{"name": "search", "arguments": {"query": "y"}}\n</tool_call>'),
    ("llama3", '<|start_header_id|>assistant<|end_header_id|>\n\nTwo.<|python_tag|>{"name": "f", "parameters": {}}'
     '<|python_tag|>x<|eom_id|><|start_header_id|>assistant<|end_header_id|>\n\n<|python_tag|>'
     '{"name": "search", "parameters": {"query": "y"}}<|eom_id|>')])
def test_of_several_calls_in_a_turn_the_first_is_kept(template, written):
    tokenizer = TOKENIZERS[template]
    assert chat.parse(tokenizer.encode(written, "all"), tokenizer, template) == [
        Message("assistant", "Two.", call=Call("f", "{}")), Message("assistant", call=Call("search", "y"))]


def test_what_stands_behind_a_call_and_a_role_that_is_none_are_not_lost():
    tokenizer = TOKENIZERS["chatml"]
    written = '<|im_start|>bot\nHm.\n<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call> Done.<|im_end|>'
    found = chat.parse(tokenizer.encode(written, "all"), tokenizer, "chatml")
    assert found == [Message("bot", "Hm. Done.", call=Call("f", "{}"))]
    with pytest.raises(ValueError, match="message 1: there is no role 'bot'"):
        chat.check(found)


@pytest.mark.parametrize("kind", ["tiktoken", "library"])
@pytest.mark.parametrize("template", TEMPLATES)
def test_a_question_is_the_beginning_of_its_answer(kind, template):
    """So that what is generated is what was learned: also where an answer begins with blanks."""
    tokenizer = KINDS[kind](template)
    for text in ("Yes.", " Yes.", "\n\nYes.", "\nYes"):
        messages = [Message("user", "Is it?"), Message("assistant", text)]
        asked = chat.render(messages[:1], tokenizer, template, answer=True)
        whole = chat.render(messages, tokenizer, template)
        assert whole.ids[:len(asked.ids)] == asked.ids and not any(asked.learned)
        assert all(learned for id, learned in list(zip(*whole))[len(asked.ids):] if tokenizer.token_bytes(id) != b"\n"
                   or template != "chatml")


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_user_may_speak_behind_a_tool_and_an_answer_may_be_left_out_of_learning(template):
    tokenizer = TOKENIZERS[template]
    messages = [Message("user", "Rain?"), Message("assistant", call=Call("search", "")), Message("tool", "dry"),
                Message("user", "Stop."), Message("assistant", "Well.", call=Call("", "no call")), Message("tool", "?")]
    if template == "llama3":            # which takes what is no other tool's call for Python
        messages[4] = Message("assistant", "Well.", call=Call("python", ""))
    rendered = chat.render(messages, tokenizer, template)
    assert chat.parse(rendered.ids, tokenizer, template) == messages
    assert "[Stop" not in shown(rendered, tokenizer) and "[Well." in shown(rendered, tokenizer)
    mute = [Message(m.role, m.text, m.thinking, m.call, False) if m.role == "assistant" else m for m in messages]
    silent = chat.render(mute, tokenizer, template)
    assert silent.ids == rendered.ids and not any(silent.learned)
    assert chat.from_dict(chat.to_dict(mute[:4])) == mute[:4]


def test_what_a_model_wrote_half_keeps_its_letters():
    tokenizer = TOKENIZERS["chatml"]
    for text, thinking in (("\nHm. I th", "Hm. I th"), ("Hm.", "Hm.")):
        ids = [*chat.render([Message("user", "x")], tokenizer, "chatml", answer=True).ids,
               tokenizer.special["<think>"], *tokenizer.encode(text)]
        assert chat.parse(ids, tokenizer, "chatml")[1] == Message("assistant", thinking=thinking)


def test_a_vocabulary_that_spells_its_special_tokens_gives_none_of_them():
    """Whole pieces may be taken from the vocabulary, and merges may lead to a token."""
    data = json.loads(by_the_library("llmc").to_json())
    data["model"] |= {"ignore_merges": True}
    data["model"]["vocab"] |= {token["content"]: token["id"] for token in data["added_tokens"]}
    data["model"]["merges"].append("< |im_end|>")
    data["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": r"<\|\w+\|>"}, "behavior": "Isolated", "invert": False},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}]}
    data["truncation"] = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    data["model"]["vocab"]["|im_end|>"] = 50257 + len(NAMES["llmc"])
    tokenizer = from_json(json.dumps(data).encode(), "odd", "odd")
    messages = [Message("user", "Hi <|im_end|> <|im_start|>"), Message("assistant", "<|im_sep|>")]
    rendered = chat.render(messages, tokenizer)
    assert chat.parse(rendered.ids, tokenizer) == messages
    assert sum(id in tokenizer.special.values() for id in rendered.ids) == 6


def test_a_token_for_the_unknown_is_refused():
    data = json.loads(of_sentencepiece("llmc").to_json())
    data["model"]["vocab"] = {token: id for token, id in data["model"]["vocab"].items() if token != "<0xE2>"}
    tokenizer = from_json(json.dumps(data).encode(), "small", "small")
    with pytest.raises(ValueError, match="small makes its special token 0 of plain text, such as 'a–a'"):
        chat.render([Message("user", "a–a")], tokenizer)


@pytest.mark.parametrize("template", list(TEMPLATES))
def test_a_checkpoint_says_how_it_is_spoken_to(tmp_path, template):
    tokenizer = TOKENIZERS[template]
    assert chat.manner_of(tmp_path, tokenizer) == chat.Manner(template)         # by its special tokens
    assert chat.manner_of(tmp_path, Tokenizer.load("gpt2")) is None
    chat.save_manner(chat.Manner("llama3", "Be kind — always."), tmp_path)
    assert chat.manner_of(tmp_path, tokenizer) == chat.Manner("llama3", "Be kind — always.")
    (tmp_path / chat.SETTINGS).write_text('{"template": "ours", "system": ""}')
    with pytest.raises(ValueError, match=f"^{tmp_path}/chat.json: no template is called 'ours'; .*; write one of them"):
        chat.manner_of(tmp_path, tokenizer)
