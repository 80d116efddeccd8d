"""A model repository for NVIDIA Triton: an ONNX file or a plan, and its configuration.

With `raw_inputs`, the ONNX graph begins with the scaling that the runtime would do, so that a
client sends pixel values as stored and heights in metres. A rule that depends on the scene needs a
third input: the heights that become 0 and 1, which only a client that has the whole scene knows.
"""

from __future__ import annotations

from pathlib import Path

from mfnet_export.interfaces.options import InterfaceOptions
from mfnet_export.interfaces.source import Source
from mfnet_export.tensorrt.options import BATCHES
from mfnet_runtime.backends.base import HALF
from mfnet_runtime.backends.tensorrt.flavour import RTX
from mfnet_runtime.errors import UsageError

MODEL = "mfnet"  # the name that clients ask for
DELAY = 5_000  # microseconds that the first window of a batch waits for others
LEAST_SPAN = 1e-6  # metres; a scene of equal heights becomes 0 everywhere

Tensor = tuple[str, str, tuple[int, ...]]  # name, type and shape without the batch


def write(source: Source, folder: Path, options: InterfaceOptions) -> None:
    """Write `mfnet/config.pbtxt`, `mfnet/labels.txt` and `mfnet/1/model.onnx` or `model.plan`.

    Raises:
        UsageError: Triton cannot run the plan, or its scaling cannot be part of the model.
    """
    contract, side = source.contract, source.contract.window
    (folder / MODEL / "1").mkdir(parents=True)
    path = folder / MODEL / "1" / ("model.plan" if source.plan else "model.onnx")
    if options.raw_inputs:
        source.require_onnx("triton --raw-inputs")
        inputs = _raw_inputs(source)
        _write_scaling(source, inputs, path)
    else:
        kind = _float_type(source)
        inputs = [("image", kind, (3, side, side)), ("dsm", kind, (1, side, side))]
        source.copy_to(path)
    output = ("logits", _float_type(source), (len(contract.classes), side, side))
    (folder / MODEL / "config.pbtxt").write_text(_config(source, inputs, output), "utf-8")
    labels = "".join(f"{name}\n" for name in contract.classes.names)
    (folder / MODEL / "labels.txt").write_text(labels, "utf-8")


def next_steps(source: Source, folder: Path) -> list[str]:
    """Return the command that serves the repository."""
    steps = [f"tritonserver --model-repository {folder.resolve()}"]
    if source.plan is not None:
        targets = ", ".join(source.plan.targets)
        steps[0] += f"  # a release with TensorRT {source.plan.version}, on {targets}"
    return steps


def _config(source: Source, inputs: list[Tensor], output: Tensor) -> str:
    """Return the text of `config.pbtxt`, a ModelConfig of Protocol Buffers."""
    best, largest = BATCHES.best, BATCHES.largest
    engine, device = 'backend: "onnxruntime"', "KIND_AUTO"
    if plan := source.plan:
        if plan.flavour == RTX.name:
            raise UsageError(
                f"{source.path}: Triton runs no plans of {RTX.title}; build one with TensorRT, or "
                "give the ONNX file"
            )
        if plan.profile.smallest > 1:
            raise UsageError(
                f"{source.path}: takes batches from {plan.profile.smallest}, but Triton sends "
                "single windows too; build it with --batches 1,OPT,MAX"
            )
        best, largest = plan.profile.best, plan.profile.largest
        engine, device = 'platform: "tensorrt_plan"', "KIND_GPU"
    zeros = [
        f'  inputs {{ key: "{name}" value {{ data_type: {kind} dims: {list(shape)} '
        "zero_data: true } }"
        for name, kind, shape in inputs
    ]
    lines = [
        f'name: "{MODEL}"',
        engine,
        f"max_batch_size: {largest}",
        *(f"input {{ {_tensor(each)} }}" for each in inputs),
        f'output {{ {_tensor(output)} label_filename: "labels.txt" }}',
        f"instance_group {{ kind: {device} count: 1 }}",
        "dynamic_batching {",
        f"  preferred_batch_size: {best}",
        f"  max_queue_delay_microseconds: {DELAY}",
        "}",
        *(
            line
            for size in sorted({1, largest})
            for line in ("model_warmup {", f'  name: "{size}" batch_size: {size}', *zeros, "}")
        ),
    ]
    return "\n".join(lines) + "\n"


