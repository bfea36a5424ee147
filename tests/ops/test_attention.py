"""attention: each query's mean of the values it sees, weighted by a softmax of its scores."""
from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
import torch
from common import (F32, I32, Out, as_tensor, gradient, numbers, run, same_bits_for_any_threads,
                    within_budget)

# (B,T,H,G,D): ones, odd widths, groups, more than one block of keys and of D
SHAPES = [(1, 1, 1, 1, 1), (3, 7, 8, 1, 2), (1, 15, 2, 2, 3), (2, 37, 6, 2, 5), (1, 67, 2, 1, 16),
          (2, 64, 1, 1, 64), (1, 33, 3, 3, 80), (1, 57, 2, 2, 128), (1, 300, 2, 1, 7),
          (1, 531, 1, 1, 2), (1, 19, 2, 1, 261), (2, 161, 4, 2, 64), (1, 130, 1, 1, 32), (1, 70, 2, 1, 96),
          (1, 97, 1, 1, 128)]
DOCUMENTS = ["one document", "documents", "window"]


def first_of(B: int, T: int, kind: str) -> np.ndarray:
    """(B,T): the first key that each step sees."""
    first = np.zeros((B, T), I32)
    if kind == "documents":
        for b in range(B):
            for start in np.sort(np.random.default_rng(b).integers(0, T, 3)):
                first[b, start:] = start
    if kind == "window":
        first[:] = np.maximum(0, np.arange(T) - 8)
    return first


