"""llmc: from web pages to an assistant, computed by one C/CUDA engine."""

from typing import Any

__all__ = ["Config", "Decoder", "Device", "LlmcError", "Model", "Sampler", "Sampling", "Tensor",
           "Trainer"]


def __getattr__(name: str) -> Any:
    """The engine's names, loaded at their first use: importing llmc itself costs nothing."""
    if name not in __all__:
        raise AttributeError(f"module 'llmc' has no attribute {name!r}")
    from llmc import _core

    return getattr(_core, name)
