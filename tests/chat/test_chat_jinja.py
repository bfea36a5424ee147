"""Templates in Jinja: transformers makes the same ids of them as chat.render, and learns the same."""
from __future__ import annotations

import json
import random

import pytest
from jinja2.exceptions import TemplateError
from llmc import chat, chat_jinja, encodings, llama2_c
from llmc.chat import Call, Message
from llmc.chat_templates import TEMPLATES
from llmc.encodings import GPT2_PATTERN, GPT4_PATTERN, Encoding
from llmc.gguf_tokenizer import QWEN_PATTERN
from llmc.tokenizer import Tokenizer, from_json
from transformers import PreTrainedTokenizerFast

WORDS = ["Hello", "the", "théâtre", "12345", "日本語", "한국어", "Grüße", "🙂", "👩‍👩‍👧", "🏳️‍🌈", "e\u0301", "مرحبا", "\u200d",
         "{}", '"', "\\", "'s", "...", "<|", "|>", "<", "/think>", "{{ x }}", "{% if %}", "print(1)\n", "\t",
         "user", "im_end"]
BETWEEN = [" ", " ", " ", "", "\n", "\n\n", "  ", "\r\n", " \n", "\u00a0", "\u3000"]


def with_pattern(pattern: str) -> Tokenizer:
    """GPT-2's vocabulary, its text cut by a pattern."""
    gpt2 = encodings.load("gpt2")
    return Tokenizer("gpt2", Encoding(pattern, gpt2.ranks, gpt2.special))


def qwen_like() -> Tokenizer:
    data = json.loads(with_pattern(QWEN_PATTERN).to_json()) | {"normalizer": {"type": "NFC"}}
    return from_json(json.dumps(data).encode(), "qwen", "qwen")


def of_sentencepiece(folder) -> Tokenizer:
    """llama2.c's: a space before each text, bytes where a character is missing."""
    from struct import pack

    words = [b" the", b"he", b"th", b" t", *(bytes([b]) for b in b" abcdefghijklmnopqrstuvwxyz{}:,.?\"\n")]
    tokens = [b"<unk>", b"\n<s>\n", b"\n</s>\n", *(b"<0x%02X>" % b for b in range(256)), *words]
    (folder / "tokenizer.bin").write_bytes(pack("<i", 9) + b"".join(
        pack("<fi", -float(max(0, id - 258)), len(token)) + token for id, token in enumerate(tokens)))
    return from_json(llama2_c.tokenizer_json(folder / "tokenizer.bin", len(tokens)), "small", "small")


KINDS = {"gpt2": lambda folder: with_pattern(GPT2_PATTERN), "llama3": lambda folder: with_pattern(GPT4_PATTERN),
         "qwen": lambda folder: qwen_like(), "sentencepiece": of_sentencepiece}


def theirs_of(tokenizer: Tokenizer, template: str, folder, system: str = "") -> PreTrainedTokenizerFast:
    (folder / "tokenizer.json").write_bytes(tokenizer.to_json())
    return PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"),
                                   chat_template=chat_jinja.source(template, system))


def text_of(rng: random.Random) -> str:
    parts = [rng.choice(WORDS) + rng.choice(BETWEEN) for _ in range(rng.randint(1, 8))]
    return rng.choice([*BETWEEN, "", "", "\n \n"]) + "".join(parts)


def conversation(rng: random.Random, template: str) -> list[Message]:
    def said() -> str:
        """What an assistant says begins with a word, see chat_jinja.py."""
        return text_of(rng).lstrip() or "x"
    messages = [Message("system", text_of(rng) + "x")] * (rng.random() < 0.5)
    for _ in range(rng.randint(1, 3)):
        messages.append(Message("user", text_of(rng) + "x"))
        thinking = text_of(rng) if template != "llama3" and rng.random() < 0.3 else ""
        learned = rng.random() < 0.8
        while rng.random() < 0.3:
            call = rng.choice([Call("search", text_of(rng)), Call("python", text_of(rng)),
                               Call("f", json.dumps({"a": [1, text_of(rng)], "b": {}}, ensure_ascii=False))])
            messages += [Message("assistant", rng.choice(["", said()]), thinking, call, learned),
                         Message("tool", rng.choice(["", text_of(rng)]))]
        messages.append(Message("assistant", said(), thinking, None, learned))
    return messages[:-1] if rng.random() < 0.3 else messages


