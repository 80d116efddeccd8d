"""Matrix products: every library runs them, and the fastest is the ceiling."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from mfnet_bench.latency import gemm
from mfnet_bench.latency.gemm import (
    GemmEngine,
    ceilings_from,
    product_turns,
    products_on,
)

NEEDS = {"torch": "torch", "onnxruntime": "onnx", "openvino": "openvino"}


@pytest.mark.parametrize(("library", "precision"), list(products_on("cpu")))
def test_every_product_runs(library: str, precision: str) -> None:
    pytest.importorskip(NEEDS[library])
    spec = {"backend": library, "precision": precision, "threads": 1, "device": "cpu"}
    engine = GemmEngine({**spec, "shapes": [(32, 32, 64)]})
    assert engine.facts == {"shape": "32x32x64"}
    assert engine.measure(3)["gflop_per_s"] > 0


def test_products_are_measured_in_their_own_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {key: multiply for key, multiply in products_on("cpu").items() if key[0] != "torch"}
    monkeypatch.setattr(gemm, "products_on", lambda device: known)  # torch takes long to import
    with ExitStack() as stack:
        turns = product_turns(["fp32"], [(32, 32, 64), (64, 32, 32)], 1, stack)
        assert len(turns) == 2
        samples = {product: {0: turn(), 1: turn()} for product, turn in turns.items()}
    ceiling = ceilings_from(samples)["fp32"]
    assert ceiling.gflop_per_s > 0
    assert ceiling.name.split()[1] in ("32x32x64", "64x32x32")


def test_the_highest_median_is_the_ceiling() -> None:
    products = {
        ("fp32", "onnxruntime", "a"): {0: [100.0], 1: [500.0], 2: [100.0]},  # one lucky round
        ("fp32", "torch", "b"): {0: [200.0], 1: [210.0], 2: [190.0]},
        ("int8", "torch", "c"): {0: [900.0]},
        ("bf16", "torch", "d"): {},  # dropped out
    }
    ceilings = ceilings_from(products)
    assert {key: value.name for key, value in ceilings.items()} == {
        "fp32": "torch b",
        "int8": "torch c",
    }
    assert ceilings["fp32"].gflop_per_s == 200.0
