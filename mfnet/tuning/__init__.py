"""Fine-tuning mechanisms by name, imported on use. Knows no networks and imports no torch.

Each module here but `base` is one mechanism: its file name is the mechanism's name, and its
`TUNING` the `BlockTuning` subclass. So adding a file adds a mechanism.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING

from mfnet_runtime.errors import UsageError

if TYPE_CHECKING:
    from mfnet.tuning.base import BlockTuning


def tuning_names() -> tuple[str, ...]:
    """The mechanisms there are, sorted."""
    found = (module.name for module in pkgutil.iter_modules(__path__))
    return tuple(sorted(name for name in found if name != "base"))


def tuning_class(name: str) -> type[BlockTuning]:
    """The class of a tuning.

    Raises:
        UsageError: no such tuning; lists the known ones.
    """
    if name not in tuning_names():
        raise UsageError(f"unknown tuning {name!r}; known: {', '.join(tuning_names())}")
    found: type[BlockTuning] = importlib.import_module(f"mfnet.tuning.{name}").TUNING
    return found
