"""Write a model for other programs, each into a folder of its own."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from mfnet_export.files import staged_folder
from mfnet_export.interfaces.options import InterfaceOptions
from mfnet_export.interfaces.source import Source, source_from_file
from mfnet_export.report import labelled, size_text
from mfnet_runtime.errors import UsageError, missing_package


@dataclass(frozen=True)
class InterfaceReport:
    """The files that were written for one program."""

    interface: str
    folder: Path
    files: dict[str, int]  # bytes by path below the folder
    next_steps: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {
            "interface": self.interface,
            "folder": str(self.folder),
            "files": self.files,
            "next": list(self.next_steps),
        }

    def lines(self) -> list[str]:
        """Return the report as text that ends in the next steps."""
        rows = [f"{self.folder / name}  {size_text(size)}" for name, size in self.files.items()]
        return [f"for {self.interface}", *labelled("", rows), *labelled("next:", self.next_steps)]


def write_interfaces(
    path: Path, folder: Path | None, options: InterfaceOptions
) -> list[InterfaceReport]:
    """Write a model for the programs that options name.

    Args:
        path: ONNX file or plan, with its contract.
        folder: Gets a folder for each program, named after it; None takes that of `path`.
        options: The programs, and what they need to know.

    Raises:
        UsageError: A file or package is missing, or the model does not suit a program.
        ModelError: The model is damaged or has no contract.
        ResourceError: A folder cannot be written, or the disk is full.
    """
    source, parent = source_from_file(path), folder or path.parent
    names = dict.fromkeys(options.names)
    return [_write(name, source, parent / name, options) for name in names]


def _write(name: str, source: Source, folder: Path, options: InterfaceOptions) -> InterfaceReport:
    try:
        module = import_module(f"mfnet_export.interfaces.{name}")
        with staged_folder(folder) as partial:
            module.write(source, partial, options)
            made = sorted(file for file in partial.rglob("*") if file.is_file())
            files = {file.relative_to(partial).as_posix(): file.stat().st_size for file in made}
    except ModuleNotFoundError as fault:
        remedy = missing_package(fault.name, "interfaces")
        if remedy is None:
            raise
        raise UsageError(f"--for {name} {remedy}") from fault
    return InterfaceReport(name, folder, files, tuple(module.next_steps(source, folder)))
