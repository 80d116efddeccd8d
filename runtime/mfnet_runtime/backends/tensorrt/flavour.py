"""The two products named TensorRT, and the import of the one that is needed.

`tensorrt` runs on data-centre GPUs, Jetson and RTX cards, and builds plans on the GPU they are
for. `rtx`, TensorRT for RTX, runs on RTX and GeForce cards only; it builds plans on any machine,
and finishes them on the card that runs them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from mfnet_runtime.errors import UsageError


@dataclass(frozen=True)
class Flavour:
    """A product, its Python modules and the versions that work."""

    name: str  # in the file beside a plan
    title: str  # in messages
    modules: tuple[str, ...]  # the first that is installed is used
    lean: tuple[str, ...]  # run version-compatible plans only
    oldest: tuple[int, int]
    extra: str  # of mfnet, that installs it


FULL = Flavour(
    name="tensorrt",
    title="TensorRT",
    modules=("tensorrt",),
    lean=("tensorrt_lean", "tensorrt_lean_bindings"),
    oldest=(8, 6),
    extra="gpu",
)
RTX = Flavour(
    name="rtx",
    title="TensorRT for RTX",
    modules=("tensorrt_rtx", "tensorrt_rtx_bindings"),
    lean=(),
    oldest=(1, 7),
    extra="rtx",
)
FLAVOURS = {flavour.name: flavour for flavour in (FULL, RTX)}
# Compute capabilities that TensorRT for RTX runs on; those above 12 as well.
RTX_GPUS = ((7, 5), (8, 0), (8, 6), (8, 9), (12, 0), (12, 1))


def import_flavour(flavour: Flavour, lean: bool = False) -> Any:
    """Import the module of a flavour.

    Args:
        flavour: `FULL` or `RTX`.
        lean: Import the lean runtime instead.

    Raises:
        ModuleNotFoundError: None of its modules is installed; names the first.
        UsageError: It is too old, or installed without the libraries that it needs.
    """
    names = flavour.lean if lean else flavour.modules
    install = f"pip install 'mfnet[{flavour.extra}]'"
    for name in names:
        try:
            trt = import_module(name)
        except ModuleNotFoundError:
            continue
        except (ImportError, OSError) as fault:
            raise UsageError(
                f"{name} is installed but does not load ({fault}); install it again, with the "
                f"CUDA libraries that it was built with: {install}"
            ) from fault
        if version_numbers(trt.__version__) < flavour.oldest:
            oldest = "{}.{}".format(*flavour.oldest)
            raise UsageError(
                f"{flavour.title} {trt.__version__} is installed; needs {oldest} or newer: "
                f"{install}"
            )
        return trt
    name = flavour.modules[0]
    raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def is_installed(flavour: Flavour) -> bool:
    """Return True if a module of a flavour can be found; it may still fail to load."""
    return any(find_spec(name) for name in flavour.modules)


def version_numbers(version: str) -> tuple[int, ...]:
    """Parse a version: 10.13.3.9 becomes (10, 13, 3, 9)."""
    return tuple(int(part) for part in re.findall(r"\d+", version)[:4])


def target_text(capability: tuple[int, int]) -> str:
    """Return the name of a compute capability: (8, 9) becomes sm89."""
    return "sm{}{}".format(*capability)
