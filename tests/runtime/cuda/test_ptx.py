"""The PTX that ships: made from the source beside it, for old drivers and GPUs since Turing."""

from __future__ import annotations

import hashlib
import re
import subprocess
from importlib.resources import files
from pathlib import Path
from shutil import which

import pytest

CUDA = files("mfnet_runtime.cuda")
PTX = CUDA.joinpath("kernels.ptx").read_text()
GPUS = re.findall(r"sm_\d+", (Path(__file__).parents[3] / "Makefile").read_text())


def test_it_is_not_older_than_its_source() -> None:
    digest = hashlib.sha256(CUDA.joinpath("kernels.cu").read_bytes()).hexdigest()
    found = PTX.splitlines()[0].rpartition(" ")[2]
    assert found == digest, "kernels.cu has changed: run `make kernels`, where nvcc is"


def test_it_is_for_driver_535_and_turing() -> None:
    """CUDA 12.2, which driver 535 has, reads PTX up to 8.2."""
    assert re.findall(r"^\.version (.*)$", PTX, re.MULTILINE) == ["8.2"]
    assert re.findall(r"^\.target (.*)$", PTX, re.MULTILINE) == ["sm_75"]


def test_it_says_nothing_of_the_machine_it_was_made_on() -> None:
    assert not re.search(r"^\s*\.(file|loc)\b|/(home|root|tmp|usr|work)/", PTX, re.MULTILINE)


def test_only_the_exponential_of_confidence_fuses() -> None:
    """Anything else must round as numpy does, one operation at a time."""
    entries = re.split(r"\.entry (\w+)\(", PTX)[1:]
    bodies = dict(zip(entries[::2], entries[1::2], strict=True))
    assert {name for name, body in bodies.items() if "fma." in body} == {"finish"}
    for name, body in bodies.items():
        assert not re.search(r"(div|rcp|sqrt)\.(approx|full)|(mul|add|sub|div)\S*\.ftz", body), name


@pytest.mark.skipif(which("ptxas") is None, reason="no ptxas; it comes with CUDA's compiler")
@pytest.mark.parametrize("gpu", GPUS)
def test_it_assembles(gpu: str, tmp_path: Path) -> None:
    source = tmp_path / "kernels.ptx"
    source.write_text(PTX)
    command = ["ptxas", f"-arch={gpu}", "-v", "-o", str(tmp_path / "kernels.cubin"), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    spilled = re.findall(r"(\d+) bytes spill", done.stderr)
    assert spilled
    assert set(spilled) == {"0"}
