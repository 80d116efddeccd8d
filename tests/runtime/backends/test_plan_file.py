"""The JSON file beside a plan."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import RGBD, plan_facts

from mfnet_runtime.backends.tensorrt.plan_file import (
    HARDWARE,
    LayerCounts,
    PlanFacts,
    Profile,
    facts_of_plan,
    sidecar_of,
)
from mfnet_runtime.contract import Contract
from mfnet_runtime.errors import ModelError

FACTS = plan_facts(Contract(256, RGBD, precision="fp16").with_provenance(dataset="town"))
batches = st.lists(st.integers(1, 4096), min_size=3, max_size=3).map(sorted)


@given(
    batches,
    st.sampled_from(HARDWARE),
    st.booleans(),
    st.none() | st.integers(0, 10**6),
    st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=20),
)
def test_round_trip(
    sizes: list[int], hardware: str, portable: bool, layers: int | None, gpu: str
) -> None:
    facts = replace(
        FACTS,
        profile=Profile(*sizes),
        hardware=hardware,
        version_compatible=portable,
        weights=not portable,
        counts=LayerCounts(layers),
        gpu=gpu,
    )
    assert PlanFacts.from_dict(json.loads(facts.to_json())) == facts


def test_beside_the_plan(tmp_path: Path) -> None:
    plan = tmp_path / "best.fp16.plan"
    sidecar = tmp_path / "best.fp16.plan.json"
    assert sidecar_of(plan) == sidecar
    sidecar.write_text(FACTS.to_json())
    assert facts_of_plan(plan) == FACTS  # the plan itself is not opened


def test_json_is_for_people_too() -> None:
    lines = FACTS.to_json().splitlines()
    assert '  "format": "mfnet-plan/2",' in lines
    assert '  "gpu": "NVIDIA H200",' in lines
    assert FACTS.to_json().endswith("}\n")


@pytest.mark.parametrize(
    ("hardware", "targets"), [("none", ("sm87",)), ("ampere_plus", ("sm80+",))]
)
def test_facts_of_the_first_format(hardware: str, targets: tuple[str, ...]) -> None:
    old = {
        "format": "mfnet-plan/1",
        "contract": FACTS.contract.to_dict(),
        "plan_sha256": "ab" * 32,
        "onnx_sha256": "cd" * 32,
        "tensorrt": "10.3.0.30",
        "cuda": "12.6",
        "driver": "12.6",
        "gpu": "Orin",
        "compute_capability": [8, 7],
        "profile": {"smallest": 1, "best": 8, "largest": 16},
        "version_compatible": False,
        "hardware": hardware,
        "weights": True,
        "layers": 612,
        "fused_attentions": None,
    }
    facts = PlanFacts.from_dict(old)
    assert (facts.flavour, facts.version, facts.targets) == ("tensorrt", "10.3.0.30", targets)
    assert facts.counts == LayerCounts(612)
    with pytest.raises(ModelError, match="malformed"):
        PlanFacts.from_dict({**old, "compute_capability": [8]})


def changed(**fields: Any) -> dict[str, Any]:
    facts = FACTS.to_dict()
    facts.update(fields)
    return {name: value for name, value in facts.items() if value != "absent"}


@pytest.mark.parametrize(
    ("data", "part"),
    [
        (None, "have format 'NoneType'"),
        ([], "have format 'list'"),
        ({}, "have format None"),
        (changed(format="mfnet-plan/9"), "have format 'mfnet-plan/9'; this version reads"),
        (changed(version="absent"), "malformed"),
        (changed(profile="absent"), "malformed"),
        (changed(colour="red"), "malformed"),
        (changed(targets=[]), "targets [] are not compute capabilities"),
        (changed(targets=["sm89", "9.0"]), "targets ['9.0'] are not compute capabilities"),
        (changed(targets=89), "malformed"),
        (changed(counts={"kernels": 1}), "malformed"),
        (changed(flavour="lite"), "flavour 'lite' is not one of tensorrt, rtx"),
        (changed(profile={"smallest": 1}), "malformed"),
        (changed(profile={"smallest": 2, "best": 1, "largest": 4}), "batches 2, 1, 4; expected"),
        (changed(profile={"smallest": 0, "best": 1, "largest": 4}), "batches 0, 1, 4; expected"),
        (changed(hardware="all"), "hardware level 'all' is not one of none, same"),
        (changed(contract={}), "contract has format None"),
        (changed(version="10.3\x1b[2J"), r"version '10.3\x1b[2J' must be 1 to 64 printable"),
        (changed(gpu="x" * 65), "gpu 'xxx"),
        (changed(plan_sha256=7), "plan_sha256 7 must be"),
    ],
)
def test_damaged_facts_are_refused(tmp_path: Path, data: Any, part: str) -> None:
    plan = tmp_path / "a.plan"
    sidecar_of(plan).write_text(json.dumps(data))
    with pytest.raises(ModelError, match="build the plan again") as fault:
        facts_of_plan(plan)
    assert str(fault.value).startswith(str(sidecar_of(plan)))
    assert part in str(fault.value)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe", b"[" * 10**5, b" " * 10**7, b'{"a": 1, "a": 2}']
)
def test_files_that_are_no_json(tmp_path: Path, content: bytes) -> None:
    plan = tmp_path / "a.plan"
    with pytest.raises(ModelError, match=r"a\.plan\.json cannot be read \(No such file"):
        facts_of_plan(plan)
    sidecar_of(plan).write_bytes(content)
    with pytest.raises(ModelError, match="keep both files together, or build the plan again"):
        facts_of_plan(plan)
