from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from networks import random_network
from onnx import TensorProto, helper, numpy_helper

from mfnet.tuning import tuning_names
from mfnet_export.errors import ExportError
from mfnet_export.flops import gflop_from_network, gflop_from_onnx
from mfnet_export.rewrites.steps import merged_from_network


def write(path: Path, nodes: list[onnx.NodeProto], shape: list[int], **weights: list[int]) -> Path:
    """A graph of x (N, *shape) and weights of given shapes."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *shape])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.zeros(s, np.float32), name) for name, s in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), path)
    return path


@pytest.mark.parametrize(
    ("node", "shape", "weight", "multiplications"),
    [
        (helper.make_node("MatMul", ["x", "w"], ["out"]), [5, 7], [7, 11], 5 * 7 * 11),
        (helper.make_node("Gemm", ["x", "w"], ["out"], transB=1), [7], [11, 7], 7 * 11),
        (
            helper.make_node("Conv", ["x", "w"], ["out"], group=2, pads=[1, 1, 1, 1]),
            [4, 6, 6],
            [8, 2, 3, 3],
            6 * 6 * 8 * 2 * 9,
        ),
        (
            helper.make_node("ConvTranspose", ["x", "w"], ["out"], strides=[2, 2]),
            [4, 6, 6],
            [4, 8, 2, 2],
            6 * 6 * 4 * 8 * 4,
        ),
        (
            helper.make_node("Einsum", ["x", "w"], ["out"], equation="nij,kj->nki"),
            [5, 7],
            [3, 7],
            3 * 5 * 7,
        ),
    ],
)
def test_counts_by_hand(
    tmp_path: Path, node: onnx.NodeProto, shape: list[int], weight: list[int], multiplications: int
) -> None:
    path = write(tmp_path / "g.onnx", [node], shape, w=weight)
    assert gflop_from_onnx(path) == pytest.approx(2e-9 * multiplications)


@pytest.mark.parametrize("tuning", tuning_names())
def test_a_window_costs_the_same_in_any_precision(tuning: str) -> None:
    network = random_network(tuning)
    cost = gflop_from_network(network)
    assert 0 < cost == gflop_from_network(network.double())


def test_graph_and_network_agree(made: Any) -> None:
    merged = merged_from_network(made.network)
    assert gflop_from_onnx(made.onnx) == pytest.approx(gflop_from_network(merged), rel=0.01)


def test_a_size_that_cannot_be_told_is_no_zero(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("NonZero", ["x"], ["where"]),  # (2, as many as there are)
        helper.make_node("Cast", ["where"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["w", "floats"], ["out"]),
    ]
    with pytest.raises(ExportError, match=r"g\.onnx.*MatMul"):
        gflop_from_onnx(write(tmp_path / "g.onnx", nodes, [], w=[3, 1]))