def _tensor(tensor: Tensor) -> str:
    name, kind, shape = tensor
    return f'name: "{name}" data_type: {kind} dims: {list(shape)}'


def _float_type(source: Source) -> str:
    return "TYPE_FP16" if source.contract.precision in HALF else "TYPE_FP32"


def _raw_inputs(source: Source) -> list[Tensor]:
    contract, side = source.contract, source.contract.window
    full_scale = contract.image.full_scale
    if not 1 < full_scale <= 65535:
        raise UsageError(
            f"{source.path}: its pixels end at {full_scale:g}; --raw-inputs is for whole numbers "
            "of 8 or 16 bits"
        )
    pixels = "TYPE_UINT8" if full_scale <= 255 else "TYPE_UINT16"
    inputs: list[Tensor] = [
        ("image", pixels, (3, side, side)),
        ("dsm", "TYPE_FP32", (1, side, side)),
    ]
    if contract.dsm.name != "range":
        inputs.append(("dsm_range", "TYPE_FP32", (2,)))
    return inputs


def _write_scaling(source: Source, inputs: list[Tensor], path: Path) -> None:
    """Write the ONNX file with the scaling of `mfnet_runtime.scene.normalize` in front."""
    import onnx
    from onnx.helper import make_node

    from mfnet_export.interfaces.graph import (
        add_constants,
        add_nodes,
        load_graph,
        replace_values,
        save_graph,
    )

    contract, types = source.contract, onnx.TensorProto
    model = load_graph(source)
    scaled = {"image": "image_scaled", "dsm": "dsm_scaled"}
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = scaled.get(name, name)
    known = {"TYPE_UINT8": types.UINT8, "TYPE_UINT16": types.UINT16, "TYPE_FP32": types.FLOAT}
    replace_values(model.graph.input, *((name, known[kind], size) for name, kind, size in inputs))
    add_constants(model, share=1.0 / contract.image.full_scale, zero=0.0, one=1.0, least=LEAST_SPAN)
    if contract.dsm.name == "range":
        add_constants(model, low=contract.dsm.low, high=contract.dsm.high)
        bounds = []
    else:
        add_constants(model, first=[0], second=[1], end=[2], axis=[1], image_axes=[2, 3])
        bounds = [
            make_node("Slice", ["dsm_range", "first", "second", "axis"], ["low_column"]),
            make_node("Slice", ["dsm_range", "second", "end", "axis"], ["high_column"]),
            make_node("Unsqueeze", ["low_column", "image_axes"], ["low"]),
            make_node("Unsqueeze", ["high_column", "image_axes"], ["high"]),
        ]
    kind = types.FLOAT16 if contract.precision in HALF else types.FLOAT
    add_nodes(
        model,
        [
            make_node("Cast", ["image"], ["pixels"], to=types.FLOAT),
            make_node("Mul", ["pixels", "share"], ["pixels_scaled"]),
            make_node("Cast", ["pixels_scaled"], ["image_scaled"], to=kind),
            *bounds,
            make_node("Sub", ["high", "low"], ["difference"]),
            make_node("Max", ["difference", "least"], ["span"]),
            make_node("Sub", ["dsm", "low"], ["above"]),
            make_node("Div", ["above", "span"], ["relative"]),
            make_node("Clip", ["relative", "zero", "one"], ["heights_scaled"]),
            make_node("Cast", ["heights_scaled"], ["dsm_scaled"], to=kind),
        ],
    )
    save_graph(model, source, path)
