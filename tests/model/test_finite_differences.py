"""The model's gradient against differences of its forward pass: an oracle without another model."""

import numpy as np
import pytest
from parity import CASES, batch, engine, grads, slopes, tiny, weights

# The central difference of four points errs by step^4, so steps can be large enough for float32.
# With the step below rounding and truncation both leave about 2e-4 of the gradient's norm.
POINTS = {-2: 1 / 12, -1: -2 / 3, 1: 2 / 3, 2: -1 / 12}
STEP, BUDGET = 0.06, 1e-3


@pytest.mark.parametrize("name, head", CASES)
def test_gradients_are_the_slope_of_the_loss(name, head):
    """Along two random directions of each parameter."""
    config = tiny(name, head)
    params, (tokens, targets) = weights(config), batch(config, 2, 7)
    model, given = engine(config, params, 2, 7), slopes(config, 2, 7)

    def loss():
        found = model.score(tokens, targets)
        return sum(np.vdot(found[n].astype(np.float64), slope) for n, slope in given.items())

    def slope_along(name, direction):
        total = 0.0
        for points, weight in POINTS.items():
            model.set(name, (params[name] + points * direction).astype(np.float32))
            total += weight * loss()
        model.set(name, params[name])
        return total

    model.train(tokens, targets, given)
    rng = np.random.default_rng(0)
    for name, grad in grads(model).items():
        for _ in range(2):
            direction = rng.choice([-1.0, 1.0], grad.shape) * STEP / np.sqrt(grad.size)
            error = abs(slope_along(name, direction) - np.vdot(grad, direction))
            assert error < BUDGET * np.linalg.norm(grad) * STEP / np.sqrt(grad.size), name
