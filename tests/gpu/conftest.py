"""Models and their PyTorch reference come from the tests of the model."""

import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path += [str(TESTS / "model"), str(TESTS / "ops"), str(TESTS / "stages"), str(TESTS.parent)]
