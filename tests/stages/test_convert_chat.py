"""convert: an exported model is spoken to by other programs as by llmc."""
from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import tuning
from converting import TEMPLATE, convert, open_llama_cpp, publish, write_tokenizer_bin
from llmc import Config, Device, Model, chat, chat_jinja, encodings, llama2_c
from llmc.chat import Call, Manner, Message
from llmc.chat_templates import TEMPLATES
from llmc.checkpoint import open_checkpoint
from llmc.encodings import EOT, GPT4_PATTERN, Encoding
from llmc.tokenizer import Tokenizer, from_json
from transformers import AutoModelForCausalLM, AutoTokenizer

TALK = [Message("user", "Grüße!\n 12 日本 🙂"), Message("assistant", "Let me see.", call=Call("search", 'who "won"')),
        Message("tool", "she\n"), Message("assistant", "Her."), Message("user", "\n\nAnd?")]
SYSTEM = 'You are "Ada" — kind.'


def byte_level() -> Tokenizer:
    ranks = {token: i for i, token in enumerate([*(bytes([b]) for b in range(256)), b"th", b"the", b"\n\n", b" t"])}
    return Tokenizer("tiny", Encoding(GPT4_PATTERN, ranks, {EOT: len(ranks)}))


def of_sentencepiece(folder: Path) -> Tokenizer:
    write_tokenizer_bin(folder / "tokenizer.bin", [b" t", b"he", b" the", *(bytes([b]) for b in b" abehst\n")])
    return from_json(llama2_c.tokenizer_json(folder / "tokenizer.bin", 259 + 11), "small", "small")


def checkpoint(folder: Path, tokenizer: Tokenizer, manner: Manner | None) -> Path:
    """A model of chance weights with the tokens of its template."""
    if manner:
        tokenizer = tokenizer.with_special(TEMPLATES[manner.template].tokens)
    config = Config.preset("llama-tiny", vocab_size=tokenizer.vocab_size, n_layer=1, n_embd=32, n_head=2, n_kv_head=2,
                           n_ff=40, max_seq_len=300)
    model = Model(Device(), config)
    model.init(1)
    tuning.save(folder, model, tokenizer)
    if manner:
        chat.save_manner(manner, folder)
    return folder


def check_talk(folder: Path, manner: Manner) -> None:
    """transformers makes of a conversation what we do."""
    ours, theirs = Tokenizer.load(folder), AutoTokenizer.from_pretrained(folder)
    begin = [Message("system", manner.system)] * bool(manner.system)
    wanted = chat.render([*begin, *TALK], ours, manner.template, answer=True)
    rows = chat.to_dict(TALK)["messages"]
    rows[1]["tool_calls"][0]["function"]["arguments"] = {"query": 'who "won"'}
    found = theirs.apply_chat_template(rows, add_generation_prompt=True, return_dict=True,
                                       return_assistant_tokens_mask=True)
    assert found["input_ids"] == wanted.ids and list(map(bool, found["assistant_masks"])) == wanted.learned
    assert theirs.eos_token == TEMPLATES[manner.template].stops[0]
    ends = json.loads((folder / "generation_config.json").read_text())["eos_token_id"]
    assert [ours.special_names[id] for id in ends[:-1]] == list(TEMPLATES[manner.template].stops)
    assert ends[-1] == ours.eot and json.loads((folder / "config.json").read_text())["eos_token_id"] == ends


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("kind", ["byte level", "sentencepiece"])
def test_transformers_and_llama_cpp_chat_with_an_export_as_llmc_does(kind, template, tmp_path):
    manner = Manner(template, SYSTEM, ("python",))
    tokenizer = byte_level() if kind == "byte level" else of_sentencepiece(tmp_path)
    ours = checkpoint(tmp_path / "ours", tokenizer, manner)
    convert(ours, tmp_path / "theirs")
    check_talk(tmp_path / "theirs", manner)
    convert(tmp_path / "theirs", tmp_path / "back")                 # the manner goes along
    assert chat.manner_of(tmp_path / "back", tokenizer) == manner
    stops = {Tokenizer.load(ours).special[name] for name in TEMPLATES[template].stops}
    assert open_checkpoint(tmp_path / "back").ends == stops | {tokenizer.eot}
    convert(ours, tmp_path / "bf16", "--to", "llmc", "--dtype", "bf16")
    assert chat.manner_of(tmp_path / "bf16", tokenizer) == manner
    convert(ours, tmp_path / "model.gguf")
    model = open_llama_cpp(tmp_path / "model.gguf")
    assert model.get_default_chat_template() == chat_jinja.source(template, SYSTEM)
    assert model.get_vocab().token_eos() == Tokenizer.load(ours).special[TEMPLATES[template].stops[0]]
    rendered = AutoTokenizer.from_pretrained(tmp_path / "theirs").apply_chat_template(
        [{"role": "user", "content": "the hat"}], tokenize=False, add_generation_prompt=True)
    messages = [Message("system", SYSTEM), Message("user", "the hat")]
    wanted = chat.render(messages, Tokenizer.load(ours), template, answer=True).ids
    assert model.get_vocab().tokenize(rendered, False, True) == wanted


