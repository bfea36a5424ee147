"""Models of other houses are taught, exported, and spoken to by transformers as here."""
from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import tuning
from converting import convert, logits_of_folder, logits_of_llmc, publish
from llmc import chat, cli, sft
from llmc.checkpoint import open_checkpoint
from llmc.tokenizer import Tokenizer
from transformers import AutoTokenizer


def teach(model: Path, run: Path, data: Path, *flags: object) -> None:
    sft.run(cli.parse(sft.Sft, [str(model), "--data", str(data), "--run", str(run), "--steps", "3", "--ask", "hi",
                                "--sample_tokens", "3", "--threads", "1", "--plain", *map(str, flags)]))


def check(run: Path, exported: Path, template: str) -> None:
    """The same numbers from the same ids: of weights, of conversations, and of what ends a turn."""
    convert(run, exported)
    ours, theirs = Tokenizer.load(exported), AutoTokenizer.from_pretrained(exported)
    rng = random.Random(4)
    for _ in range(20):
        said = tuning.conversation(rng, 2)
        rows = chat.to_dict(said)["messages"]
        for row in rows:
            for call in row.get("tool_calls", ()):
                call["function"]["arguments"] = {"query": said[rows.index(row)].call.text}
        found = theirs.apply_chat_template(rows, return_dict=True, return_assistant_tokens_mask=True)
        wanted = chat.render(said, ours, template)
        assert found["input_ids"] == wanted.ids and list(map(bool, found["assistant_masks"])) == wanted.learned
    assert theirs.eos_token == chat.template_of(template).stops[0]
    tokens = np.array(wanted.ids[:29], np.int32)
    assert np.abs(logits_of_folder(exported, tokens) - logits_of_llmc(run, tokens)).max() < 1e-3


@pytest.mark.parametrize("how", [[], ["--lora_rank", 4]], ids=["whole", "adapters"])
def test_a_qwen2_of_chance_weights(tmp_path, how):
    publish(tmp_path / "theirs", "qwen2")
    convert(tmp_path / "theirs", tmp_path / "ours")
    data = tuning.data(tmp_path / "chat.jsonl", 30, turns=1)
    for template in ("chatml", "llmc"):         # 40 tokens are few, and words are cut into bytes
        teach(tmp_path / "ours", tmp_path / template, data, "--template", template, *how)
        check(tmp_path / template, tmp_path / f"{template} exported", template)


@pytest.mark.shared
def test_stories260k(tmp_path, shared):
    weights = next((shared / "data/models/stories260K").glob("*.bin"), None)
    convert(weights, tmp_path / "ours", "--tokenizer", shared / "data/models/stories260K/tok512.bin")
    data = tuning.data(tmp_path / "chat.jsonl", 30)
    teach(tmp_path / "ours", tmp_path / "run", data)
    check(tmp_path / "run", tmp_path / "exported", "llmc")
    made = open_checkpoint(tmp_path / "run")
    assert made.config.vocab_size == 512 + 13 and made.tokenizer.special["<|im_start|>"] >= 512
