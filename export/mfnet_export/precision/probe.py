"""How large activations of an FP32 graph get over real windows, found out inside the graph.

Magnitudes are reduced where they arise, so that a few numbers leave the graph and no tensor does.
"""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from mfnet_export.files import writing
from mfnet_export.graph.passes import new_constant
from mfnet_export.validation.sample_windows import Windows

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Probe:
    """The largest magnitude of an activation over all windows."""

    name: str  # of the activation
    sums: tuple[int, ...] = ()  # axes over which magnitudes are summed first
    channels: bool = False  # a peak for each element of the last axis, not one for all


def measured(
    model: Path, probes: Iterable[Probe], windows: Windows, threads: int = 0
) -> dict[Probe, Floats]:
    """Run the graph over the windows, and take the peaks.

    Args:
        model: FP32 ONNX file; read only.
        probes: Of activations.
        windows: Run one by one, so that memory does not grow with their number.
        threads: Of ONNX Runtime; 0 leaves it to that.

    Returns:
        () or (channel,) for each probe.

    Raises:
        ResourceError: no room for a temporary copy of the graph.
    """
    import onnxruntime

    probed = ir.load(model)
    outputs = _add(probed.graph, probes)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors
    # The default order runs all probes last, and keeps every activation until then.
    options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
    peaks: dict[Probe, Floats] = {}
    # External weights: ONNX Runtime maps the file, and 2 GiB are no limit.
    with tempfile.TemporaryDirectory() as folder, writing(Path(folder)):
        path = Path(folder) / "probed.onnx"
        ir.save(probed, path, external_data="weights")
        del probed
        gc.collect()  # a graph holds cycles, and its weights with them
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        for index in range(len(windows)):
            one = slice(index, index + 1)
            feed = {"image": windows.image[one], "dsm": windows.dsm[one]}
            found = session.run(list(outputs.values()), feed)
            for probe, peak in zip(outputs, found, strict=True):
                peaks[probe] = np.maximum(peak, peaks.get(probe, peak))
        del session
    return peaks


def _add(graph: ir.Graph, probes: Iterable[Probe]) -> dict[Probe, str]:
    """Put each probe's nodes behind its activation; the names of their outputs."""
    values = {value.name: value for node in graph for value in node.outputs}
    outputs: dict[Probe, str] = {}
    graph.outputs.clear()
    for index, probe in enumerate(dict.fromkeys(probes)):
        source = values[probe.name]
        assert source.shape is not None  # of any activation in a file of ours
        nodes = [ir.node("Abs", [source])]
        if probe.sums:
            axes = new_constant(graph, f"probe{index}.axes", np.array(probe.sums, np.int64))
            nodes.append(ir.node("ReduceSum", [nodes[-1].outputs[0], axes]))
        over = range(len(source.shape) - probe.channels)
        nodes.append(
            ir.node("ReduceMax", [nodes[-1].outputs[0]], {"axes": list(over), "keepdims": 0})
        )
        maker = source.producer()
        assert maker is not None  # inputs and constants are not probed
        graph.insert_after(maker, nodes)
        output = nodes[-1].outputs[0]
        output.name, output.type = f"probe{index}", ir.TensorType(ir.DataType.FLOAT)
        graph.outputs.append(output)
        outputs[probe] = output.name
    return outputs
