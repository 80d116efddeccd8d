"""The fault matrix: every fault that commands meet on a CPU, with every invariant in each cell.

docs/RELIABILITY.md has the table of the cells as last run; `print_matrix.py` prints it.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

if sys.platform != "linux":
    pytest.skip("needs fork, limits of a process, inotify", allow_module_level=True)

from faults.cell import Cell, is_known, outcome_of
from faults.workplace import Bench
from print_matrix import CELLS, FILE, described, rows_in
from support import write_rgbd_model, write_scene


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    with Bench() as bench:
        yield bench


@pytest.mark.parametrize(
    "cell",
    [
        pytest.param(cell, id=cell.name, marks=[pytest.mark.slow] if cell.slow else [])
        for cell in CELLS
    ],
)
def test_cell(bench: Bench, cell: Cell) -> None:
    outcome_of(cell, bench)


def test_the_table_lists_these_cells() -> None:
    assert rows_in(FILE.read_text()) == [described(cell) for cell in CELLS]
    assert len({cell.name for cell in CELLS}) == len(CELLS)


def test_every_fault_is_run_or_listed_as_left_out() -> None:
    known = {"R": 16, "P": 6, "M": 12, "X": 9}
    every = {f"{kind}{number + 1}" for kind, count in known.items() for number in range(count)}
    left_out = set(
        re.findall(r"\b[RPMX]\d+\b", FILE.read_text().partition("## Not in the matrix")[2])
    )
    assert {cell.fault for cell in CELLS} == every - left_out


# Libraries, language, time zone, and how much memory a container has.
SYSTEM = re.compile(
    r"(/usr)?/lib.*\.so[.\d]*|/etc/ld\.so\.cache|/usr/(lib|share)/locale/.*|/.*/gconv-modules\.cache"
    r"|/etc/localtime|/usr/lib/ssl/openssl\.cnf|/sys/fs/cgroup/.*|/sys/kernel/mm/.*"
)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed")
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_what_a_run_opens_as_the_kernel_sees_it(tmp_path: Path, engine: str) -> None:
    """GDAL's and the engine's own opening too."""
    pytest.importorskip(engine)
    for name in "ab":
        write_scene(tmp_path / "scenes", name)
    (tmp_path / "scenes" / "image" / "b.tif").write_bytes(b"II*\0broken")
    model, log = write_rgbd_model(tmp_path / "rgbd.onnx"), tmp_path / "log"
    words = [model, tmp_path / "scenes", "-o", tmp_path / "out", "--backend", engine]
    call = f"import sys; sys.path[:] = {sys.path!r}; from mfnet_runtime.cli.main import main; "
    code = call + f"sys.exit(main({[str(word) for word in words]!r}))"
    kinds = ["-e", "trace=open,openat,openat2,creat,socket,connect,execve"]
    command = ["strace", "-f", "-qq", "-o", str(log), *kinds, sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    if "ptrace" in done.stderr:
        pytest.skip(f"strace may not trace here: {done.stderr.strip()}")
    assert done.returncode == 4, done.stderr
    calls = log.read_text().splitlines()
    assert not [call for call in calls if re.search(r"\b(socket|connect)\(", call)]
    assert sum("execve(" in call and "= 0" in call for call in calls) == 1  # Python itself
    opened = [
        match[1]
        for call in calls
        if (match := re.search(r'open\w*\(.*?"(.*?)".* = \d+', call)) and "O_DIRECTORY" not in call
    ]
    assert str(tmp_path / "scenes" / "dsm" / "a.tif") in opened
    foreign = {path for path in opened if not is_known(path, tmp_path)}
    assert {path for path in foreign if not SYSTEM.fullmatch(path)} == set()
