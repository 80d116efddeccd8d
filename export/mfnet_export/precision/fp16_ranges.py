"""Activation ranges of an FP32 graph on real windows, and the activations FP16 cannot hold.

The sums of the residual streams grow from block to block. Large ones are kept in FP32, as are
means of large values. Any other activation that is too large is refused.
"""

from __future__ import annotations

import gc
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from mfnet_export.files import ExportError
from mfnet_export.precision.calibration import Probe, measure_peaks
from mfnet_export.precision.fp16_cast import FLOAT, HALF, HALF_MAX, LAYOUT
from mfnet_export.rewrites.attention import MASKED
from mfnet_export.validation.sample_windows import Windows

LIMIT = 2.0**15  # half of FP16's range: other windows may reach further than the measured ones
# Limit for residual sums, to which every block adds. It leaves headroom and is not about
# precision: with every sum in FP32 the classes of small networks agreed no better than without.
RESIDUAL_LIMIT = 2.0**13

_BLOCK = re.compile(r"encoder\.(?:sam\.blocks|tuning|attention)\.(\d+)\.")
_LATE = re.compile(r"(?:encoder\.sam\.)?(neck|fusion|decoder)\.")
LATE = ("neck", "fusion", "decoder")  # in order of execution
STREAMS = {"image": "image", "dsm": "DSM"}  # by the graph's input


@dataclass(frozen=True)
class Ranges:
    """Measured activation ranges of a graph."""

    peaks: dict[str, float]  # largest magnitude of each activation that a node computes
    sections: dict[str, str]  # section of the network that computes each activation
    sums: tuple[str, ...]  # sums of the residual streams, in order
    large: tuple[str, ...]  # residual sums and means that are too large for FP16
    masked: tuple[str, ...]  # scores with a mask added, whose magnitude is that of the mask

    def section_peaks(self) -> dict[str, float]:
        """Return the largest magnitude in each section, in order and without masked scores."""
        found: dict[str, float] = {}
        for name, peak in self.peaks.items():
            if name not in self.masked:
                found[self.sections[name]] = max(peak, found.get(self.sections[name], 0.0))
        return found

    def sections_with(self, names: Iterable[str]) -> tuple[str, ...]:
        """Return the sections that compute some activations."""
        return tuple(dict.fromkeys(self.sections[name] for name in names))


def measure_ranges(source: Path, windows: Windows, threads: int = 0) -> Ranges:
    """Measure the activation ranges of an FP32 or INT8 file on windows.

    Raises:
        ResourceError: There is no space for a temporary copy of the graph.
    """
    model = ir.load(source)
    peaks = {name: Probe(name) for name in _computed(model)}
    means = dict(_means(model))
    sums, sections, masked = residual_sums(model), section_names(model), tuple(_masked(model))
    del model
    gc.collect()  # a graph contains reference cycles that keep its weights alive
    found = measure_peaks(source, (*peaks.values(), *means.values()), windows, threads)
    reached = {name: float(found[probe]) for name, probe in peaks.items()}
    large = [name for name in sums if not reached[name] <= RESIDUAL_LIMIT]
    large += [mean for mean, probe in means.items() if not float(found[probe]) <= LIMIT]
    return Ranges(reached, sections, sums, tuple(large), masked)


def residual_sums(model: ir.Model) -> tuple[str, ...]:
    """Return the names of the sums in the residual streams.

    These are the Adds whose result, or one of whose operands, a LayerNormalization reads.
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
    """Refuse a converted graph in which an FP16 activation comes close to FP16's limit.

    Args:
        model: FP16 graph, converted from the graph that was measured.
        ranges: Ranges of that graph.

    Raises:
        ExportError: Names the activation and its peak.
    """
    for node in model.graph:
        casts = node.op_type == "Cast"
        value = origin(node.inputs[0] if casts else node.outputs[0])
        if node.outputs[0].dtype != HALF or value is None or value.name is None:
            continue
        peak, producer = ranges.peaks.get(value.name, 0.0), value.producer()
        if not peak <= LIMIT:
            readers = ", ".join(f"{reader.op_type} {reader.name}" for reader in node.successors())
            raise ExportError(
                f"FP16 is refused: {ranges.sections[value.name]}: "
                f"{producer.op_type if producer else ''} {value.name} reaches {peak:.6g}"
                f"{f' and enters {readers}' if casts else ''}; the limit of FP16 is "
                f"{HALF_MAX:.0f}, and half of it is reserved for other windows; use the FP32 file"
            )


def origin(value: ir.Value | None) -> ir.Value | None:
    """Return the activation that a value holds in another layout."""
    while value is not None and (node := value.producer()) and node.op_type in LAYOUT:
        value = node.inputs[0]
    return value


def section_names(model: ir.Model) -> dict[str, str]:
    """Return the section of the network that computes each activation, for example "block 3 image".

    Sections follow from the names of the parameters, in order of execution. In the encoder they
    are told apart by stream. Where the streams meet, the first operand decides, because a block
    adds the other stream to its own.
    """
    names: dict[str, str] = {}
    streams = {value.name: STREAMS.get(value.name or "", "") for value in model.graph.inputs}
    reached = (0, "embedding")  # rank and section; constants may be shared with earlier sections
    for node in model.graph:
        reached = max([reached, *(_section(value.name or "") for value in node.inputs if value)])
        stream = next((streams[v.name] for v in node.inputs if v and v.name in streams), "")
        section = reached[1]
        for value in node.outputs:
            streams[value.name] = stream
            apart = stream and section not in ("fusion", "decoder")
            names[str(value.name)] = f"{section} {stream}" if apart else section
    return names


def _section(name: str) -> tuple[int, str]:
    """Return rank and section of a parameter; the first section for any other value."""
    if found := _BLOCK.match(name):
        return 1 + int(found[1]), f"block {found[1]}"
    if found := _LATE.match(name):
        return 10_000 + LATE.index(found[1]), found[1]
    return 0, "embedding"


def _computed(model: ir.Model) -> Iterator[str]:
    """Yield the activations that nodes compute; copies of them hold nothing larger."""
    for node in model.graph:
        if node.op_type not in LAYOUT | {"DequantizeLinear"}:
            yield from (str(value.name) for value in node.outputs if value.dtype == FLOAT)


def _means(model: ir.Model) -> Iterator[tuple[str, Probe]]:
    """Yield each mean with a probe of the sums that its computation passes through at most."""
    for node in model.graph:
        source = node.inputs[0] if node.op_type == "ReduceMean" else None
        if source is not None:
            axes = tuple(node.attributes.get_ints("axes", ()))
            yield str(node.outputs[0].name), Probe(str(source.name), axes)


def _masked(model: ir.Model) -> Iterator[str]:
    """Yield the scores that a mask is added to."""
    for node in model.graph:
        constants = [value.const_value for value in node.inputs if value is not None]
        if node.op_type == "Add" and any(
            constant is not None and constant.numpy().min() <= MASKED for constant in constants
        ):
            yield str(node.outputs[0].name)
