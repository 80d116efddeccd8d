"""Calibration windows, and the peaks of activations over windows.

Peaks are reduced inside the graph, so that a few numbers leave it and not whole tensors.
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

from mfnet_export.files import disk_errors
from mfnet_export.graph.passes import add_constant
from mfnet_export.validation.sample_windows import Windows, stack_windows, windows_from_folder
from mfnet_runtime.contract import Contract
from mfnet_runtime.errors import UsageError
from mfnet_runtime.scene.options import ReadOptions
from mfnet_runtime.scene.reader import DEFAULT_OPTIONS

# On the autzen scene, 1 and 4 windows sometimes missed a range, which changed up to 1.4 % of the
# classes. From 16 windows on, their choice no longer mattered.
MIN_WINDOWS = 8
HELD_OUT = 4  # one of this many windows is held out to measure on

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class CalibrationSet:
    """Windows to calibrate on, and held-out windows of the same scenes to measure on."""

    fit: Windows
    held: Windows


@dataclass(frozen=True)
class Probe:
    """The largest magnitude of an activation over all windows."""

    name: str  # of the activation
    sums: tuple[int, ...] = ()  # axes over which magnitudes are summed first
    channels: bool = False  # one peak per element of the last axis instead of one for all


def calibration_set(
    contract: Contract, scenes: Path, count: int, read: ReadOptions = DEFAULT_OPTIONS
) -> CalibrationSet:
    """Cut `count` windows spread over scenes, and a third as many held-out windows between them.

    The last windows of a row and of a column are moved back into the scene, so that a held-out
    window may share pixels with a calibration window.

    Args:
        contract: Contract with the window size and the scaling.
        scenes: Folder as of `windows_from_folder`; of a published dataset, its training scenes.
        count: Windows to calibrate on; small scenes may give fewer.
        read: How to read scenes.

    Raises:
        UsageError: There are no scenes, no valid pixels or fewer than `MIN_WINDOWS` windows.
        SceneError: A scene is damaged or does not fit the contract.
    """
    reason = f"fewer than {MIN_WINDOWS} windows do not give reliable ranges of the activations"
    if count < MIN_WINDOWS:
        raise UsageError(
            f"--calibration-windows {count}: expected at least {MIN_WINDOWS}; {reason}"
        )
    wanted = count + -(-count // (HELD_OUT - 1))
    found = windows_from_folder(scenes, contract, wanted, read, training=True)
    held = found[HELD_OUT // 2 :: HELD_OUT]
    fit = [pair for index, pair in enumerate(found) if index % HELD_OUT != HELD_OUT // 2]
    if len(fit) < MIN_WINDOWS:
        least = MIN_WINDOWS + -(-MIN_WINDOWS // (HELD_OUT - 1))
        raise UsageError(
            f"{scenes}: {len(found)} windows of {contract.window} px with valid pixels; INT8 "
            f"needs {least}, one in {HELD_OUT} of them held out: {reason}; add scenes"
        )
    name = scenes.name
    return CalibrationSet(
        *(stack_windows(pairs, f"{len(pairs)} windows of {name}") for pairs in (fit, held))
    )


def measure_peaks(
    model: Path, probes: Iterable[Probe], windows: Windows, threads: int = 0
) -> dict[Probe, Floats]:
    """Run a graph over windows and measure the peaks of its activations.

    Args:
        model: FP32 or INT8 ONNX file; only read.
        probes: The activations to measure.
        windows: Run one by one, so that memory does not grow with their number.
        threads: Threads of ONNX Runtime; 0 leaves the choice to it.

    Returns:
        The peak, () or (channel,), of each probe.

    Raises:
        ResourceError: There is no space for a temporary copy of the graph.
    """
    import onnxruntime

    probed = ir.load(model)
    outputs = _add_outputs(probed.graph, probes)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors
    # The default order runs all probes last and keeps every activation until then.
    options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
    peaks: dict[Probe, Floats] = {}
    # External weights, because ONNX Runtime maps that file into memory and 2 GiB are no limit.
    with tempfile.TemporaryDirectory() as folder, disk_errors(Path(folder)):
        path = Path(folder) / "probed.onnx"
        ir.save(probed, path, external_data="weights")
        del probed
        gc.collect()  # a graph contains reference cycles that keep its weights alive
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


def _add_outputs(graph: ir.Graph, probes: Iterable[Probe]) -> dict[Probe, str]:
    """Replace the outputs of a graph with those of the probes; return their names."""
    values = {value.name: value for node in graph for value in node.outputs}
    outputs: dict[Probe, str] = {}
    graph.outputs.clear()
    for index, probe in enumerate(dict.fromkeys(probes)):
        source = values[probe.name]
        producer = source.producer()
        assert source.shape is not None  # our files have shapes for all activations
        assert producer is not None
        nodes = [ir.node("Abs", [source])]
        if probe.sums:
            axes = add_constant(graph, f"probe{index}.axes", np.array(probe.sums, np.int64))
            nodes.append(ir.node("ReduceSum", [nodes[-1].outputs[0], axes]))
        over = list(range(len(source.shape) - probe.channels))
        last = ir.node("ReduceMax", [nodes[-1].outputs[0]], {"axes": over, "keepdims": 0})
        graph.insert_after(producer, [*nodes, last])
        output = last.outputs[0]
        output.name, output.type = f"probe{index}", ir.TensorType(ir.DataType.FLOAT)
        graph.outputs.append(output)
        outputs[probe] = output.name
    return outputs