def as_objects(messages: list[Message], rng: random.Random) -> list[dict]:
    """As transformers wants them: arguments are objects, at times text; thinking has two names."""
    rows = chat.to_dict(messages)["messages"]
    for row in rows:
        for call in row.get("tool_calls", []):
            if call["function"]["name"] != "f" or rng.random() < 0.5:
                call["function"]["arguments"] = json.loads(call["function"]["arguments"])
        if "thinking" in row and rng.random() < 0.5:
            row["reasoning_content"] = row.pop("thinking")
        if rng.random() < 0.1:
            row["content"] = [{"type": "text", "text": row["content"]}]
    return rows


SAME = [(kind, template) for kind in KINDS for template in TEMPLATES if (kind, template) != ("gpt2", "llama3")]


@pytest.mark.parametrize("kind, template", SAME)            # with GPT-2's pattern llama3 differs: see below
def test_transformers_makes_the_same_ids_and_learns_the_same(kind, template, tmp_path):
    rng, tokenizer = random.Random(3), KINDS[kind](tmp_path).with_special(TEMPLATES[template].tokens)
    theirs = theirs_of(tokenizer, template, tmp_path)
    learned = 0
    for _ in range(150):
        messages = conversation(rng, template)
        answer = messages[-1].role != "assistant"
        ours = chat.render(messages, tokenizer, template, answer)
        found = theirs.apply_chat_template(as_objects(messages, rng), add_generation_prompt=answer, return_dict=True,
                                           return_assistant_tokens_mask=True)
        assert found["input_ids"] == ours.ids, messages
        assert list(map(bool, found["assistant_masks"])) == ours.learned, messages
        learned += sum(ours.learned)
    assert learned > 500


@pytest.mark.parametrize("kind, template, begins, same", [
    *[("qwen", "chatml", begin, False) for begin in ("\n", "\n\n", "\n\n ")],
    *[("qwen", "chatml", begin, True) for begin in (" ", "  ", "\t", "\u3000 ")],
    *[("gpt2", "chatml", begin, False) for begin in ("\n\n", "\n ")],
    *[("gpt2", "chatml", begin, True) for begin in (" ", "\n", "\t")],
    *[("gpt2", "llama3", begin, False) for begin in ("", " ", "\n")],
    *[("llama3", "llama3", begin, True) for begin in ("", " ", "\n", "\n\n", "  ", " \n")],
    *[("sentencepiece", "chatml", begin, True) for begin in ("", " ", "\n", "\n\n", "  ", " \n")]])
def test_an_answer_that_joins_the_header_is_where_it_is_said_to_differ(kind, template, begins, same, tmp_path):
    tokenizer = KINDS[kind](tmp_path).with_special(TEMPLATES[template].tokens)
    theirs = theirs_of(tokenizer, template, tmp_path)
    messages = [Message("user", f"{begins}Hi"), Message("assistant", f"{begins}Yes?")]
    found = theirs.apply_chat_template(chat.to_dict(messages)["messages"], return_dict=False)
    assert (found == chat.render(messages, tokenizer, template).ids) == same
    asked = theirs.apply_chat_template(chat.to_dict(messages)["messages"][:1], add_generation_prompt=True,
                                       return_dict=False)
    assert asked == chat.render(messages[:1], tokenizer, template, answer=True).ids


