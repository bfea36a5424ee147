"""One training step of GPT-2 on the CPU: llmc against PyTorch, alternately, each in a process of its own.

    python dev/bench/train_step.py [--preset gpt2] [--rows 4] [--steps_per_round 1] [--rounds 5]

Two OpenMP pools in one process spin against each other, so each side is a worker that computes when told to.
The peer is what a careful PyTorch user writes: scaled_dot_product_attention, fused AdamW, gradient clipping, eager
and with torch.compile. Prints median seconds a step, tokens/s, GFLOP/s, peak memory, and the ratio to the faster
peer; --json FILE keeps them.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time


SIDES = ("llmc", "eager", "compiled")


def make_llmc(args):
    import numpy as np
    from llmc import _core

    config = _core.Config.preset(args.preset)
    device = _core.Device("cpu", args.threads)
    model = _core.Model(device, config, args.dtype)
    model.init(1)
    model.plan(args.rows, args.tokens, train=True)
    trainer = _core.Trainer(model, beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=0.1, grad_clip=1.0)
    slope = np.full((args.rows, args.tokens), -1.0 / (args.rows * args.tokens), np.float32)

    def step(x, y):
        trainer.micro_batch(0, 1)
        numbers = model.train(x, y, {"logp": slope})
        trainer.reduce()
        trainer.apply(1e-4)
        return -float(numbers["logp"].mean())

    return step, config.vocab_size


def make_torch(args):
    import torch
    from torch import nn
    from torch.nn import functional as F

    sys.path.insert(0, "python")
    from llmc import _core

    torch.set_num_threads(args.threads)
    torch.manual_seed(1)
    c = _core.Config.preset(args.preset)

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.ln_1, self.ln_2 = nn.LayerNorm(c.n_embd), nn.LayerNorm(c.n_embd)
            self.qkv, self.proj = nn.Linear(c.n_embd, 3 * c.n_embd), nn.Linear(c.n_embd, c.n_embd)
            self.up, self.down = nn.Linear(c.n_embd, c.n_ff), nn.Linear(c.n_ff, c.n_embd)

        def forward(self, x):
            B, T, C = x.shape
            heads = self.qkv(self.ln_1(x)).view(B, T, 3, c.n_head, c.head_dim).permute(2, 0, 3, 1, 4)
            y = F.scaled_dot_product_attention(*heads, is_causal=True)
            x = x + self.proj(y.transpose(1, 2).reshape(B, T, C))
            return x + self.down(F.gelu(self.up(self.ln_2(x)), approximate="tanh"))

    class GPT2(nn.Module):
        def __init__(self):
            super().__init__()
            self.wte = nn.Embedding(c.padded_vocab_size, c.n_embd)
            self.wpe = nn.Embedding(c.max_seq_len, c.n_embd)
            self.h = nn.ModuleList(Block() for _ in range(c.n_layer))
            self.ln_f = nn.LayerNorm(c.n_embd)
            for p in self.parameters():
                if p.dim() == 2:
                    nn.init.normal_(p, std=0.02)

        def forward(self, x, y):
            z = self.wte(x) + self.wpe.weight[: x.shape[1]]
            for block in self.h:
                z = block(z)
            logits = self.ln_f(z) @ self.wte.weight.T
            return F.cross_entropy(logits.view(-1, logits.shape[-1]).float(), y.view(-1))

    model = GPT2()
    matrices = [p for p in model.parameters() if p.dim() == 2]
    vectors = [p for p in model.parameters() if p.dim() != 2]
    optimizer = torch.optim.AdamW([{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
                                  lr=1e-4, betas=(0.9, 0.95), fused=True)
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=args.dtype == "bf16")
    score = torch.compile(model) if args.worker == "compiled" else model

    def step(x, y):
        with autocast:
            loss = score(torch.from_numpy(x).long(), torch.from_numpy(y).long())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return step, c.vocab_size


def work(args):
    """A worker: reads how many steps to make, makes them, answers with one JSON line."""
    import numpy as np

    step, vocab_size = (make_llmc if args.worker == "llmc" else make_torch)(args)
    rng = np.random.default_rng(0)
    batch = rng.integers(0, vocab_size, (args.rows, args.tokens + 1), dtype=np.int32)
    x, y = np.ascontiguousarray(batch[:, :-1]), np.ascontiguousarray(batch[:, 1:])
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        seconds = []
        for _ in range(int(line)):
            start = time.perf_counter()
            loss = step(x, y)
            seconds.append(time.perf_counter() - start)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps({"seconds": seconds, "loss": loss, "peak_bytes": peak}), flush=True)


def start(side, argv):
    worker = subprocess.Popen([sys.executable, __file__, *argv, "--worker", side], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, text=True)
    json.loads(worker.stdout.readline())
    return worker


def ask(worker, steps):
    worker.stdin.write(f"{steps}\n")
    worker.stdin.flush()
    return json.loads(worker.stdout.readline())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="gpt2", help="a GPT-2 preset")
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=256, help="tokens a row")
    parser.add_argument("--dtype", default="f32", choices=["f32", "bf16"], help="bf16: ours bf16, theirs autocast")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps_per_round", type=int, default=1)
    parser.add_argument("--json", help="also write the result here")
    parser.add_argument("--worker", choices=SIDES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return work(args)

    from llmc import _core

    flops = _core.Config.preset(args.preset).train_flops(args.tokens) * args.rows * args.tokens
    sides = {side: start(side, sys.argv[1:]) for side in SIDES}
    seconds = {side: [] for side in sides}
    peak = {}
    for round in range(args.rounds + 1):                # the first one warms up and is not counted
        for side, worker in sides.items():
            answer = ask(worker, args.steps_per_round)
            peak[side] = answer["peak_bytes"]
            if round:
                seconds[side] += answer["seconds"]
    for worker in sides.values():
        worker.stdin.close()
        worker.wait()
    result = {}
    print(f"{args.preset}, {args.dtype}, B={args.rows}, T={args.tokens}, {args.threads} threads, "
          f"{len(seconds['llmc'])} steps each, alternating\n")
    print(f"{'':10}{'s a step':>10}{'tok/s':>10}{'GFLOP/s':>10}{'peak GB':>10}")
    for side in sides:
        t = statistics.median(seconds[side])
        result[side] = {"seconds": t, "tokens_per_second": args.rows * args.tokens / t, "gflops": flops / t / 1e9,
                        "peak_bytes": peak[side]}
        print(f"{side:10}{t:10.3f}{args.rows * args.tokens / t:10.1f}{flops / t / 1e9:10.1f}{peak[side] / 1e9:10.2f}")
    result["ratio"] = min(result[side]["seconds"] for side in SIDES[1:]) / result["llmc"]["seconds"]
    print(f"\nllmc runs at {result['ratio']:.2f} x the speed of PyTorch's faster way")
    if args.json:
        with open(args.json, "w") as file:
            json.dump(result, file, indent=1)


if __name__ == "__main__":
    main()
