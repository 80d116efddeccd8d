"""Edits of an ONNX graph whose weights stay as they are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from mfnet_export.files import require_valid
from mfnet_export.interfaces.source import Source


def load_graph(source: Source) -> onnx.ModelProto:
    """Load an ONNX file; weights in a file of their own stay there."""
    return onnx.load(source.path, load_external_data=False)


def save_graph(model: onnx.ModelProto, source: Source, path: Path) -> None:
    """Write an edited graph, with the weights beside it that it shares with its source.

    Raises:
        ExportError: The graph is not valid ONNX.
    """
    path.write_bytes(model.SerializeToString())
    source.copy_weights_to(path.parent)
    require_valid(path)


def add_nodes(
    model: onnx.ModelProto, before: Sequence[onnx.NodeProto], after: Sequence[onnx.NodeProto] = ()
) -> None:
    """Put nodes before and after those of a graph, in place."""
    nodes = [*before, *model.graph.node, *after]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def add_constants(model: onnx.ModelProto, **arrays: Any) -> None:
    """Add constants under their names, in place; integers become int64, other numbers float32."""
    for name, values in arrays.items():
        array = np.asarray(values)
        array = array.astype(np.int64 if array.dtype.kind == "i" else np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))


def replace_values(values: Any, *made: tuple[str, int, Sequence[int]]) -> None:
    """Replace the inputs or outputs of a graph, in place.

    Args:
        values: `model.graph.input` or `model.graph.output`.
        made: Name, element type and shape without the batch of each new value.
    """
    del values[:]
    for name, kind, shape in made:
        values.append(onnx.helper.make_tensor_value_info(name, kind, ["N", *shape]))