def test_the_readme_s_program_runs_and_ends_where_the_turn_does(tmp_path, monkeypatch, capsys):
    ours = checkpoint(tmp_path / "ours", byte_level(), Manner("llmc", SYSTEM + " ```"))
    convert(ours, tmp_path / "theirs")
    readme = (tmp_path / "theirs" / "README.md").read_text()
    assert f"````text\n<|im_start|>system<|im_sep|>{SYSTEM} ```<|im_end|><|im_start|>user" in readme
    assert "texts without special strings\nonly" in readme and "base model" not in readme
    program = re.search("```python\n(.*?)```", readme, re.S)[1]
    end, spoken = Tokenizer.load(ours).special["<|im_end|>"], []
    load = AutoModelForCausalLM.from_pretrained

    def saying_three(folder):
        """The model, which says A three times and then ends its turn."""
        model = load(folder)

        def chosen(module, inputs, logits):
            logits[:, -1] = -1e9
            logits[:, -1, end if len(spoken) == 3 else ord("A")] = 0
            spoken.append(1)
        model.lm_head.register_forward_hook(chosen)
        return model
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", saying_three)
    monkeypatch.chdir(tmp_path / "theirs")
    capsys.readouterr()
    exec(program, {})
    assert capsys.readouterr().out == "AAA\n" and len(spoken) == 4


def test_a_qwen2_that_was_taught_is_exported_with_what_it_was_taught(tmp_path):
    publish(tmp_path / "theirs", "qwen2")
    about = json.loads((tmp_path / "theirs" / "tokenizer_config.json").read_text())
    about |= {"tokenizer_class": "Qwen2Tokenizer", "chat_template": "{{ old }}"}
    (tmp_path / "theirs" / "tokenizer_config.json").write_text(json.dumps(about))
    convert(tmp_path / "theirs", tmp_path / "ours")
    convert(tmp_path / "ours", tmp_path / "untaught")               # keeps what it came with
    assert (tmp_path / "untaught" / "chat_template.jinja").read_text() == TEMPLATE
    assert not (tmp_path / "untaught" / "README.md").exists()
    tokenizer = Tokenizer.load(tmp_path / "ours").with_special(TEMPLATES["chatml"].tokens)
    (tmp_path / "ours" / "tokenizer.json").write_bytes(tokenizer.to_json())
    chat.save_manner(Manner("chatml", "Be brief."), tmp_path / "ours")
    convert(tmp_path / "ours", tmp_path / "again")
    check = json.loads((tmp_path / "again" / "tokenizer_config.json").read_text())
    assert "chat_template" not in check and check["eos_token"] == "<|im_end|>" and check["pad_token"] == EOT
    theirs = AutoTokenizer.from_pretrained(tmp_path / "again")
    for messages in ([TALK[0]], [TALK[0], Message("assistant", "x", thinking="Hm?"), TALK[4]]):
        found = theirs.apply_chat_template(chat.to_dict(messages)["messages"], add_generation_prompt=True,
                                           return_dict=False)
        assert found == chat.render([Message("system", "Be brief."), *messages], tokenizer, "chatml", answer=True).ids


