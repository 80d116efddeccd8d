"""Tests of the tests: without a safeguard, one of those meant for it is red."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from faults.mutations import MUTANTS, Mutant

ROOT = Path(__file__).parents[3]
QUICK = ("bytes of pieces are on the disk before the manifest names them",)
RED = 1  # pytest's exit code where a test failed


def run_tests(mutant: Mutant, folder: Path, *, mutated: bool) -> subprocess.CompletedProcess[str]:
    """The tests meant for a safeguard, with a copy of the runtime that has it or not."""
    package = folder / "mfnet_runtime"
    skipped = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "runtime" / "mfnet_runtime", package, ignore=skipped)
    source = (package / mutant.file).read_text(encoding="utf-8")
    assert source.count(mutant.source) == 1, f"{mutant.file} has changed; mend the mutant"
    if mutated:
        changed = source.replace(mutant.source, mutant.instead)
        (package / mutant.file).write_text(changed, encoding="utf-8")
    first, *words = shlex.split(mutant.tests)
    others = (ROOT / part for part in ("", "export", "benchmarks", "tests"))
    path = " ".join(map(str, (folder, *others)))
    command = [sys.executable, "-m", "pytest", "-qx", "-p", "no:cacheprovider"]
    command += ["-o", f"pythonpath={path}", f"tests/runtime/{first}", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def assert_red(mutant: Mutant, folder: Path) -> None:
    done = run_tests(mutant, folder, mutated=True)
    assert done.returncode == RED, done.stdout[-2000:] + done.stderr[-1000:]
    assert "\nFAILED tests/runtime/" in done.stdout, done.stdout[-2000:]


@pytest.mark.parametrize("without", QUICK)
def test_a_safeguard_is_missed(without: str, tmp_path: Path) -> None:
    (mutant,) = [mutant for mutant in MUTANTS if mutant.without == without]
    assert_red(mutant, tmp_path)


def test_safeguards_are_where_they_are_looked_for() -> None:
    for mutant in MUTANTS:
        source = ROOT / "runtime" / "mfnet_runtime" / mutant.file
        assert source.read_text(encoding="utf-8").count(mutant.source) == 1, mutant.without


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.without)
def test_every_safeguard_is_missed(mutant: Mutant, tmp_path: Path) -> None:
    assert_red(mutant, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("tests", sorted({mutant.tests for mutant in MUTANTS}))
def test_with_it_they_are_green(tests: str, tmp_path: Path) -> None:
    """So it is the safeguard that is missed, and nothing else."""
    mutant = next(mutant for mutant in MUTANTS if mutant.tests == tests)
    done = run_tests(mutant, tmp_path, mutated=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-1000:]
