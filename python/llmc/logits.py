"""Logits of the next token -> the same with a request's biases and penalties; log-probabilities."""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llmc.request import Logprob, Request


def adjust(logits: np.ndarray, request: Request, written: Sequence[int]) -> None:
    """Changes the float32 logits (vocab_size) for what `written` holds, the text so far. The order
    is that of Hugging Face's processors: bias, then the repetition penalty, which counts the prompt
    too; then OpenAI's presence and frequency penalties; last, what is not allowed."""
    if request.logit_bias:
        ids = list(request.logit_bias)
        logits[ids] += np.array(list(request.logit_bias.values()), np.float32)
    if request.repetition_penalty != 1:
        ids = np.unique([*request.prompt, *written])
        penalty = np.float32(request.repetition_penalty)
        logits[ids] = np.where(logits[ids] < 0, logits[ids] * penalty, logits[ids] / penalty)
    if written and (request.presence_penalty or request.frequency_penalty):
        ids, counts = np.unique(written, return_counts=True)
        logits[ids] -= (np.float32(request.frequency_penalty) * counts.astype(np.float32)
                        + np.float32(request.presence_penalty))
    if request.allowed_tokens is not None:
        ids = list(request.allowed_tokens)
        kept = logits[ids]
        logits[:] = -np.inf
        logits[ids] = kept


def logprob(logits: np.ndarray, token: int, rivals: int) -> Logprob:
    """log p of a token and of the likeliest ones; among equals the lower id comes first."""
    exact = logits.astype(np.float64)
    exact -= exact.max()
    exact -= np.log(np.exp(exact).sum())
    top = likeliest(exact, rivals)
    return Logprob(float(exact[token]), [(int(id), float(exact[id])) for id in top])


def likeliest(logits: np.ndarray, count: int) -> np.ndarray:
    """The ids of the largest, the largest first."""
    count = min(count, np.isfinite(logits).sum())
    if count == 0:
        return np.array([], int)
    least = np.partition(logits, -count)[-count]
    ids = np.flatnonzero(logits >= least)
    return ids[np.argsort(-logits[ids], kind="stable")][:count]
