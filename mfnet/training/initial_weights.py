"""The weights that a run starts from: SAM's, those of a trained MFNet, or random ones."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mfnet.checkpoints.checkpoint import Checkpoint, load_checkpoint, network_from_checkpoint
from mfnet.checkpoints.sam_weights import load_sam_weights
from mfnet.config import PRESETS, ModelConfig, config_from_preset
from mfnet.model.network import MFNet
from mfnet.training.options import TrainRequest
from mfnet_runtime.checks.image import sizes_differ
from mfnet_runtime.contract import Contract
from mfnet_runtime.errors import ModelError, UsageError
from mfnet_runtime.files import sha256_from_file

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class InitialWeights:
    """Configuration of a run's network, and what its weights start from."""

    config: ModelConfig
    request: TrainRequest
    checkpoint: Checkpoint | None  # of --init

    @staticmethod
    def of(request: TrainRequest, classes: int) -> InitialWeights:
        """Return the network asked for; `--init` takes all of it but classes and window.

        Raises:
            UsageError: Not one of SAM, a checkpoint and random weights is asked for, or another
                network than that of the checkpoint.
            ModelError: The checkpoint is damaged or unsafe.
        """
        if [request.sam is None, request.init is None, not request.from_scratch].count(False) != 1:
            raise UsageError(
                "give SAM's weights with --sam FILE to fine-tune them, those of a trained MFNet "
                "with --init CHECKPOINT, or --from-scratch to train everything"
            )
        if request.zero_rel_pos and request.sam is None:
            raise UsageError("--zero-rel-pos is about SAM's weights; add --sam, or leave it out")
        asked = config_from_preset(
            request.backbone,
            classes=classes,
            window=request.window,
            tuning=request.tuning,
            rank=request.rank,
        )
        if request.init is None:
            return InitialWeights(asked, request, None)
        checkpoint = load_checkpoint(request.init)
        config = replace(checkpoint.config, classes=classes, window=request.window)
        _require_network_of(config, asked, request)
        return InitialWeights(config, request, checkpoint)

    def load(self, network: MFNet, contract: Contract) -> dict[str, Any]:
        """Load the weights and freeze SAM's, if they are not trained; return what to record.

        Args:
            network: Of `config`.
            contract: Of the run, compared with the checkpoint's.

        Raises:
            ModelError: The file does not fit.
        """
        request = self.request
        if request.sam is not None:
            report = load_sam_weights(
                network.encoder, request.sam, zero_rel_pos=request.zero_rel_pos
            )
            logger.info("%s", report)
            network.freeze_for_tuning()
            return {
                "sam": request.sam.name,
                "sam_sha256": sha256_from_file(request.sam),
                "rel_pos": "zero" if request.zero_rel_pos else "sam",
            }
        if request.init is None or self.checkpoint is None:
            return {"sam": None, "rel_pos": "trained"}
        _load_checkpoint(network, self.checkpoint, request.init)
        _compare(self.checkpoint.contract, contract, request.init)
        before = self.checkpoint.training  # empty for official files, whose encoder was frozen
        sam = before.get("sam", "unknown")
        if sam is not None:
            network.freeze_for_tuning()
        return {
            "init": request.init.name,
            "init_sha256": sha256_from_file(request.init),
            "sam": sam,
            "rel_pos": before.get("rel_pos", "checkpoint"),
        }


def _require_network_of(config: ModelConfig, asked: ModelConfig, request: TrainRequest) -> None:
    """Refuse a size, tuning or rank that is given and not that of the checkpoint."""
    fields = {"backbone": PRESETS[request.backbone], "tuning": ("tuning",), "rank": ("rank",)}
    for option, names in fields.items():
        given = getattr(request, option)
        if given == getattr(TrainRequest, option):
            continue
        if any(getattr(asked, name) != getattr(config, name) for name in names):
            raise UsageError(
                f"--{option} {given}: is not that of {request.init}, which fixes it; leave it out"
            )


def _load_checkpoint(network: MFNet, checkpoint: Checkpoint, path: Path) -> None:
    """Load all weights, or all but the head's if the number of classes differs."""
    try:
        weights = network_from_checkpoint(checkpoint).state_dict()
    except ModelError as fault:
        raise ModelError(f"{path}: {fault}") from fault
    own = network.state_dict()
    new = {name: tensor for name, tensor in own.items() if tensor.shape != weights[name].shape}
    network.load_state_dict({**weights, **new})
    logger.info("%d of %d tensors loaded from %s", len(own) - len(new), len(own), path.name)
    if new:
        logger.warning(
            "%s has %d classes, the data %d: the head (%s) is new",
            path.name,
            checkpoint.config.classes,
            network.config.classes,
            ", ".join(new),
        )


def _compare(before: Contract, now: Contract, path: Path) -> None:
    """Warn where a run feeds the network otherwise than it was trained before."""
    if len(before.classes) == len(now.classes) and before.classes.names != now.classes.names:
        logger.warning(
            "%s: its head is kept; its classes were %s, they are %s now",
            path.name,
            ", ".join(before.classes.names),
            ", ".join(now.classes.names),
        )
    if sizes_differ(now.pixel_size, before.pixel_size):
        text = "%s: was trained on pixels of %.3g m, the data has %.3g m; consider --resample-to"
        logger.warning(text, path.name, before.pixel_size, now.pixel_size)
    earlier, later = before.to_dict(), now.to_dict()
    for part in ("image", "dsm"):
        if earlier[part] != later[part]:
            logger.warning("%s: %s was %s, is %s now", path.name, part, earlier[part], later[part])
