"""The fault of this package: an export that cannot be made, or that was made and is not equal."""

from __future__ import annotations

from mfnet_runtime.errors import MFNetError


class ExportError(MFNetError):
    """The graph cannot be exported, or its logits differ from the network's (exit 3)."""

    exit_code = 3
