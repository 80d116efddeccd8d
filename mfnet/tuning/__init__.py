"""Fine-tuning mechanisms by name, imported on use. Knows no networks and imports no torch.

To add one: subclass `BlockTuning` in a module of its own and name it here.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from mfnet_runtime.errors import UsageError

if TYPE_CHECKING:
    from mfnet.tuning.base import BlockTuning

TUNINGS = {
    "lora": "mfnet.tuning.lora:LoraTuning",
    "adapter": "mfnet.tuning.adapter:AdapterTuning",
    "none": "mfnet.tuning.none:NoTuning",
}


def tuning_class(name: str) -> type[BlockTuning]:
    """The class of a tuning.

    Raises:
        UsageError: no such tuning; lists the known ones.
    """
    if name not in TUNINGS:
        raise UsageError(f"unknown tuning {name!r}; known: {', '.join(TUNINGS)}")
    module, _, attribute = TUNINGS[name].partition(":")
    found: type[BlockTuning] = getattr(importlib.import_module(module), attribute)
    return found
