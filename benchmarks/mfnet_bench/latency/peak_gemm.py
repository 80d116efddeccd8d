"""The ceiling of a precision: the fastest matrix product this machine was seen to do in it.

Every library multiplies the network's own shapes and one large square; the fastest few go through
the same rounds as the engines, and the best of those is the ceiling. Knows no networks but their
sizes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import fmean, median

from mfnet_bench.latency.gemm import LIBRARIES, PRODUCTS, Shape
from mfnet_bench.latency.process import EngineProcess, EngineRefusedError
from mfnet_bench.latency.rounds import DroppedError, Samples, Turn

SQUARE = 2048  # rows and columns of the one shape that is no network's
CALLS = 5  # a turn
CONTENDERS = 3  # products a precision that go through the rounds

Product = tuple[str, str, str]  # precision, library, shape


@dataclass(frozen=True)
class Ceiling:
    """The fastest product of a precision over the rounds."""

    name: str
    samples: Samples  # GFLOP/s

    @property
    def gflop_per_s(self) -> float:
        """The median over rounds."""
        return _middle(self.samples)


def gemm_shapes(embed_dim: int, tokens: int, batches: tuple[int, ...]) -> tuple[Shape, ...]:
    """Both layers of the MLP over both streams, at the least and the largest batch; one square.

    Args:
        embed_dim: D.
        tokens: Of one window and one stream.
        batches: Windows a call.
    """
    rows = sorted({2 * tokens * batch for batch in (min(batches), max(batches))})
    layers = [
        (m, *kn) for m in rows for kn in ((embed_dim, 4 * embed_dim), (4 * embed_dim, embed_dim))
    ]
    return (*layers, (SQUARE, SQUARE, SQUARE))


def product_turns(
    precisions: Sequence[str], shapes: Sequence[Shape], threads: int, stack: ExitStack
) -> dict[Product, Turn]:
    """The fastest few products of each precision; a library that does not run one is left out.

    Args:
        precisions: fp32, bf16, int8.
        shapes: To try.
        threads: Of each library.
        stack: Ends the processes.
    """
    turns: dict[Product, Turn] = {}
    for precision in precisions:
        tried: dict[Product, tuple[float, Turn]] = {}
        for library in LIBRARIES:
            if (library, precision) not in PRODUCTS:
                continue
            spec = {"kind": "gemm", "backend": library, "precision": precision}
            try:
                process = stack.enter_context(
                    EngineProcess({**spec, "shapes": shapes, "threads": threads})
                )
                for shape in process.facts["shapes"]:
                    turn = _turn(process, shape)
                    tried[precision, library, shape] = (fmean(turn()), turn)
            except (EngineRefusedError, DroppedError):
                continue
        best = sorted(tried, key=lambda product: -tried[product][0])[:CONTENDERS]
        turns |= {product: tried[product][1] for product in best}
    return turns


def ceilings_from(products: Mapping[Product, Samples]) -> dict[str, Ceiling]:
    """By precision, the product of the highest median."""
    best: dict[str, Ceiling] = {}
    for (precision, library, shape), samples in products.items():
        if samples and (precision not in best or _middle(samples) > best[precision].gflop_per_s):
            best[precision] = Ceiling(f"{library} {shape}", samples)
    return best


def _middle(samples: Samples) -> float:
    return median(map(fmean, samples.values()))


def _turn(process: EngineProcess, shape: str) -> Turn:
    def turn() -> Sequence[float]:
        try:
            return [process.ask("measure", shape=shape, calls=CALLS)["gflop_per_s"]]
        except EngineRefusedError as fault:
            raise DroppedError from fault

    return turn
