"""No fine-tuning: both streams run SAM's frozen blocks, as a baseline."""

from __future__ import annotations

from mfnet.tuning.base import BlockTuning


class NoTuning(BlockTuning):
    """A tuning without parameters."""


TUNING = NoTuning
