"""Check everything that needs a GPU with one command, and write what was found.

    python benchmarks/gpu_check.py --work gpu/ -o benchmarks/results/gpu
    python benchmarks/gpu_check.py --work gpu/ --dry-run        # here and now, without a GPU

Needs TensorRT and PyCUDA, no network. torch and onnx, for the networks and the baselines, may
live in another Python (`--torch-python`). Models and plans stay in `--work`: what is there is not
made again, and results in `-o` stay until their step runs again: the steps and networks of a check
may be spread over several commands, and one that was cut short goes on.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = [str(ROOT / folder) for folder in ("", "export", "runtime", "benchmarks")]
sys.path[:0] = FOLDERS  # it need not be installed, here or in the Python of its children
os.environ["PYTHONPATH"] = os.pathsep.join([*FOLDERS, os.environ.get("PYTHONPATH", "")])

from mfnet_bench.gpu.request import RANDOM, STEPS, CheckRequest, dry  # noqa: E402
from mfnet_bench.latency.request import parse_list, parse_sizes  # noqa: E402
from mfnet_runtime.console import debug_option, run_command  # noqa: E402
from mfnet_runtime.errors import SceneError, UsageError  # noqa: E402

PATH = click.Path(path_type=Path)


@click.command("gpu_check")
@click.option("--work", type=PATH, required=True, help="Folder for models and plans; kept.")
@click.option("-o", "--out", type=PATH, help="Folder for gpu.json, gpu.csv and gpu.md.")
@click.option("--into", type=PATH, help="A document whose GPU table to replace, as README.md.")
@click.option("--networks", default=",".join(RANDOM), show_default=True, help="Random ones.")
@click.option("--ckpt", "checkpoints", multiple=True, type=PATH, help="Trained one; repeatable.")
@click.option("--scenes", type=PATH, help="Folder of scenes for parity [default: drawn].")
@click.option("--batches", default="1,8,16,32", show_default=True, help="Windows a call.")
@click.option("--rounds", type=int, default=5, show_default=True, help="Turns of every engine.")
@click.option("--steps", default=",".join(STEPS), show_default=True)
@click.option("--torch-python", default=sys.executable, help="Python with torch and onnx.")
@click.option("--no-cublas", "cublas", flag_value=False, default=True, help="Nor cuDNN.")
@click.option("--dry-run", is_flag=True, help="Tiny networks on the CPU; says what needs a GPU.")
@debug_option
def command(
    out: Path | None,
    into: Path | None,
    networks: str,
    batches: str,
    steps: str,
    dry_run: bool,
    **asked: object,
) -> int:
    """Plans, parity, kernels, speed and whole scenes on this machine's GPU."""
    from mfnet_bench.gpu.check import checked
    from mfnet_bench.gpu.report import markdown, report_from_folder, write_report
    from mfnet_bench.gpu.summary import MARK, summary_from_folder
    from mfnet_bench.table import update_document

    if into is not None and out is None:
        raise UsageError("--into needs -o: the table is of the results written there")
    given = {**asked, "steps": parse_list(steps)}
    if dry_run:
        request = dry(given)
    else:
        sizes = {"networks": parse_list(networks), "batches": parse_sizes(batches)}
        request = CheckRequest(**{**given, **sizes})  # type: ignore[arg-type]
    report = checked(
        request,
        lambda note: click.echo(note, err=True),
        lambda so_far: write_report(out, so_far) if out else None,
        report_from_folder(out) if out else None,
    )
    click.echo(markdown(report))
    if into is not None and out is not None:
        update_document(into, summary_from_folder(out), MARK)
    # Only a dry run may leave out what needs a GPU.
    incomplete = report.failed or (report.left_out and not dry_run)
    return SceneError.exit_code if incomplete else 0


def main(args: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_command(command, args)


if __name__ == "__main__":
    sys.exit(main())
