"""The PyTorch reference is imported as dev.reference.model."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2]))
