"""Where FP16 would overflow: peaks of a network's activations on real windows, and what to do.

Sums of the residual streams grow from block to block, and so are kept in FP32 where they are
large, together with means whose sums are. Anything else that is too large is refused.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from mfnet_export.errors import ExportError
from mfnet_export.precision.fp16_cast import FLOAT, HALF, HALF_MAX, LAYOUT
from mfnet_export.precision.probe import Probe, measured
from mfnet_export.precision.sections import parts_of
from mfnet_export.rewrites.attention import APART
from mfnet_export.validation.sample_windows import Windows

LIMIT = 2.0**15  # half of FP16's range: windows not measured may reach further
# Of residual sums, to which every block adds. Room is the reason and not precision: a channel that
# is large is rounded coarsely, the others are not. With every sum in FP32 the classes of small
# networks below this limit agreed no better than without.
RESIDUAL_LIMIT = 2.0**13


@dataclass(frozen=True)
class Ranges:
    """What was measured."""

    peaks: dict[str, float]  # largest magnitude of each activation that a node computes
    parts: dict[str, str]  # part of the network of each activation
    sums: tuple[str, ...]  # the residual streams' sums, in order
    large: tuple[str, ...]  # those, and means, that FP16 is too small for
    masked: tuple[str, ...]  # scores with a mask added, which is as large as it has to be

    def part_peaks(self) -> dict[str, float]:
        """Largest magnitude in each part of the network, in its order; masks aside."""
        found: dict[str, float] = {}
        for name, peak in self.peaks.items():
            if name not in self.masked:
                found[self.parts[name]] = max(peak, found.get(self.parts[name], 0.0))
        return found

    def parts_with(self, names: Iterable[str]) -> tuple[str, ...]:
        """The parts that some activations are in."""
        return tuple(dict.fromkeys(self.parts[name] for name in names))


def ranges_of(source: Path, windows: Windows, threads: int = 0) -> Ranges:
    """Measure an FP32 file on windows.

    Raises:
        ResourceError: no room for a temporary copy of the graph.
    """
    model = ir.load(source)
    peaks = {name: Probe(name) for name in _computed(model)}
    means = dict(_means(model))
    sums, parts, masked = residual_sums(model), parts_of(model), tuple(_masked(model))
    del model
    gc.collect()  # a graph holds cycles, and its weights with them
    found = measured(source, (*peaks.values(), *means.values()), windows, threads)
    reached = {name: float(found[probe]) for name, probe in peaks.items()}
    large = [name for name in sums if not reached[name] <= RESIDUAL_LIMIT]
    large += [mean for mean, probe in means.items() if not float(found[probe]) <= LIMIT]
    return Ranges(reached, parts, sums, tuple(large), masked)


def residual_sums(model: ir.Model) -> tuple[str, ...]:
    """Names of the sums that make a residual stream: what a LayerNormalization reads, or the next.

    They are Adds of which a LayerNormalization reads the result, or one of the operands.
    """
    read = {
        origin(node.inputs[0])
        for node in model.graph
        if node.op_type == "LayerNormalization" and node.inputs[0] is not None
    }
    found = []
    for node in model.graph:
        around = {node.outputs[0], *(origin(value) for value in node.inputs if value is not None)}
        if node.op_type == "Add" and around & read:
            found.append(str(node.outputs[0].name))
    return tuple(found)


def require_fit(model: ir.Model, ranges: Ranges) -> None:
    """Refuse a converted graph in which an FP16 activation comes near FP16's end.

    Args:
        model: FP16, from the graph that was measured.
        ranges: Of that graph.

    Raises:
        ExportError: names the activation and its peak.
    """
    for node in model.graph:
        casts = node.op_type == "Cast"
        value = origin(node.inputs[0] if casts else node.outputs[0])
        if node.outputs[0].dtype != HALF or value is None or value.name is None:
            continue
        peak, maker = ranges.peaks.get(value.name, 0.0), value.producer()
        if not peak <= LIMIT:
            readers = ", ".join(f"{reader.op_type} {reader.name}" for reader in node.successors())
            raise ExportError(
                f"FP16 is refused: {ranges.parts[value.name]}: {maker.op_type if maker else ''} "
                f"{value.name} reaches {peak:.6g}{f' and enters {readers}' if casts else ''}; FP16 "
                f"ends at {HALF_MAX:.0f}, half of it is kept free for other windows; keep to FP32"
            )


def origin(value: ir.Value | None) -> ir.Value | None:
    """The activation that a value holds the numbers of, in another layout."""
    while value is not None and (node := value.producer()) and node.op_type in LAYOUT:
        value = node.inputs[0]
    return value


def _computed(model: ir.Model) -> Iterator[str]:
    """Activations that nodes compute; layouts of them hold nothing larger."""
    for node in model.graph:
        if node.op_type not in LAYOUT:
            yield from (str(value.name) for value in node.outputs if value.dtype == FLOAT)


def _means(model: ir.Model) -> Iterator[tuple[str, Probe]]:
    """Each mean, and the sums of magnitudes that it passes through at most."""
    for node in model.graph:
        source = node.inputs[0] if node.op_type == "ReduceMean" else None
        if source is not None:
            axes = tuple(node.attributes.get_ints("axes", ()))
            yield str(node.outputs[0].name), Probe(str(source.name), axes)


def _masked(model: ir.Model) -> Iterator[str]:
    for node in model.graph:
        constants = [value.const_value for value in node.inputs if value is not None]
        if node.op_type == "Add" and any(
            constant is not None and constant.numpy().min() <= APART for constant in constants
        ):
            yield str(node.outputs[0].name)
