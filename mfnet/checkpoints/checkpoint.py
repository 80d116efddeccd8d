"""The checkpoint file `best.pt`, and official `.pth` files read as one.

The file is one torch.save of {"format", "config", "contract", "weights", "training", "metrics"},
with "resume" where training can be resumed from it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mfnet.checkpoints.official import convert_official, is_official
from mfnet.checkpoints.torch_file import read_torch_file, require_tensors, write_torch_file
from mfnet.checkpoints.wrappers import find_weights
from mfnet.config import ModelConfig
from mfnet.model.network import MFNet
from mfnet.tuning import tuning_names
from mfnet_runtime.contract import Contract
from mfnet_runtime.errors import ModelError, UsageError
from mfnet_runtime.labels import ISPRS, MMHUNAN, ClassTable

FORMAT = "mfnet-checkpoint/1"
MAX_NAMED = 5  # weights named in a message
_REMEDY = "copy it again, or train again"


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A trained network and everything known about it.

    Raises:
        ModelError: The tuning is unknown, or configuration and contract disagree.
    """

    config: ModelConfig
    contract: Contract
    weights: dict[str, Tensor]  # MFNet(config).state_dict()
    training: dict[str, Any] = field(default_factory=dict)  # how it was trained, plain JSON
    metrics: dict[str, Any] = field(default_factory=dict)  # validation scores, plain JSON

    def __post_init__(self) -> None:
        tuning, known = self.config.tuning, tuning_names()
        if tuning not in known:
            raise ModelError(f"tuning {tuning!r} is not one of {', '.join(known)}")
        named, built = len(self.contract.classes), self.config.classes
        if named != built:
            raise ModelError(f"the contract names {named} classes, the network has {built}")
        if self.contract.window != self.config.window:
            raise ModelError(
                f"the contract promises windows of {self.contract.window} px, "
                f"the network takes {self.config.window}"
            )


def save_checkpoint(
    path: Path, checkpoint: Checkpoint, resume: dict[str, Any] | None = None
) -> None:
    """Write a checkpoint completely or not at all.

    Args:
        path: Replaced if it exists.
        checkpoint: Weights may be on any device.
        resume: State of optimizer, schedule and generators: tensors and plain types only.

    Raises:
        UsageError: The folder does not exist.
        ResourceError: The disk is full or the folder is read-only.
        TypeError: `training` or `metrics` are not plain JSON.
    """
    content: dict[str, Any] = {
        "format": FORMAT,
        "config": checkpoint.config.to_dict(),
        "contract": checkpoint.contract.to_dict(),
        "weights": {name: _compact(tensor) for name, tensor in checkpoint.weights.items()},
        "training": json.loads(json.dumps(checkpoint.training)),
        "metrics": json.loads(json.dumps(checkpoint.metrics)),
    }
    if resume is not None:
        content["resume"] = resume
    write_torch_file(path, content)


def load_checkpoint(path: Path, *, window: int = 256) -> Checkpoint:
    """Read one of our checkpoints or an official one; code in the file never runs.

    Args:
        path: `best.pt`, or weights of the official implementation, as any training loop saves them.
        window: Pixels per side, for official files, which do not store it.

    Raises:
        UsageError: The file does not exist.
        ModelError: The file is damaged, holds code, is of another kind, or contradicts itself.
    """
    data = read_torch_file(path, _REMEDY)
    try:
        official = None if _is_ours(data) else find_weights(data, path)
        if official is not None and is_official(official):
            return checkpoint_from_official(require_tensors(official, path, _REMEDY), window=window)
        content = _content(data, path)
        return Checkpoint(
            config=ModelConfig.from_dict(content.get("config")),
            contract=Contract.from_dict(content.get("contract")),
            weights=require_tensors(content.get("weights"), path, _REMEDY),
            training=_mapping(content, "training"),
            metrics=_mapping(content, "metrics"),
        )
    except ModelError as fault:
        if str(fault).startswith(str(path)):
            raise
        raise ModelError(f"{path}: {fault}; {_REMEDY}") from fault