def parts(packed, H, G):
    """q, k and v of (B,T,(H+2G)*D), each (B,T,heads,D)."""
    B, T, P = packed.shape
    heads = packed.reshape(B, T, H + 2 * G, P // (H + 2 * G))
    return heads[:, :, :H], heads[:, :, H:H + G], heads[:, :, H + G:]


def scores(qkv, first, H, G):
    """(B,H,T,T); -inf where a key is not seen."""
    q, k, _ = parts(qkv, H, G)
    step = torch.arange(q.shape[1])
    seen = (step <= step[:, None]) & (step >= first[:, :, None])
    products = torch.einsum("bthd,bshd->bhts", q, k.repeat_interleave(H // G, 2))
    return (products / q.shape[3] ** 0.5).masked_fill(~seen[:, None], -torch.inf)


def attention(qkv, first, H, G):
    s, v = scores(qkv, first, H, G), parts(qkv, H, G)[2].repeat_interleave(H // G, 2)
    return torch.einsum("bhts,bshd->bthd", s.softmax(-1), v).flatten(2), s.logsumexp(-1)


def mean_of_values(qkv, first, H, G):
    return attention(qkv, first, H, G)[0]


def slopes(dout, out, lse, qkv, first, H, G):
    """dq, dk and dv, from what the way there left: p = exp(s - lse), mean of dp = dout . out."""
    q, k, v = parts(qkv, H, G)
    dout, out = dout.reshape(q.shape), out.reshape(q.shape)
    p = (scores(qkv, first, H, G) - lse[..., None]).exp()
    dp = torch.einsum("bthd,bshd->bhts", dout, v.repeat_interleave(H // G, 2))
    ds = p * (dp - (dout * out).sum(-1).transpose(1, 2)[..., None]) / q.shape[3] ** 0.5
    dq = torch.einsum("bhts,bshd->bthd", ds, k.repeat_interleave(H // G, 2))
    dk, dv = torch.einsum("bhts,bthd->bshd", ds, q), torch.einsum("bhts,bthd->bshd", p, dout)
    return dq, *(x.unflatten(2, (G, H // G)).sum(3) for x in (dk, dv))


def forward(on, qkv, first, H, G):
    B, T, P = qkv.shape
    width = H * (P // (H + 2 * G))
    outs = Out(B, T, width, dtype=qkv.dtype), Out(B, H, T)
    return run(on, "attention_forward", *outs, qkv, first, H, G)


def backward(on, dout, qkv, first, H, G):
    out, lse = forward(on, qkv, first, H, G)
    dqkv = Out(*qkv.shape, dtype=qkv.dtype)
    return run(on, "attention_backward", dqkv, dout, out, lse, qkv, first, H, G)


def inputs(B, T, H, G, D, dtype):
    return numbers(B, T, (H + 2 * G) * D, dtype=dtype), numbers(B, T, H * D, dtype=dtype, seed=1)


@pytest.mark.parametrize("kind", DOCUMENTS)
@pytest.mark.parametrize("B,T,H,G,D", SHAPES)
def test_forward_is_the_mean_of_the_values_seen(on, dtype, B, T, H, G, D, kind):
    qkv, _ = inputs(B, T, H, G, D, dtype)
    first = first_of(B, T, kind)
    within_budget(forward(on, qkv, first, H, G), attention, qkv, first, H, G)


@pytest.mark.parametrize("kind", DOCUMENTS)
@pytest.mark.parametrize("B,T,H,G,D", SHAPES)
def test_backward_is_the_gradient(on, dtype, B, T, H, G, D, kind):
    """Of what came out, and of that formula in q, k and v apart, whose slopes differ in size."""
    qkv, dout = inputs(B, T, H, G, D, dtype)
    first = first_of(B, T, kind)
    got = backward(on, dout, qkv, first, H, G)
    if dtype == F32:        # in bf16 the gradient of the rounded out is another one
        within_budget((got,), gradient(mean_of_values, 0), dout, qkv, first, H, G)
    out, lse = forward(on, qkv, first, H, G)
    within_budget(parts(got, H, G), slopes, dout, out, lse, qkv, first, H, G)


def test_scores_of_any_size(on):
    """The largest weight is 1 where scores differ by thousands; exp alone would overflow."""
    B, T, H, G, D = 1, 41, 2, 2, 8
    qkv, dout = inputs(B, T, H, G, D, F32)
    qkv *= 100
    first = first_of(B, T, "documents")
    within_budget(forward(on, qkv, first, H, G), attention, qkv, first, H, G)
    assert np.isfinite(backward(on, dout, qkv, first, H, G)).all()


@pytest.mark.parametrize("kind", ["one document", "window"])
@pytest.mark.parametrize("T", [1, 13, 14, 32, 255, 257, 290])
def test_a_step_depends_neither_on_later_steps_nor_on_their_number(on, dtype, T, kind):
    """Bit for bit. On the way back too, where the later steps have no slope."""
    qkv, dout = inputs(1, 300, 2, 1, 5, dtype)
    first = first_of(1, 300, kind)
    dout[:, T:] = 0
    short = forward(on, qkv[:, :T], first[:, :T], 2, 1)
    whole = forward(on, qkv, first, 2, 1)
    assert short[0].tobytes() == whole[0][:, :T].tobytes()
    assert short[1].tobytes() == whole[1][:, :, :T].tobytes()
    dqkv = backward(on, dout, qkv, first, 2, 1)
    assert np.array_equal(backward(on, dout[:, :T], qkv[:, :T], first[:, :T], 2, 1), dqkv[:, :T])
    assert not dqkv[:, T:].any()


def test_a_document_depends_on_no_other(on, dtype):
    """Bit for bit: other numbers before it and after it, and another row beside it."""
    qkv, dout = inputs(1, 300, 2, 1, 16, dtype)
    first = np.zeros((1, 300), I32)
    first[:, 41:] = 41
    first[:, 283:] = 283
    changed, others = qkv.copy(), np.r_[0:41, 283:300]
    changed[:, others] = numbers(1, len(others), qkv.shape[2], dtype=dtype, seed=2, scale=3)

    def all_three(dout, qkv, first):
        out, lse = forward(on, qkv, first, 2, 1)
        return out, lse.transpose(0, 2, 1), backward(on, dout, qkv, first, 2, 1)
    beside = all_three(*(np.concatenate([x, y]) for x, y in
                         [(dout, dout), (changed, qkv), (first, first)]))
    for alone, two in zip(all_three(dout, qkv, first), beside):
        for row in range(2):
            assert np.array_equal(two[row, 41:283], alone[0, 41:283])
        assert not np.array_equal(two[0, :41], alone[0, :41])


@pytest.mark.parametrize("B,T,H,G,D", [(3, 71, 4, 2, 20), (1, 290, 5, 1, 33)])
def test_bits_do_not_depend_on_threads(name, dtype, B, T, H, G, D):
    if name == "cpu:plain":
        pytest.skip("the reference loops use one thread")
    qkv, dout = inputs(B, T, H, G, D, dtype)
    first = first_of(B, T, "documents")
    out, lse = (x.detach().numpy() for x in attention(
        as_tensor(qkv, torch.float32), as_tensor(first, torch.float32), H, G))
    same_bits_for_any_threads(name, "attention_forward", lambda: (
        Out(B, T, H * D, dtype=dtype), Out(B, H, T), qkv, first, H, G))
    same_bits_for_any_threads(name, "attention_backward", lambda: (
        Out(*qkv.shape, dtype=dtype), dout, out.astype(dtype), lse, qkv, first, H, G))


PAGE = 32
# (H,G,D): those with kernels of their own on a GPU, in groups or not, and others
HEADS = [(1, 1, 1), (4, 2, 20), (6, 1, 33), (4, 2, 32), (2, 2, 64), (2, 1, 80), (1, 1, 96), (2, 1, 128)]


def pages_for(lengths, table):
    """The table as far as the lengths need it; the rest is no page."""
    return np.where(np.arange(table.shape[1]) * PAGE < np.asarray(lengths)[:, None], table, -1).astype(I32)


def through_a_cache(on, sequences, H, G, seed, pieces=(0, 1, 1, 2, 31, 40, 200), least=1):
    """Each sequence's out, (T,H*D): fed in pieces of random lengths, `least` or more, beside the others
    or not, its pages where chance put them, and what no one wrote NaN."""
    rng = np.random.default_rng(seed)
    width, dtype = sequences[0].shape[1], sequences[0].dtype
    D = width // (H + 2 * G)
    most = max(len(s) for s in sequences) // PAGE + 1
    table = rng.permutation(len(sequences) * most).astype(I32).reshape(-1, most)
    cache = np.full((table.size, 2 * G, PAGE, D), np.nan).astype(dtype)
    outs, done = [[] for _ in sequences], np.zeros(len(sequences), I32)
    while any(done[r] < len(s) for r, s in enumerate(sequences)):
        left = [len(s) - done[r] for r, s in enumerate(sequences)]
        count = [n if n - piece < least else piece for n, piece in zip(left, rng.choice(pieces, len(left)))]
        rows = [r for r, n in enumerate(count) if n]
        if not rows:
            continue
        start = np.r_[0, np.cumsum([count[r] for r in rows])].astype(I32)
        batch = np.concatenate([sequences[r][done[r]:done[r] + count[r]] for r in rows])
        out, kept = Out(len(batch), H * D, dtype=dtype), Out(*cache.shape, dtype=dtype, fill=cache)
        pages = pages_for(done[rows] + np.diff(start), table[rows])
        run(on, "attention_cached", out, kept, batch, pages, start, done[rows], H, G)
        cache = kept.array
        for r, n, begin in zip(rows, np.diff(start), start):
            outs[r].append(out.array[begin:begin + n])
            done[r] += n
    return [np.concatenate(out) for out in outs]


@pytest.mark.parametrize("scale", [1, 1e-38])
@pytest.mark.parametrize("H,G,D", HEADS)
def test_over_a_cache_it_is_the_same(on, dtype, H, G, D, scale):
    """Whatever the pieces, the neighbours and the pages, and where sums become 0, of either sign: bit for bit on a CPU;
    on a GPU, where tensor cores and other kernels round p at different places, to a rounding of p and of the output."""
    sequences = [numbers(T, (H + 2 * G) * D, dtype=dtype, seed=T, scale=scale) for T in (1, 31, 33, 97, 300)]
    for seed in range(3):
        for got, sequence in zip(through_a_cache(on, sequences, H, G, seed), sequences):
            first = np.zeros((1, len(sequence)), I32)
            whole = forward(on, sequence[None], first, H, G)[0][0]
            if on.name.startswith("cuda"):
                error = np.abs(got.astype(np.float64) - whole.astype(np.float64)).max()
                assert error <= 1.5 * float(ml_dtypes.finfo(dtype).eps) * np.abs(sequence.astype(F32)).max()
            else:
                assert got.tobytes() == whole.tobytes()


@pytest.mark.parametrize("H,G,D", HEADS)
def test_pieces_of_two_tokens_or_more_give_the_bits_of_one_piece(on, dtype, H, G, D):
    """On a GPU too: only a row that brings one token takes another way."""
    sequences = [numbers(T, (H + 2 * G) * D, dtype=dtype, seed=T) for T in (2, 65, 130, 200)]
    alone = [through_a_cache(on, [s], H, G, 0, pieces=(1000,))[0] for s in sequences]
    for seed in range(2):
        beside = through_a_cache(on, sequences, H, G, seed, pieces=(0, 2, 31, 63, 64, 67), least=2)
        for one, other in zip(alone, beside):
            assert one.tobytes() == other.tobytes()


def ragged(H, G, D, dtype, lengths, counts, lent):
    """The arguments of a call whose rows have lengths and bring counts; row r reads the first lent[r] pages of row 0,
    which is as long. What no row sees is NaN. Then each row's sequence, and the cache as it must become."""
    rng = np.random.default_rng(D)
    whole = [numbers(n + c, (H + 2 * G) * D, dtype=dtype, seed=r) for r, (n, c) in enumerate(zip(lengths, counts))]
    most = max(map(len, whole)) // PAGE + 1
    table = rng.permutation(len(lengths) * most).astype(I32).reshape(-1, most)
    for r, pages in enumerate(lent):
        table[r, :pages] = table[0, :pages]
        whole[r][:pages * PAGE] = whole[0][:pages * PAGE]
    caches = np.full((2, table.size, 2 * G, PAGE, D), np.nan).astype(dtype)
    for r, sequence in enumerate(whole):
        for s, key in enumerate(sequence[:, H * D:].reshape(-1, 2 * G, D)):
            caches[s >= lengths[r]:, table[r, s // PAGE], :, s % PAGE] = key
    start = np.r_[0, np.cumsum(counts)].astype(I32)
    batch = np.concatenate([s[n:] for s, n in zip(whole, lengths)])
    out, kept = Out(len(batch), H * D, dtype=dtype), Out(*caches[0].shape, dtype=dtype, fill=caches[0])
    pages = pages_for([len(s) for s in whole], table)
    return (out, kept, batch, pages, start, np.array(lengths, I32), H, G), whole, caches[1]


@pytest.mark.parametrize("H,G,D", HEADS)
def test_ragged_rows_see_their_own_keys(on, dtype, H, G, D):
    """Prompts that begin, go on, and end at any step of a page, beside texts that grow by a token; two rows read pages
    of the first. Each token is the mean of its own row's values, and the cache holds what was brought and no more."""
    lengths, counts, lent = [96, 0, 5, 31, 64, 100, 95, 131], [1, 70, 3, 33, 1, 65, 2, 64], [0, 0, 0, 0, 2, 3, 0, 0]
    args, whole, cache = ragged(H, G, D, dtype, lengths, counts, lent)
    out, kept = run(on, "attention_cached", *args)
    assert kept.tobytes() == cache.tobytes()
    for sequence, length, begin in zip(whole, lengths, args[4]):
        within_budget(out[begin:begin + len(sequence) - length], lambda *a: attention(*a)[0][0, length:],
                      sequence[None], np.zeros((1, len(sequence)), I32), H, G)


@pytest.mark.parametrize("H,G,D", [(4, 2, 20), (4, 2, 64)])
def test_a_row_has_the_bits_it_has_alone(on, dtype, H, G, D):
    """Those that bring one token too, beside a long prompt or not."""
    lengths, counts = [290, 31, 127, 0], [1, 70, 1, 1]
    args, _, _ = ragged(H, G, D, dtype, lengths, counts, [0] * 4)
    together = run(on, "attention_cached", *args)[0]
    batch, table, start = args[2:5]
    for r in range(4):
        kept = Out(*args[1].array.shape, dtype=dtype, fill=args[1].array)
        alone = run(on, "attention_cached", Out(counts[r], H * D, dtype=dtype), kept, batch[start[r]:start[r + 1]],
                    table[r:r + 1], np.array([0, counts[r]], I32), args[5][r:r + 1], H, G)[0]
        assert alone.tobytes() == together[start[r]:start[r + 1]].tobytes()


def test_a_token_at_a_time_over_a_cache_is_the_same(on, dtype):
    """As text is written: rows of different lengths, each bringing one token, over more keys than one warp reads."""
    H, G, D, most, lengths = 4, 2, 16, 10, [290, 0, 127, 128, 31]
    sequences = [numbers(n + 1, (H + 2 * G) * D, dtype=dtype, seed=n) for n in lengths]
    table = np.random.default_rng(0).permutation(len(lengths) * most).astype(I32).reshape(-1, most)
    cache = np.full((table.size, 2 * G, PAGE, D), np.nan).astype(dtype)
    for r, sequence in enumerate(sequences):
        keys = sequence[:-1, H * D:].reshape(-1, 2 * G, D)
        for s, key in enumerate(keys):
            cache[table[r, s // PAGE], :, s % PAGE] = key
    last = np.concatenate([s[-1:] for s in sequences])
    out, kept = Out(len(lengths), H * D, dtype=dtype), Out(*cache.shape, dtype=dtype, fill=cache)
    start = np.arange(len(lengths) + 1, dtype=I32)
    run(on, "attention_cached", out, kept, last, table, start, np.array(lengths, I32), H, G)
    for r, sequence in enumerate(sequences):
        within_budget(out.array[r], lambda *args: attention(*args)[0][0, -1], sequence[None],
                      np.zeros((1, len(sequence)), I32), H, G)


def test_a_cache_is_read_alike_by_any_number_of_threads(name, dtype):
    if name == "cpu:plain":
        pytest.skip("the reference loops use one thread")
    batch, table = numbers(9, 8 * 20, dtype=dtype), np.array([[1, 3], [2, 0]], I32)
    cache = numbers(4, 4, PAGE, 20, dtype=dtype, seed=1)
    same_bits_for_any_threads(name, "attention_cached", lambda: (
        Out(9, 4 * 20, dtype=dtype), Out(*cache.shape, dtype=dtype, fill=cache), batch, table,
        np.array([0, 1, 9], I32), np.array([40, 3], I32), 4, 2))
