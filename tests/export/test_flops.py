from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from networks import random_network
from onnx import TensorProto, helper
from onnx_graphs import make_graph

from mfnet.tuning import tuning_names
from mfnet_export.files import ExportError
from mfnet_export.flops import gflop_from_network, gflop_from_onnx
from mfnet_export.rewrites.steps import merge


@pytest.mark.parametrize(
    ("node", "shape", "weight", "multiplications"),
    [
        (helper.make_node("MatMul", ["x", "w"], ["y"]), [5, 7], [7, 11], 5 * 7 * 11),
        (helper.make_node("Gemm", ["x", "w"], ["y"], transB=1), [7], [11, 7], 7 * 11),
        (
            helper.make_node("Conv", ["x", "w"], ["y"], group=2, pads=[1, 1, 1, 1]),
            [4, 6, 6],
            [8, 2, 3, 3],
            6 * 6 * 8 * 2 * 9,
        ),
        (
            helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2]),
            [4, 6, 6],
            [4, 8, 2, 2],
            6 * 6 * 4 * 8 * 4,
        ),
    ],
)
def test_counts_by_hand(
    tmp_path: Path, node: onnx.NodeProto, shape: list[int], weight: list[int], multiplications: int
) -> None:
    path = tmp_path / "g.onnx"
    onnx.save(make_graph(node, inputs={"x": ["N", *shape]}, w=np.zeros(weight)), path)
    assert gflop_from_onnx(path) == pytest.approx(2e-9 * multiplications)


@pytest.mark.parametrize("tuning", tuning_names())
def test_the_count_does_not_depend_on_the_precision(tuning: str) -> None:
    network = random_network(tuning)
    cost = gflop_from_network(network)
    assert 0 < cost == gflop_from_network(network.double())


def test_graph_and_network_agree(made: Any) -> None:
    merged = merge(made.network).network
    assert gflop_from_onnx(made.onnx) == pytest.approx(gflop_from_network(merged), rel=0.01)


def test_an_unknown_size_is_not_zero(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("NonZero", ["x"], ["where"]),  # (2, as many as there are)
        helper.make_node("Cast", ["where"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["w", "floats"], ["y"]),
    ]
    path = tmp_path / "g.onnx"
    onnx.save(make_graph(*nodes, inputs={"x": ["N"]}, w=np.zeros((3, 1))), path)
    with pytest.raises(ExportError, match=r"g\.onnx.*MatMul"):
        gflop_from_onnx(path)
