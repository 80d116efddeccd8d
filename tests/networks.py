"""Small networks and the official reference files, for the tests of every package."""

from __future__ import annotations

import io
import json
import lzma
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor

import mfnet_export.export
from mfnet.checkpoints.checkpoint import Checkpoint, save_checkpoint
from mfnet.config import config_from_preset
from mfnet.model.decoder_attention import relative_position_index
from mfnet.model.network import MFNet
from mfnet.tuning import tuning_class
from mfnet_runtime.contract import Contract
from mfnet_runtime.labels import ClassTable

Floats = npt.NDArray[np.float32]
REFERENCE = Path(__file__).resolve().parents[2] / "shared" / "reference"
INDEX: dict[str, dict[str, Any]] = (
    json.loads((REFERENCE / "index.json").read_text()) if REFERENCE.is_dir() else {}
)
references = pytest.mark.parametrize(
    "name",
    sorted(INDEX)
    or [pytest.param("absent", marks=pytest.mark.skip(reason=f"no reference files: {REFERENCE}"))],
)


@cache
def reference_state(name: str) -> dict[str, Tensor]:
    """An official state_dict; not to be changed."""
    packed = (REFERENCE / f"{name}.pth.xz").read_bytes()
    state: dict[str, Tensor] = torch.load(io.BytesIO(lzma.decompress(packed)), weights_only=True)
    return state


def reference_windows(name: str, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Image, DSM and the official network's logits; the first window of the file."""
    with np.load(REFERENCE / f"{name}.npz") as arrays:
        image = torch.from_numpy(arrays["rgb"][:1]).to(dtype) / 255
        dsm = torch.from_numpy(arrays["dsm"][:1, None]).to(dtype)
        return image, dsm, torch.from_numpy(arrays["logits"][:1]).to(dtype)


def random_network(
    tuning: str, *, window: int = 64, classes: int = 3, preset: str = "tiny", seed: int = 0
) -> MFNet:
    """A network in eval mode in which no parameter is zero and no part is idle."""
    torch.manual_seed(seed)
    network = MFNet(config_from_preset(preset, classes=classes, window=window, tuning=tuning))
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("fc.0.bias"):
                parameter.fill_(1)  # keeps the one squeezed channel of `tiny` above its ReLU
            elif parameter.ndim > 1:
                std = 0.5 if "rel" in name else 1.2 / parameter[0].numel() ** 0.5
                parameter.normal_(std=std)
            else:
                parameter.add_(torch.randn_like(parameter) * 0.2)
        for name, buffer in network.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(std=0.2)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 2)
    return network.eval()


def write_checkpoint(path: Path, window: int, classes: int, seed: int = 0) -> Path:
    """Write a checkpoint of a random network with LoRA."""
    network = random_network("lora", window=window, classes=classes, seed=seed)
    contract = Contract(window, ClassTable.numbered(classes))
    save_checkpoint(path, Checkpoint(network.config, contract, network.state_dict()))
    return path


def official_state(network: MFNet) -> dict[str, Tensor]:
    """The state_dict the official implementation would save of this network."""
    state = {}
    for ours, tensor in network.state_dict().items():
        name = ours
        if ours.startswith("encoder.tuning."):
            _, _, index, rest = ours.split(".", 3)
            for theirs, mine in tuning_class(network.config.tuning).official.items():
                if rest.startswith(mine):
                    rest = theirs + rest.removeprefix(mine)
                    break
            name = f"image_encoder.blocks.{index}.{rest}"
        name = name.replace("encoder.sam.", "image_encoder.", 1).replace(
            "attn.rel_pos_", "attn.rel_"
        )
        state[name.removeprefix("fusion.")] = tensor
    for block in ("b4", "b3", "b2"):
        state[f"decoder.{block}.attn.relative_position_index"] = relative_position_index()
    copies = {f"sam.{k}": v for k, v in state.items() if k.startswith("image_encoder.")}
    return {**state, **copies, "sam.mask_decoder.iou_token.weight": torch.zeros(1, 4)}


def random_windows(count: int, window: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Image and DSM batches in [0, 1]."""
    made = torch.Generator().manual_seed(1)
    image = torch.rand(count, 3, window, window, generator=made, dtype=dtype)
    return image, torch.rand(count, 1, window, window, generator=made, dtype=dtype)


def onnx_with_weights(source: Path, path: Path, **changes: Callable[[Floats], object]) -> Path:
    """An ONNX file with weights changed in place, each named by the end of its name."""
    model = onnx.load(source)
    for ending, change in changes.items():
        (tensor,) = (each for each in model.graph.initializer if each.name.endswith(ending))
        weight = numpy_helper.to_array(tensor).copy()
        change(weight)
        tensor.CopyFrom(numpy_helper.from_array(weight, tensor.name))
    onnx.save(model, path)
    return path


def onnx_with_outlier(source: Path, path: Path, height: float) -> Path:
    """A file of `tiny` in which a channel of both streams is `height` higher inside block 0, twice
    that between the blocks, and as before at their end."""

    def up(bias: Floats) -> None:
        bias[0] += height

    def down(bias: Floats) -> None:
        bias[0] -= height

    changes = {
        ".0.attn.proj.bias": up,
        ".0.lin2.bias": up,
        ".1.attn.proj.bias": down,
        ".1.lin2.bias": down,
    }
    return onnx_with_weights(source, path, **changes)


def use_export(monkeypatch: pytest.MonkeyPatch, write: Callable[[Path], Any]) -> None:
    """Have mfnet-export write its FP32 graph by a call of ours."""

    def onnx_from_network(network: object, contract: Contract, path: Path) -> Contract:
        write(path)
        return contract

    monkeypatch.setattr(mfnet_export.export, "onnx_from_network", onnx_from_network)
