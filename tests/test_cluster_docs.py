"""The scripts of docs/CLUSTERS.md run as printed; SLURM's cluster is replaced by a local one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from runs import digests
from support import write_rgbd_model, write_scene

from mfnet_bench.latency.report import best_records, records_from_csv

PAGE = Path(__file__).parents[1] / "docs" / "CLUSTERS.md"
FAKE = """
from distributed import LocalCluster
class SLURMCluster(LocalCluster):
    def __init__(self, cores, processes, memory, walltime, protocol, security):
        assert protocol == "tls://" and security.require_encryption
        super().__init__(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None)
    def scale(self, jobs):
        assert jobs in (50, 0)
        return None if jobs else super().scale(0)  # closing a cluster needs this
"""


def block(language: str, containing: str) -> str:
    parts = PAGE.read_text().split("```")[1::2]
    found = [part for part in parts if part.startswith(f"{language}\n") and containing in part]
    return found[0].partition("\n")[2]


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """Model, scenes and table of the page."""
    write_rgbd_model(tmp_path / "best.onnx")
    lines = ["name,image,dsm"]
    for index, name in enumerate(("north", "south")):
        scene = write_scene(tmp_path / "scenes", name, seed=index)
        lines.append(f"{name},{scene.image},{scene.dsm}")
    (tmp_path / "pairs.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def run(command: list[str], work: Path, **env: str) -> str:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    modules = os.pathsep.join([str(work), *sys.path])
    env = {**os.environ, "PATH": path, "PYTHONPATH": modules, "HOME": str(work), **env}
    done = subprocess.run(command, cwd=work, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_array_job(work: Path) -> None:
    (work / "segment.sh").write_text(block("bash", "SLURM_ARRAY_TASK_ID"))
    for task, name in ((1, "north"), (2, "south")):
        run(["bash", "segment.sh"], work, SLURM_ARRAY_TASK_ID=str(task))
        assert (work / "maps" / name / f"{name}.tif").is_file()
    words = "best.onnx pairs.csv -o whole --backend onnxruntime -q"
    run(["mfnet-run", *words.split()], work)
    whole = digests(work / "whole")
    assert {**digests(work / "maps/north"), **digests(work / "maps/south")} == whole


@pytest.mark.parametrize("cluster", ["LocalCluster", "SLURMCluster"])
def test_python(work: Path, cluster: str) -> None:
    pytest.importorskip("distributed")
    (work / "dask_jobqueue.py").write_text(FAKE)
    (work / "job.py").write_text(block("python", f"{cluster}("))
    said = run([sys.executable, "job.py"], work)
    assert said in ("north done\nsouth done\n", "0 of 2 scenes failed\n")
    assert (work / "maps" / "north.tif").is_file()


def test_costs_follow_from_the_measured_times() -> None:
    results = PAGE.parents[1] / "benchmarks" / "results" / "latency" / "latency.csv"
    times = {
        (row.network, row.precision): row.median_ms
        for _, row in best_records(records_from_csv(results))
        if row.backend == "openvino"
    }
    costs = PAGE.read_text().partition("\n| 1,000 km2 at ")[2].partition("\n\n")[0]
    head, _, *rows = costs.splitlines()
    stated = [float(found) for found in re.findall(r"\(([\d.]+) ms\)", head)]
    names = [("small lora", "bf16")]
    names += [("vit_b lora", precision) for precision in ("int8+bf16", "bf16", "fp32")]
    assert stated == pytest.approx([times[name] for name in names], rel=0.01)
    for row in rows:
        size, _, windows, *hours = [cell.strip() for cell in row.strip("|").split("|")]
        count = 1e9 / (128 * float(size.removesuffix(" cm")) / 100) ** 2
        assert windows == f"{count:,.0f}"
        assert hours == [f"{count * ms * 2 / 3.6e6:.1f}" for ms in stated]
    assert len(rows) == 3


def test_kubernetes_file() -> None:
    """It names its own parts: nothing is misspelt between them."""
    yaml = pytest.importorskip("yaml")
    parts = {
        (one["kind"], one["metadata"]["name"]): one
        for one in yaml.safe_load_all(block("yaml", "Deployment"))
    }
    assert len(parts) == 5
    for (kind, name), part in parts.items():
        if kind not in ("Deployment", "Job"):
            continue
        pod = part["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        for source in container["envFrom"]:
            assert ("ConfigMap", source["configMapRef"]["name"]) in parts
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}
        words = [*container["command"], *container.get("args", [])]
        assert all(isinstance(word, str) for word in words)
        for word in words:
            if "tls://" in word:
                host = word.partition("tls://")[2].partition(":")[0]
                assert ("Service", host) in parts
        if kind == "Deployment":
            assert part["spec"]["selector"]["matchLabels"]["app"] == name