@pytest.mark.shared
def test_stories260k_with_the_tokens_of_a_chat_is_spoken_to_alike(shared, tmp_path):
    folder = shared / "data/models/stories260K"
    convert(folder / "stories260K.bin", tmp_path / "story", "--tokenizer", folder / "tok512.bin")
    story = open_checkpoint(tmp_path / "story")
    tokenizer = story.tokenizer.with_special(encodings.CHAT_TOKENS)
    fields = json.loads(story.config.to_json()) | dict.fromkeys(("vocab_size", "padded_vocab_size"), 512 + 77)
    (tmp_path / "story" / "config.json").write_text(json.dumps(fields))
    grown = Model(Device(), Config.read(str(tmp_path / "story" / "config.json")))
    for name in grown.names:
        old = story.model.get(name)
        rows = grown.get(name).shape[0] - len(old)
        grown.set(name, np.concatenate([old, np.zeros((rows, *old.shape[1:]), np.float32)]))
    grown.save(str(tmp_path / "story" / "model.safetensors"))
    (tmp_path / "story" / "tokenizer.json").write_bytes(tokenizer.to_json())
    chat.save_manner(Manner("llmc", SYSTEM), tmp_path / "story")
    convert(tmp_path / "story", tmp_path / "theirs")
    ours, theirs = Tokenizer.load(tmp_path / "theirs"), AutoTokenizer.from_pretrained(tmp_path / "theirs")
    for talk in (TALK, TALK[:1], [Message("user", "  Once upon\n\n a time")]):
        rows = chat.to_dict(talk)["messages"]
        for row in rows:
            for call in row.get("tool_calls", []):
                call["function"]["arguments"] = json.loads(call["function"]["arguments"])
        wanted = chat.render([Message("system", SYSTEM), *talk], ours, answer=True).ids
        assert theirs.apply_chat_template(rows, add_generation_prompt=True, return_dict=False) == wanted


def test_a_model_that_may_be_a_base_model_is_not_called_taught(tmp_path):
    tokenizer = byte_level().with_special(TEMPLATES["llmc"].tokens)
    convert(checkpoint(tmp_path / "ours", tokenizer, None), tmp_path / "theirs")
    assert "may be a base model" in " ".join((tmp_path / "theirs" / "README.md").read_text().split())
    convert(checkpoint(tmp_path / "plain", byte_level(), None), tmp_path / "bare")
    assert not {"README.md", "chat_template.jinja"} & {path.name for path in (tmp_path / "bare").iterdir()}
    convert(tmp_path / "ours", tmp_path / "none", "--tokenizer", "none")
    assert not (tmp_path / "none" / "README.md").exists()


def test_a_readme_of_somebody_is_not_replaced(tmp_path):
    ours = checkpoint(tmp_path / "ours", byte_level(), Manner("llmc"))
    for _ in range(2):
        convert(ours, tmp_path / "theirs", "--overwrite")
    (tmp_path / "theirs" / "README.md").write_text("# Mine\n")
    with pytest.raises(ValueError, match="holds README.md, which no conversion makes; it is not replaced"):
        convert(ours, tmp_path / "theirs", "--overwrite")


@pytest.mark.parametrize("settings, sentence", [
    ('{"template": "chatml", "system": ""}', "tokenizer.json has no special token <|im_end|>, which the template"),
    ('{"template": "vicuna", "system": ""}', "no template is called 'vicuna'"),
    ('{"template": "llmc"}', "chat.json: 'system' is missing, wanted str; remove it, and the tokenizer tells"),
    ("[]", "chat.json holds list, wanted an object")])
@pytest.mark.parametrize("target", ["theirs", "model.gguf"])
def test_a_manner_that_cannot_be_is_one_sentence(settings, sentence, target, tmp_path):
    ours = checkpoint(tmp_path / "ours", byte_level(), None)
    (ours / chat.SETTINGS).write_text(settings)
    with pytest.raises(ValueError) as error:
        convert(ours, tmp_path / target)
    assert sentence in str(error.value) and not (tmp_path / target).exists()
