"""Options of the service; imports nothing heavy, so that `--help` stays instant."""

from __future__ import annotations

from dataclasses import dataclass, field

from mfnet_runtime.errors import UsageError
from mfnet_runtime.tiling.options import SegmentOptions

MAX_PIXELS = 400_000_000  # 20,000 a side: 2 km at 10 cm


@dataclass(frozen=True)
class ServeOptions:
    """Limits of the service, named as on the command line."""

    queue: int = 8  # requests accepted and not yet answered, the running one included
    timeout: float = 300.0  # seconds a request may take, upload and waiting included
    max_upload: int = 1 << 30  # bytes of a request
    max_pixels: int = MAX_PIXELS  # rows times columns of an image or DSM
    segment: SegmentOptions = field(default_factory=SegmentOptions)

    def __post_init__(self) -> None:
        if self.queue < 1 or not self.timeout > 0 or self.max_upload < 1:
            raise UsageError(
                f"--queue {self.queue}, --timeout {self.timeout:g}, --max-upload "
                f"{self.max_upload}: expected more than 0"
            )
