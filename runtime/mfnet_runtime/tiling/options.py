"""Options of sliding-window inference; imports nothing heavy, so that `--help` stays instant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, get_args

from mfnet_runtime.contract import DsmRule
from mfnet_runtime.errors import UsageError
from mfnet_runtime.tiling.grid import WindowGrid

BlendName = Literal["uniform", "hann", "centre"]
BLENDS: tuple[BlendName, ...] = get_args(BlendName)
DEFAULT_BLEND: Final = "hann"  # benchmarks/TRIED.md
PUBLISHED: Final = "published"
PUBLISHED_STRIDE = 32  # pixels; of the paper's test code
SumName = BlendName | Literal["published"]  # how overlapping logits are combined
Processor = Literal["gpu", "cpu"]
PROCESSORS: tuple[Processor, ...] = ("gpu", "cpu")
AskedBatch = int | Literal["auto"] | None  # windows; None: the backend's preferred batch

QualityName = Literal["fast", "balanced", "best"]
# Strides in eighths of the window: points on the frontier of accuracy against time, see
# "Strides and blending" in benchmarks/README.md.
QUALITIES: dict[QualityName, int] = {"fast": 6, "balanced": 4, "best": 3}
DEFAULT_QUALITY: Final = "balanced"


@dataclass(frozen=True)
class SegmentOptions:
    """Options of `segment_scene`, named as on the command line."""

    stride: int | None = None  # pixels between windows; None: that of `quality`
    blend: BlendName | None = None  # weights of overlapping windows; None: hann
    batch: AskedBatch = None  # windows a call; auto: the fastest by timing
    preprocess: Processor | None = None  # where windows are cut and blended; None: as the network
    protocol: Literal["published"] | None = None  # the paper's test protocol, bit for bit
    dsm_range: tuple[float, float] | None = None  # heights scaled to 0 and 1; None: the contract's
    confidence: bool = False  # also return the probability of each pixel's class
    probabilities: bool = False  # also return the probabilities of all classes; not on a GPU
    block: int | None = None  # columns processed at a time, from top to bottom; None: all
    max_memory: int | None = None  # bytes for pixels, from which a run chooses `block`
    quality: QualityName | None = None  # sets the stride; None: balanced

    def __post_init__(self) -> None:
        if self.blend not in (None, *BLENDS):
            raise UsageError(f"no blending named {self.blend!r}; expected {', '.join(BLENDS)}")
        if self.quality not in (None, *QUALITIES):
            raise UsageError(f"no quality named {self.quality!r}; expected {', '.join(QUALITIES)}")
        if isinstance(self.batch, int) and self.batch < 1:
            raise UsageError(f"--batch is {self.batch}; expected at least 1")
        if self.block is not None and self.block < 1:
            raise UsageError(f"block is {self.block} columns; expected at least 1")
        if self.preprocess not in (None, *PROCESSORS):
            raise UsageError(
                f"no preprocessing on {self.preprocess!r}; expected {', '.join(PROCESSORS)}"
            )
        if self.dsm_range and not self.dsm_range[0] < self.dsm_range[1]:
            low, high = self.dsm_range
            raise UsageError(f"--dsm-range {low:g} {high:g}: the first must be the smaller")
        if self.protocol not in (None, PUBLISHED):
            raise UsageError(f"no protocol named {self.protocol!r}; expected {PUBLISHED}")
        for option in ("blend", "quality", "dsm_range"):
            if self.protocol and getattr(self, option) is not None:
                flag = option.replace("_", "-")
                raise UsageError(f"--protocol {self.protocol} and --{flag} exclude each other")

    @property
    def sum(self) -> SumName:
        """How overlapping logits are combined."""
        return self.protocol or self.blend or DEFAULT_BLEND

    def grid(self, height: int, width: int, window: int) -> WindowGrid:
        """The windows of a scene of that size."""
        return WindowGrid(height, width, window, self.stride_for(window))

    def stride_for(self, window: int) -> int:
        """Pixels between windows of that size."""
        if self.stride is not None:
            return self.stride
        if self.protocol:
            return PUBLISHED_STRIDE
        return max(1, window * QUALITIES[self.quality or DEFAULT_QUALITY] // 8)

    def dsm_rule(self, rule: DsmRule) -> DsmRule:
        """The rule that scales heights, given the contract's."""
        if self.protocol:
            return DsmRule("scene_minmax")
        return DsmRule("range", *self.dsm_range) if self.dsm_range else rule
