"""Load the kernels of kernels.cu from their PTX and launch them on device memory."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np
import numpy.typing as npt

from mfnet_runtime.contract import ImageRule
from mfnet_runtime.cuda.device import CudaDevice, Stream
from mfnet_runtime.cuda.faults import OLDEST_DRIVER
from mfnet_runtime.errors import UsageError
from mfnet_runtime.scene.normalize import DsmRange

IMAGE_VALID = 1  # bits of a mask
DSM_VALID = 2
BLOCK = (64, 4, 1)  # threads; two warps along a row

# The structures of kernels.cu.
PLACEMENT = np.dtype([("row", "i4"), ("column", "i4"), ("row_share", "i4"), ("column_share", "i4")])
_CUT = np.dtype(
    [(name, "u8") for name in ("image", "dsm", "mask", "placements", "image_out", "dsm_out")]
    + [(name, "i4") for name in ("slots", "width", "height", "window")]
    + [(name, "f4") for name in ("image_scale", "low", "range")]
    + [("constant", "i4")],
    align=True,
)
_BLEND = np.dtype(
    [(name, "u8") for name in ("sums", "logits", "placements", "row_shares", "column_shares")]
    + [(name, "i4") for name in ("slots", "width", "window", "windows", "classes")]
    + [(name, "i4") for name in ("top", "bottom", "left", "right")],
    align=True,
)
_FINISH = np.dtype(
    [(name, "u8") for name in ("sums", "mask", "classes_out", "confidence", "not_finite")]
    + [(name, "i4") for name in ("slots", "mask_slots", "width", "classes", "start", "stop")],
    align=True,
)


@dataclass(frozen=True)
class Piece:
    """A ring of scene rows on the device: row r is in slot r % slots."""

    image: int  # pointer to (3, slots, width) of `stored`
    dsm: int  # to (slots, width) float32, metres
    mask: int  # to (slots, width) uint8 with the bits IMAGE_VALID and DSM_VALID
    stored: np.dtype[Any]  # uint8, uint16 or float32
    slots: int  # rows in the ring, at least those under one window
    height: int  # rows of the scene
    width: int  # columns of the scene
    rule: ImageRule
    span: DsmRange


@dataclass(frozen=True)
class Placements:
    """Positions of the windows of a batch, on the host and on the device."""

    host: npt.NDArray[np.void]  # (windows,) of PLACEMENT
    pointer: int

    def __len__(self) -> int:
        return len(self.host)


@dataclass(frozen=True)
class Sums:
    """Weighted sums of logits on the device, a ring of rows like `Piece`, initially zero."""

    pointer: int  # to (classes, slots, width) float32
    classes: int
    slots: int  # at least the rows between `finish` and the last row under a batch
    height: int  # rows of the scene
    width: int  # columns of the scene


@dataclass(frozen=True)
class Shares:
    """Weights of windows along each axis (`tiling.grid.AxisWeights.share`), on the device."""

    rows: int  # pointer to (offsets, window) float32
    columns: int  # the same


class Kernels:
    """The kernels on one device, for one window size and number type; launches return at once.

    Create and call it with the device's context current.

    Args:
        device: The device to run on.
        window: Side of a window in pixels.
        dtype: Type of batches and logits, float16 or float32.

    Raises:
        UsageError: the driver is too old for the PTX, or rejects it.
    """

    def __init__(self, device: CudaDevice, window: int, dtype: npt.DTypeLike) -> None:
        if tuple(map(int, device.driver.split("."))) < OLDEST_DRIVER:
            raise UsageError(
                f"{device.name}: the driver is for CUDA {device.driver}; the kernels need "
                f"CUDA {'.'.join(map(str, OLDEST_DRIVER))}: update it to 535 or newer"
            )
        self.window = window
        self._dtype = np.dtype(dtype).name
        self._module = device.kernels(
            files("mfnet_runtime.cuda").joinpath("kernels.ptx").read_bytes()
        )

    def cut(
        self, piece: Piece, placements: Placements, image_out: int, dsm_out: int, stream: Stream
    ) -> None:
        """Cut and scale windows into a batch, as `scene.normalize` does on the host.

        Args:
            piece: All rows under the windows.
            placements: The windows.
            image_out: Pointer to (windows, 3, window, window).
            dsm_out: Pointer to (windows, 1, window, window).
            stream: Where it is enqueued.
        """
        constant = piece.span.constant
        args = _record(
            _CUT,
            image=piece.image,
            dsm=piece.dsm,
            mask=piece.mask,
            placements=placements.pointer,
            image_out=image_out,
            dsm_out=dsm_out,
            slots=piece.slots,
            width=piece.width,
            height=piece.height,
            window=self.window,
            image_scale=1.0 / piece.rule.full_scale,
            low=0.0 if constant else piece.span.low,
            range=1.0 if constant else piece.span.high - piece.span.low,
            constant=constant,
        )
        name = f"cut_{piece.stored.name}_{self._dtype}"
        self._launch(name, (self.window, self.window, len(placements)), args, stream)

    def blend(
        self, sums: Sums, shares: Shares, placements: Placements, logits: int, stream: Stream
    ) -> None:
        """Add the weighted logits of windows to the sums, in order, as the CPU's blending does.

        Args:
            sums: Changed only under the windows and inside the scene.
            shares: Weights of the scene's grid.
            placements: The windows.
            logits: Pointer to (windows, classes, window, window).
            stream: Where it is enqueued.
        """
        if not len(placements):
            return
        rows, columns = placements.host["row"], placements.host["column"]
        top, left = int(rows.min()), int(columns.min())
        bottom = min(int(rows.max()) + self.window, sums.height)
        right = min(int(columns.max()) + self.window, sums.width)
        assert bottom - top <= sums.slots, "the ring of sums is too small for the batch"
        args = _record(
            _BLEND,
            sums=sums.pointer,
            logits=logits,
            placements=placements.pointer,
            row_shares=shares.rows,
            column_shares=shares.columns,
            slots=sums.slots,
            width=sums.width,
            window=self.window,
            windows=len(placements),
            classes=sums.classes,
            top=top,
            bottom=bottom,
            left=left,
            right=right,
        )
        threads = (right - left, bottom - top, sums.classes)
        self._launch(f"blend_{self._dtype}", threads, args, stream)

    def finish(
        self,
        sums: Sums,
        mask: int,
        mask_slots: int,
        rows: range,
        classes_out: int,
        confidence_out: int,
        not_finite: int,
        stream: Stream,
    ) -> None:
        """Compute the classes of rows that no later window reaches, and zero their sums.

        Args:
            sums: The sums.
            mask: Pointer to (mask_slots, width) uint8, a ring like that of `Piece`.
            mask_slots: Rows in that ring.
            rows: The scene rows.
            classes_out: Pointer to (rows, width) uint8, as `blend.classes_from_logits` gives.
            confidence_out: The same for `blend.confidence_from_logits`; 0 leaves it out.
            not_finite: Pointer to an int32, set to 1 if a logit is NaN or infinite.
            stream: Where it is enqueued.
        """
        args = _record(
            _FINISH,
            sums=sums.pointer,
            mask=mask,
            classes_out=classes_out,
            confidence=confidence_out,
            not_finite=not_finite,
            slots=sums.slots,
            mask_slots=mask_slots,
            width=sums.width,
            classes=sums.classes,
            start=rows.start,
            stop=rows.stop,
        )
        self._launch("finish", (sums.width, len(rows), 1), args, stream)

    def _launch(
        self, name: str, threads: tuple[int, int, int], args: np.void, stream: Stream
    ) -> None:
        if 0 in threads:  # CUDA refuses an empty grid
            return
        x, y, z = (-(-count // side) for count, side in zip(threads, BLOCK, strict=True))
        self._module.launch(name, (x, y, z), BLOCK, (args,), stream)


def _record(kind: np.dtype[np.void], **values: float) -> np.void:
    """Pack values into a structure that a kernel takes as its argument."""
    record = np.zeros(1, kind)
    for name, value in values.items():
        record[name] = value
    argument: np.void = record[0]
    return argument