def load_resume(path: Path) -> dict[str, Any]:
    """Read the state that training is resumed from.

    Raises:
        UsageError: The file does not exist, or was saved without that state.
        ModelError: The file is damaged, holds code, or is of another kind.
    """
    content = _content(read_torch_file(path, _REMEDY), path)
    if "resume" not in content:
        raise UsageError(f"{path} holds no training state; resume from a file saved with it")
    try:
        return _mapping(content, "resume")
    except ModelError as fault:
        raise ModelError(f"{path}: {fault}; {_REMEDY}") from fault


def checkpoint_from_official(state: dict[str, Tensor], *, window: int = 256) -> Checkpoint:
    """Convert an official state_dict; its number of classes suggests the class table.

    Raises:
        ModelError: The tensors do not make an MFNet.
    """
    config, weights = convert_official(state, window=window)
    known = {len(ISPRS): ISPRS, len(MMHUNAN): MMHUNAN}
    classes = known.get(config.classes) or ClassTable.numbered(config.classes)
    contract = Contract(window=window, classes=classes).with_provenance(source="official")
    return Checkpoint(config=config, contract=contract, weights=weights)


def is_from_official(contract: Contract) -> bool:
    """Tell if a contract was made for an official file, which states none of its facts."""
    return contract.provenance.get("source") == "official"


def network_from_checkpoint(checkpoint: Checkpoint) -> MFNet:
    """Build the network with its weights, in eval mode, on the CPU, in float32.

    Raises:
        ModelError: Weights are missing, unexpected, misshapen or not finite.
    """
    with torch.device("meta"):  # compare before allocating what the file claims
        expected = {k: tuple(v.shape) for k, v in MFNet(checkpoint.config).state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in checkpoint.weights.items()}
    wrong = sorted(k for k in expected.keys() | found.keys() if expected.get(k) != found.get(k))
    if wrong:
        lines = [
            f"{k} is {found.get(k, 'missing')}, expected {expected.get(k, 'none')}" for k in wrong
        ]
        raise ModelError(
            f"weights do not fit the configuration ({len(wrong)} tensors): {_join(lines)}"
        )
    diverged = sorted(k for k, v in checkpoint.weights.items() if not torch.isfinite(v).all())
    if diverged:
        raise ModelError(
            f"weights hold NaN or infinities ({len(diverged)} tensors): {_join(diverged)}"
        )
    network = MFNet(checkpoint.config)
    network.load_state_dict(checkpoint.weights, strict=True)
    return network.eval()


def _join(lines: list[str]) -> str:
    return "; ".join([*lines[:MAX_NAMED], *(["..."] if len(lines) > MAX_NAMED else [])])


def _is_ours(data: Any) -> bool:
    return isinstance(data, dict) and data.get("format") == FORMAT


def _content(data: Any, path: Path) -> dict[str, Any]:
    if _is_ours(data):
        return data  # type: ignore[no-any-return]
    found = f"a value of type {type(data).__name__}"
    if find_weights(data, path) is not None:
        found = "SAM's own weights"
    elif isinstance(data, dict) and "format" in data:
        found = f"format {data['format']!r:.80}"
    elif isinstance(data, dict):
        found = f"the keys {_join([f'{key!r:.40}' for key in data])}"
    raise ModelError(
        f"{path} holds {found}; expected format {FORMAT!r} or an official MFNet state_dict: "
        "give the best.pt of a training run"
    )


def _mapping(content: dict[str, Any], name: str) -> dict[str, Any]:
    value = content.get(name)
    if not isinstance(value, dict):
        raise ModelError(f"field {name!r} is {type(value).__name__}, not a mapping")
    return value


def _compact(tensor: Tensor) -> Tensor:
    """Return the tensor on the CPU in a storage of its own size: torch.save writes whole ones."""
    tensor = tensor.detach().cpu().contiguous()
    whole = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    return tensor if whole else tensor.clone()
