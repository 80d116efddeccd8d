"""Fine-tuning mechanisms by name, imported when they are used.

Each module here except `base` is one mechanism: it is named after its file, and its `TUNING` is the
`BlockTuning` subclass. To add a mechanism, add a file.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING

from mfnet_runtime.errors import UsageError

if TYPE_CHECKING:
    from mfnet.tuning.base import BlockTuning


def tuning_names() -> tuple[str, ...]:
    """Return the names of all mechanisms, sorted."""
    found = (module.name for module in pkgutil.iter_modules(__path__))
    return tuple(sorted(name for name in found if name != "base"))


def tuning_class(name: str) -> type[BlockTuning]:
    """Return the class of a mechanism.

    Raises:
        UsageError: There is no such mechanism; the message lists the known ones.
    """
    if name not in tuning_names():
        raise UsageError(f"unknown tuning {name!r}; known: {', '.join(tuning_names())}")
    found: type[BlockTuning] = importlib.import_module(f"mfnet.tuning.{name}").TUNING
    return found
