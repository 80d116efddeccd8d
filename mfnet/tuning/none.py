"""No fine-tuning: both streams run SAM's frozen block. The baseline of every comparison."""

from __future__ import annotations

from mfnet.tuning.base import BlockTuning


class NoTuning(BlockTuning):
    """Holds no parameters."""


TUNING = NoTuning
