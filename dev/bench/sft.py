"""A step of supervised fine-tuning beside one of pre-training: the same model, optimizer and rows, in turns.

    python dev/bench/sft.py [--preset gpt2] [--seq_len 1024] [--batch_size 4] [--dtype bf16] [--times 7] [--lora_rank 0]

Conversations are of random tokens, their lengths log-normal with the median of Dolly's (about 110 tokens); a step's
tokens are counted without padding. Told are medians of tokens a second, and their ratio.
"""
from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
from llmc import Config, Device, Model
from llmc._core import Comm, Trainer
from llmc.chat import Rendered
from llmc.mixture import Conversations, Order
from llmc.sft import Conversing, Sft


def conversations(vocab: int, T: int, count: int = 2000) -> Conversations:
    rng = np.random.default_rng(5)
    lengths = rng.lognormal(4.7, 0.8, count).astype(int).clip(8, T + 1)
    made = [(0, Rendered(rng.integers(0, vocab, n), np.arange(n) > n // 3)) for n in lengths]
    return Conversations(made, [1.0])


def steps(given: argparse.Namespace) -> tuple[Callable[[], int], Callable[[], int]]:
    """A step of pre-training and one of tuning; each gives its tokens."""
    B, T = given.batch_size, given.seq_len
    config = Config.preset(given.preset, max_seq_len=max(T, 256))
    model, comm = Model(Device("cpu", given.threads), config, given.dtype), Comm("single")
    model.init(1)
    if given.lora_rank:
        model.adapt(given.lora_rank, 2.0 * given.lora_rank, ["qkv", "proj", "up", "down"], 1)
    model.plan(B, T)
    trainer = Trainer(model, 0.9, 0.95, 1e-8, 0.1, 1.0)
    tokens = np.random.default_rng(1).integers(0, config.vocab_size, (B, T + 1), np.int32)
    slope = np.full((B, T), -1 / (B * T), np.float32)
    learned = conversations(config.vocab_size, T)
    base = SimpleNamespace(config=config, manner=SimpleNamespace(system=""))
    stage = Conversing(Sft(ask=[], batch_size=B, seq_len=T, total_batch_size=B * T), base, Order(learned, T, 1), learned, comm)
    stage.model, place = model, [0]

    def update(learn: Callable[[], object]) -> None:
        trainer.micro_batch(0, 1)
        learn()
        trainer.reduce()
        trainer.apply(1e-5)

    def pretrain() -> int:
        update(lambda: model.train(tokens[:, :-1].copy(), tokens[:, 1:].copy(), {"logp": slope}))
        return B * T

    def tune() -> int:
        load = stage.load(place[0], comm)
        place[0] = load.cursor
        update(lambda: stage.learn(0, False))
        return load.tokens

    return pretrain, tune


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="gpt2")
    parser.add_argument("--dtype", default="bf16")
    for name, default in (("seq_len", 256), ("batch_size", 4), ("times", 7), ("threads", 0), ("lora_rank", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    both, speeds = steps(given), ([], [])
    for _ in range(given.times + 1):                # the first is not counted
        for step, speed in zip(both, speeds):
            begin = time.perf_counter()
            tokens = step()
            speed.append(tokens / (time.perf_counter() - begin))
    pretrain, tune = (statistics.median(speed[1:]) for speed in speeds)
    print(f"{given.preset}, {given.dtype}, B={given.batch_size}, T={given.seq_len}, LoRA rank {given.lora_rank}: "
          f"pre-training {pretrain:,.0f} tokens/s, tuning {tune:,.0f}, ratio {tune / pretrain:.3f}")


if __name__ == "__main__":
    main()
