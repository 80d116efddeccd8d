"""The folder of a training run: best.pt, last.pt, metrics.csv, metrics.json. Knows no training.

Every file is written beside its place and renamed into it, so an interrupt leaves whole files.
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
class RunFolder:
    """Paths of a run."""

    path: Path

    @property
    def best(self) -> Path:
        """The checkpoint of the best validation mIoU."""
        return self.path / "best.pt"

    @property
    def last(self) -> Path:
        """The checkpoint of the last epoch, with the state that resuming needs."""
        return self.path / "last.pt"

    def require(self, resume: bool) -> None:
        """Check, before hours of work, that a run may start or go on here; writes nothing.

        Raises:
            UsageError: there is a run in it and `resume` was not asked for, or the reverse.
        """
        if self.path.exists() and not self.path.is_dir():
            raise UsageError(f"{self.path}: is a file; choose a folder with -o")
        if resume and not self.last.is_file():
            raise UsageError(f"{self.last}: no such file, so there is nothing to resume")
        if not resume and self.last.exists():
            raise UsageError(
                f"{self.path}: holds a run already; add --resume to go on with it, "
                "or choose another folder with -o"
            )

    def make(self) -> None:
        """Make the folder and see that it can be written.

        Raises:
            ResourceError: it cannot.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe = self.path / ".write-test"
            probe.touch()
            probe.unlink()
        except OSError as fault:
            raise ResourceError(
                f"{self.path}: cannot be written ({fault.strerror}); choose another folder with -o"
            ) from fault

    def write_metrics(self, history: Sequence[dict[str, Any]]) -> None:
        """Replace metrics.csv (a row an epoch) and metrics.json (per-class figures too)."""
        text = io.StringIO()
        table = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
        table.writeheader()
        table.writerows(history)
        replace_text(self.path / "metrics.csv", text.getvalue())
        replace_text(self.path / "metrics.json", json.dumps(list(history), indent=1) + "\n")
