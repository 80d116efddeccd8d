"""The structure of the code: imports run one way, folders and files stay small."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "mfnet_runtime": ROOT / "runtime" / "mfnet_runtime",
    "mfnet": ROOT / "mfnet",
    "mfnet_export": ROOT / "export" / "mfnet_export",
    "mfnet_bench": ROOT / "benchmarks" / "mfnet_bench",
}
# From the ground up: a package, or a sub-package, imports only those before it. A sub-package that
# is not named stands with the modules at the top of its package ("").
LAYERS = {
    "": ("mfnet_runtime", "mfnet", "mfnet_export", "mfnet_bench"),
    "mfnet_runtime": (
        "",
        "network",
        "raster",
        "scene",
        "checks",
        "cuda",
        "backends",
        "tiling",
        "run",
        "demo",
        "preflight",
        "serve",
        "cli",
    ),
    "mfnet": ("sam", "tuning", "model", "data", "checkpoints", "training", "cli"),
}
MAX_MODULES, MAX_LINES, MAX_LEVELS = 12, 300, 10


def module_of(path: Path) -> str:
    package = next(name for name, folder in PACKAGES.items() if folder in path.parents)
    parts = path.relative_to(PACKAGES[package]).with_suffix("").parts
    return ".".join([package, *(part for part in parts if part != "__init__")])


FILES = {
    module_of(path): path for folder in PACKAGES.values() for path in sorted(folder.rglob("*.py"))
}


def imports_of(module: str) -> set[str]:
    """Modules of ours that a module imports, wherever in it the import stands."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(FILES[module].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name in FILES}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names} & FILES.keys()
            found |= names or ({node.module} & FILES.keys())
    return found - {module}


GRAPH = {module: imports_of(module) for module in FILES}
ARROWS = [(module, target) for module, targets in GRAPH.items() for target in sorted(targets)]


def within(package: str, depth: int) -> dict[str, set[str]]:
    """Imports inside a package, of names cut to `depth` parts: 2 is a room, a folder or module."""
    graph: dict[str, set[str]] = {}
    for module, targets in GRAPH.items():
        if module.startswith(f"{package}."):
            room = ".".join(module.split(".")[:depth])
            inside = {target for target in targets if target.startswith(f"{package}.")}
            cut = {".".join(target.split(".")[:depth]) for target in inside}
            graph.setdefault(room, set()).update(cut - {room})
    return graph


@pytest.mark.parametrize("package", PACKAGES)
def test_no_module_is_in_a_circle(package: str) -> None:
    TopologicalSorter(within(package, 9)).prepare()  # raises CycleError with the circle


@pytest.mark.parametrize("package", PACKAGES)
def test_rooms_stand_on_few_levels(package: str) -> None:
    rooms = within(package, 2)
    levels: dict[str, int] = {}
    for room in TopologicalSorter(rooms).static_order():
        levels[room] = 1 + max((levels[below] for below in rooms[room]), default=0)
    assert max(levels.values()) <= MAX_LEVELS, levels


@pytest.mark.parametrize("parent", LAYERS)
def test_imports_run_one_way(parent: str) -> None:
    order = LAYERS[parent]

    def rank(module: str) -> int | None:
        if parent:
            top, _, rest = module.partition(".")
            if top != parent or not rest:
                return None
            module = rest
        part = module.partition(".")[0]
        return order.index(part) if part in order else 0

    upward = [
        f"{module} imports {target}"
        for module, target in ARROWS
        if None not in (a := rank(module), b := rank(target)) and a < b  # type: ignore[operator]
    ]
    assert upward == []


def test_folders_and_files_stay_small() -> None:
    folders = {path.parent for path in FILES.values()}
    crowded = [
        str(folder) for folder in folders if len(list(folder.glob("*.py"))) > MAX_MODULES + 1
    ]
    long = [str(path) for path in FILES.values() if len(path.read_text().splitlines()) > MAX_LINES]
    assert (crowded, long) == ([], [])
