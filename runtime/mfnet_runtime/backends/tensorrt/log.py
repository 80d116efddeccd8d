"""What TensorRT says, kept: its calls give None or False, and only its log says why."""

from __future__ import annotations

from typing import Any

KEPT = 20  # messages of a kind


def recording_logger(trt: Any) -> Any:
    """A logger that prints nothing.

    Args:
        trt: The module, `tensorrt` or the lean one.

    Returns:
        A `trt.ILogger` with lists `errors` and `warnings`, the newest last, and `reason`.
    """

    class RecordingLogger(trt.ILogger):  # type: ignore[misc]
        """Keeps the newest errors and warnings."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)  # pybind11 needs it called by this name
            self.errors: list[str] = []
            self.warnings: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            """Called by TensorRT, from any thread."""
            levels = trt.ILogger.Severity
            if severity in (levels.INTERNAL_ERROR, levels.ERROR):
                kept = self.errors
            elif severity == levels.WARNING:
                kept = self.warnings
            else:
                return
            kept.append(" ".join(msg.split()))
            del kept[:-KEPT]

        @property
        def reason(self) -> str:
            """The errors; the first is the cause, the last often just says that it failed."""
            return "; ".join(self.errors) or "TensorRT gave no reason"

    return RecordingLogger()
