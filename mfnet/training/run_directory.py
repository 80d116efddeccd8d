"""The folder of a training run: best.pt, last.pt, metrics.csv and metrics.json.

Every file is written under another name and renamed, so that an interrupt leaves whole files.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mfnet_runtime.errors import ResourceError, UsageError
from mfnet_runtime.files import replace_text

COLUMNS = ("epoch", "lr", "loss", "mean_iou", "mean_f1", "oa", "kappa", "train_s", "validate_s")


@dataclass(frozen=True)
class RunDirectory:
    """Paths of a run."""

    path: Path

    @property
    def best(self) -> Path:
        """Checkpoint with the best validation mIoU."""
        return self.path / "best.pt"

    @property
    def last(self) -> Path:
        """Checkpoint of the last epoch, from which a run is resumed."""
        return self.path / "last.pt"

    def check(self, resume: bool) -> None:
        """Check, before hours of work, that a run can start or resume here; writes nothing.

        Raises:
            UsageError: There is a run without `resume`, or no run to resume.
        """
        if self.path.exists() and not self.path.is_dir():
            raise UsageError(f"{self.path}: is a file; choose a folder with -o")
        if resume and not self.last.is_file():
            raise UsageError(f"{self.last}: no such file, so there is nothing to resume")
        if not resume and self.last.exists():
            raise UsageError(
                f"{self.path}: holds a run already; add --resume to continue it, "
                "or choose another folder with -o"
            )

    def create(self) -> None:
        """Create the folder and check that it is writable.

        Raises:
            ResourceError: It cannot be created or written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            replace_text(self.path / "write-test", "")
            (self.path / "write-test").unlink()
        except OSError as fault:
            raise ResourceError(
                f"{self.path}: cannot be written ({fault.strerror}); choose another folder with -o"
            ) from fault

    def write_metrics(self, history: Sequence[dict[str, Any]]) -> None:
        """Replace metrics.csv, one row per epoch, and metrics.json, with scores per class."""
        text = io.StringIO()
        table = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
        table.writeheader()
        table.writerows(history)
        replace_text(self.path / "metrics.csv", text.getvalue())
        replace_text(self.path / "metrics.json", json.dumps(list(history), indent=1) + "\n")