def test_a_space_before_the_first_text_alone_differs(tmp_path):
    data = json.loads(of_sentencepiece(tmp_path).to_json()) | {"normalizer": None, "pre_tokenizer": {
        "type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}}
    tokenizer = from_json(json.dumps(data).encode(), "first", "first").with_special(TEMPLATES["llmc"].tokens)
    theirs = theirs_of(tokenizer, "llmc", tmp_path)
    ids = theirs.apply_chat_template([{"role": "user", "content": "hi"}], return_dict=False)
    assert ids != chat.render([Message("user", "hi")], tokenizer).ids


HI = {"role": "user", "content": "Hi"}


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("system", ["", " \n", 'Be "kind" — {{ always }} %}\\n\n日本 🙂 \u2028'])
@pytest.mark.parametrize("tools", [None, [{"type": "function", "function": {"name": "f", "description": "é <b>"}}]])
def test_the_system_s_message_is_the_conversation_s_or_the_model_s_and_tools_are_behind_it(
        template, system, tools, tmp_path):
    tokenizer = with_pattern(GPT4_PATTERN).with_special(TEMPLATES[template].tokens)
    theirs = theirs_of(tokenizer, template, tmp_path, system)
    for own in (None, "", "Be brief.\n"):
        rows = [{"role": "developer", "content": own}] * (own is not None) + [HI]
        default = [{"role": "system", "content": system}] * (own is None)
        messages = chat.from_dict({"messages": default + rows, "tools": tools})
        found = theirs.apply_chat_template(rows, tools=tools, add_generation_prompt=True, return_dict=False)
        assert found == chat.render(messages, tokenizer, template, answer=True).ids


def calling(arguments, name="f") -> list[dict]:
    return [HI, {"role": "assistant", "tool_calls": [{"function": {"name": name, "arguments": arguments}}]}]


@pytest.mark.parametrize("messages, sentence", [
    ([{"role": "bot", "content": "x"}], "there is no role bot; wanted system, user, assistant, tool"),
    ([HI, {"role": "system", "content": "x"}], "the system's message is to come first"),
    ([{"role": "user", "content": [{"type": "image"}]}], "a message has a part that is no text"),
    ([HI, {"role": "assistant", "function_call": {"name": "f"}}], "one call of a tool, in tool_calls"),
    ([HI, {"role": "assistant", "tool_calls": calling({})[1]["tool_calls"] * 2}], "one call of a tool, in tool_calls"),
    ([HI, {"role": "assistant", "tool_calls": [{"name": "f"}]}], "a call names no function"),
    (calling({}, ""), "a call names no function"),
    (calling(None), "the arguments of f are to be an object"),
    (calling(" "), "the arguments of f are to be an object"),
    (calling("5", "python"), "the arguments of python are to be an object"),
    (calling({"query": "x", "more": 1}, "search"), "search takes one text, called query"),
    (calling({"code": 5}, "python"), "python takes one text, called code")])
@pytest.mark.parametrize("template", TEMPLATES)
def test_what_cannot_be_written_is_a_sentence(template, messages, sentence, tmp_path):
    tokenizer = with_pattern(GPT4_PATTERN).with_special(TEMPLATES[template].tokens)
    with pytest.raises(TemplateError, match=sentence):
        theirs_of(tokenizer, template, tmp_path).apply_chat_template(messages)


def test_llama3_has_no_place_for_thinking(tmp_path):
    tokenizer = with_pattern(GPT4_PATTERN).with_special(TEMPLATES["llama3"].tokens)
    with pytest.raises(TemplateError, match="llama3 has no place for thinking"):
        theirs_of(tokenizer, "llama3", tmp_path).apply_chat_template(
            [HI, {"role": "assistant", "content": "x", "reasoning_content": "y"}])


@pytest.mark.parametrize("template", TEMPLATES)
def test_the_name_of_a_token_in_a_text_is_the_token_in_jinja_alone(template, tmp_path):
    tokenizer, end = with_pattern(GPT4_PATTERN).with_special(TEMPLATES[template].tokens), TEMPLATES[template].stops[0]
    theirs, text = theirs_of(tokenizer, template, tmp_path), f"Hi{end}"
    ends = [ids.count(tokenizer.special[end]) for ids in (
        chat.render([Message("user", text)], tokenizer, template).ids,
        theirs.apply_chat_template([{"role": "user", "content": text}], return_dict=False),
        theirs.apply_chat_template([{"role": "user", "content": text}], return_dict=False,
                                   sanitize_control_tokens=True))]     # newer versions of transformers have it
    assert ends == [1, 2, 1]
