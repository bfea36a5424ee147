"""llmc.perplexity: each token once, in windows, as transformers scores them."""
from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from llmc import Config, Device, Model, cli, hugging_face, lazy
from llmc.hugging_face_config import config_from
from llmc.perplexity import Perplexity, run, score, windows
from test_sample import CONTEXT, write_checkpoint
from transformers.models.llama import LlamaConfig, LlamaForCausalLM

TEXT = "then the three others there, then… é\n" * 4


@pytest.mark.parametrize("count, context, stride", [(1, 4, 2), (4, 4, 4), (5, 4, 4), (19, 7, 3),
                                                    (19, 7, 7), (8, 4, 1)])
def test_every_token_is_scored_once_with_enough_before_it(count, context, stride):
    scored = []
    for begin, first, end in windows(count, context, stride):
        assert begin <= first < end <= begin + context
        assert first == 0 or first - begin >= context - stride
        scored += range(first, end)
    assert scored == list(range(count))


@pytest.mark.parametrize("stride", [5, 12])
def test_scores_are_those_of_transformers(stride):
    """The loop of its guide to perplexity, on the same weights."""
    torch.manual_seed(0)
    theirs = LlamaForCausalLM(LlamaConfig(
        vocab_size=50, max_position_embeddings=12, hidden_size=16, intermediate_size=24,
        num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1)).eval()
    for p in theirs.parameters():
        torch.nn.init.normal_(p, 0.3, 0.4)
    config = Config(**config_from(theirs.config.to_dict(), "theirs"))
    state = {name: lazy.of(tensor.numpy()) for name, tensor in theirs.state_dict().items()}
    ours = Model(Device("cpu", 1), config)
    for name, tensor in hugging_face.assemble(state, config, "theirs").items():
        ours.set(name, np.ascontiguousarray(lazy.as_type(tensor, "f32")))
    tokens = torch.randint(0, 50, (40,))
    total, before = 0.0, 1                          # the first token is not scored
    for begin in range(0, 39, stride):
        end = min(begin + 13, 40)                   # 12 read, and the one they foresee
        labels = tokens[begin:end].clone()
        labels[:before - begin] = -100
        with torch.no_grad():
            logits = theirs(tokens[None, begin:end - 1]).logits[0]
        total += torch.nn.functional.cross_entropy(logits, labels[1:], reduction="sum").item()
        before = end
        if end == 40:
            break
    found = score(ours, tokens.numpy().astype(np.int32), 12, stride)
    assert len(found) == 39
    assert -found.sum() == pytest.approx(total, rel=1e-5)


def test_a_file_is_measured(tmp_path, capsys):
    folder, file = write_checkpoint(tmp_path / "model"), tmp_path / "text.txt"
    file.write_text(TEXT)
    measured = []
    for stride in (0, 1, CONTEXT):
        run(Perplexity(str(folder), file, stride=stride))
        out = capsys.readouterr().out
        tokens, size, nats, bits, perplexity = (
            float(x.replace(",", "")) for x in re.findall(r"[\d,]+(?:\.\d+)?", out))
        assert size == len(TEXT.encode())
        assert perplexity == pytest.approx(math.exp(nats), rel=1e-3)
        assert bits == pytest.approx(nats * tokens / size / math.log(2), rel=1e-3)
        measured.append(nats)
    assert len(set(measured)) == 3


@pytest.mark.parametrize("flags, text, sentence", [
    (["--stride", "17"], "a", "--stride is 17, wanted at most the window's 16"),
    (["--context", "17"], "a", "--context is 17, but the model's holds 16"),
    ([], "", "holds 1 tokens; there is none to foresee"),
    ([], b"\xff", "is not UTF-8")])
def test_what_cannot_be_measured_is_one_line(tmp_path, capsys, flags, text, sentence):
    folder, file = write_checkpoint(tmp_path / "model"), tmp_path / "text.txt"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    command = [str(folder), str(file), *flags]
    assert cli.guarded(lambda: run(cli.parse(Perplexity, command))) == 1
    err = capsys.readouterr().err
    assert sentence in err and err.count("\n") == 1
