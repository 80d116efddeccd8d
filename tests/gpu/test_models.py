"""Models on the GPU: their logits, their behaviour in batches, and whole scenes with mfnet-run."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from support import read

from mfnet.synthetic import write_town
from mfnet_export.precision.accuracy import scores_on_scenes
from mfnet_export.validation.parity import compare
from mfnet_export.validation.sample_windows import sample_windows
from mfnet_runtime.backends import backend_from_file
from mfnet_runtime.backends.base import Backend
from mfnet_runtime.cli.main import main as run
from mfnet_runtime.errors import ModelError

if TYPE_CHECKING:
    from gpu.conftest import Gpu

# Least share of pixels that keep the FP32 class.
AGREEMENT = {"fp32": 0.9999, "fp16": 0.999, "int8": 0.99, "int8+fp16": 0.99}
UNDECIDED = 0.9  # the same for random weights in FP16
MAX_SHIFT = 0.02  # of the range of the logits: rounding to FP16 moves them by a tenth of it
INT8_SHIFT = 0.1  # on a CPU the demo network moves by a quarter of it
MAX_DROP = 0.1  # points of mIoU that FP16 may lose
SCENES = os.environ.get("MFNET_GPU_SCENES")


def feed(backend: Backend, count: int, seed: int = 7) -> dict[str, Any]:
    rng = np.random.default_rng((seed, count))
    return {
        spec.name: rng.random((count, *spec.shape[1:]), np.float32).astype(spec.dtype)
        for spec in backend.inputs
    }


def logits(backend: Backend, given: dict[str, Any]) -> Any:
    return backend.infer(given)["logits"].copy()


def largest(backend: Backend) -> int:
    return backend.batches.largest or 16


def test_logits_are_those_of_the_cpu(backend: Backend, reference: Backend, trained: bool) -> None:
    """A difference in FP32, which runs without TF32, is a wrong plan and not rounding."""
    windows = sample_windows(reference.contract, Path(SCENES) if SCENES and trained else None, 16)
    report = compare(reference, backend, windows)
    print("\n".join(report.lines()))
    print(f"found: same class {report.agreement:.4%}, logits off {report.max_abs:.2e}")
    if trained or backend.precision == "fp32":
        assert report.agreement >= AGREEMENT[backend.precision]
    shift = INT8_SHIFT if backend.precision.startswith("int8") else MAX_SHIFT
    assert report.max_abs <= shift * (report.high - report.low)


def test_every_batch_is_answered(backend: Backend) -> None:
    for count in sorted({1, 2, largest(backend) // 2 or 1, largest(backend)}):
        found = backend.infer(feed(backend, count))["logits"]
        assert found.shape == (count, *backend.outputs[0].shape[1:])
        assert np.isfinite(found).all()


def test_the_same_batch_gives_the_same_bits(backend: Backend) -> None:
    given = feed(backend, largest(backend))
    first = logits(backend, given)
    logits(backend, feed(backend, 1))
    np.testing.assert_array_equal(first, logits(backend, given))


def test_a_window_does_not_depend_on_its_neighbours(backend: Backend) -> None:
    given, mixed = (feed(backend, largest(backend), seed) for seed in (1, 2))
    for name, array in mixed.items():
        array[0] = given[name][0]
    np.testing.assert_array_equal(logits(backend, given)[0], logits(backend, mixed)[0])


def test_a_refused_feed_does_no_harm(backend: Backend) -> None:
    given = feed(backend, 1)
    with pytest.raises(ModelError):
        backend.infer({"image": given["image"]})
    if backend.batches.largest is not None:
        with pytest.raises(ModelError):
            backend.infer(feed(backend, backend.batches.largest + 1))
    assert len(backend.infer(given)["logits"]) == 1


@pytest.mark.skipif(not SCENES, reason="MFNET_GPU_SCENES names no labelled scenes")
def test_no_accuracy_is_lost(model: Path, fp32: Path) -> None:
    assert SCENES is not None
    scores = scores_on_scenes(
        lambda: backend_from_file(fp32, "onnxruntime", "cpu"),
        lambda: backend_from_file(model, device="cuda"),
        Path(SCENES),
    )
    if scores is None:
        pytest.skip(f"{SCENES}: no label/ there")
    print(f"found: {scores.line(model.name)}")
    assert scores.drop <= MAX_DROP


def segment(model: Path, town: Path, out: Path, *options: str) -> Path:
    """Run mfnet-run and return the class map."""
    assert run([str(model), str(town), "-o", str(out), *options, "--json"]) == 0
    return out / "town.tif"


@pytest.mark.parametrize("part", [8, 2])  # strides, as parts of a window
def test_a_whole_scene(
    gpu: Gpu,
    model: Path,
    fp32: Path,
    reference: Backend,
    trained: bool,
    tmp_path: Path,
    part: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Windows cut on the GPU and on the CPU give one map, and the network on the CPU the same."""
    window, town = reference.contract.window, tmp_path / "town"
    write_town(town, {"town": 11}, (4 * window, 4 * window + 40))
    stride = ["--stride", str(window // part)]
    maps, found = {}, []
    ways = ("gpu", "cpu") if model.suffix == ".plan" else ("cpu",)
    for way in ways:
        with gpu.engine_of(model):
            options = [*stride, "--device", "cuda", "--preprocess", way]
            maps[way] = segment(model, town, tmp_path / way, *options)
        (row,) = json.loads(capsys.readouterr().out)["scenes"]
        found.append(f"{row['windows']} windows cut on the {way.upper()} in {row['total_s']} s")
    np.testing.assert_array_equal(read(maps[ways[0]]), read(maps[ways[-1]]))
    if part == 2:
        options = [*stride, "--backend", "onnxruntime", "--device", "cpu"]
        known = segment(fp32, town, tmp_path / "fp32", *options)
        same = np.mean(read(maps[ways[0]]) == read(known))
        found.append(f"same class as on the CPU {same:.4%}")
        half = ".fp16." in model.name
        bound = AGREEMENT["fp16" if half else "fp32"] if trained or not half else UNDECIDED
        assert same >= bound
        capsys.readouterr()
    print(f"found: {', '.join(found)}")
