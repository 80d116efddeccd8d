"""Plans of networks as large as SAM, built by the real TensorRT for RTX; takes minutes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT for RTX is not installed")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]

PEAK = "import re; print(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])"


def command(*words: str) -> list[str]:
    """Run mfnet-export in a process of its own; return its lines and its peak memory in KiB."""
    code = (
        f"import sys; sys.path[:] = {sys.path!r}; from mfnet_export.cli import main; "
        f"code = main({list(words)!r}); {PEAK}; sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    ("size", "attentions", "gigabytes"), [("vit_b", 40, 2.5), ("vit_l", 88, 7)]
)
def test_plans_of_sam_sized_networks(
    tmp_path: Path, size: str, attentions: int, gigabytes: float
) -> None:
    """The random weights of such a network are never decided about a class."""
    from mfnet_bench.random_checkpoint import write_random_checkpoint

    checkpoint = write_random_checkpoint(tmp_path / "best.pt", size, "lora")
    bounds = ["--max-disagree", "100", "--max-drop", "100", "--windows", "1"]
    command("--ckpt", str(checkpoint), "--fp16", *bounds)
    source = tmp_path / "best.fp16.onnx"
    *report, peak = command("--onnx", str(source), "--plan", "--json")
    facts = json.loads(report[-1])
    print(f"{size}: {facts['seconds']} s, {facts['bytes']} bytes, peak {int(peak)} KiB")
    assert facts["attentions"] == facts["counts"]["fused_attentions"] == attentions
    weights = sum(file.stat().st_size for file in tmp_path.glob("best.fp16.onnx*"))
    assert facts["bytes"] <= 1.1 * weights
    assert int(peak) * 1024 <= gigabytes * 1e9
