"""Official MFNet files: configuration and weights from their tensors (MFNET.md 5)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mfnet.checkpoints.wrappers import ENCODER
from mfnet.config import PATCH, ModelConfig
from mfnet.model.decoder_attention import relative_position_index
from mfnet.model.network import MFNet
from mfnet.tuning import tuning_class, tuning_names
from mfnet_runtime.errors import ModelError

_HEAD = "decoder.segmentation_head.2.0.weight"
_INDEX = ".relative_position_index"  # a constant: compared, then dropped
# Training batches that a BatchNorm of the fusion and one of the decoder have seen.
_BATCHES = ("fpn1y.1.num_batches_tracked", "decoder.pre_conv.1.num_batches_tracked")
_UNUSED = "sam."  # the encoder again, and SAM's prompt encoder and mask decoder, which never run


def is_official(state: Mapping[str, Tensor]) -> bool:
    """Tell if these look like the weights of the official implementation."""
    return all(any(name.startswith(part) for name in state) for part in (ENCODER, "decoder."))


def convert_official(
    state: Mapping[str, Tensor], *, window: int = 256
) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Convert official tensors; every one of them must be used or known to be unused.

    Args:
        state: Official state_dict, without prefixes before its names.
        window: Pixels per side of the network's input; the file does not store it.

    Returns:
        The configuration, and a state_dict for `MFNet(config)` that shares storage with `state`.

    Raises:
        ModelError: Tensors are missing, unexpected or misshapen; the message names all of them.
    """
    official = {k: v for k, v in state.items() if not k.startswith(_UNUSED)}
    config = config_from_official(official, window=window)
    renamed, faults = {}, []
    for name, tensor in official.items():
        if name.endswith(_INDEX):
            if not torch.equal(tensor, relative_position_index()):
                faults.append(f"another window indexing: {name}")
        else:
            renamed[our_name(name, config.tuning)] = (name, tensor)
    with torch.device("meta"):  # shapes only
        expected = {name: tuple(t.shape) for name, t in MFNet(config).state_dict().items()}
    faults += [f"missing: {name}" for name in expected.keys() - renamed.keys()]
    for name, (found, tensor) in renamed.items():
        if name not in expected:
            faults.append(f"unexpected: {found}")
        elif tuple(tensor.shape) != expected[name]:
            faults.append(f"shape {tuple(tensor.shape)}, expected {expected[name]}: {found}")
    if faults:
        raise ModelError(
            f"official checkpoint does not fit the network it describes "
            f"({len(faults)} tensors): {'; '.join(sorted(faults))}"
        )
    _require_fusion(official)
    return config, {name: tensor for name, (_, tensor) in renamed.items()}


def _require_fusion(official: Mapping[str, Tensor]) -> None:
    """Refuse the paper's ablations, whose tensors have the same names but run otherwise."""
    fusion, decoder = (int(official[name]) for name in _BATCHES)
    if decoder and not fusion:
        raise ModelError(
            f"official checkpoint of an ablation without the fusion module (Decoder_single, or the "
            f"image alone): its decoder was trained on {decoder} batches, its fusion on none; only "
            "the whole network is supported"
        )


def config_from_official(state: Mapping[str, Tensor], *, window: int = 256) -> ModelConfig:
    """Infer the configuration from official tensors.

    Raises:
        ModelError: A tensor that this needs is missing, or the tensors contradict each other.
    """

    def shape(name: str, dimensions: int) -> tuple[int, ...]:
        found = tuple(state[name].shape) if name in state else None
        if found is None or len(found) != dimensions:
            raise ModelError(
                f"official checkpoint: {name} is {found or 'missing'}; "
                f"expected a tensor of {dimensions} dimensions"
            )
        return found

    embed_dim, _, *patch = shape("image_encoder.patch_embed.proj.weight", 4)
    if patch != [PATCH, PATCH]:
        raise ModelError(f"official checkpoint: patches are {patch} px; expected {PATCH}")
    _, position_grid, _, _ = shape("image_encoder.pos_embed", 4)
    indices = {name.split(".")[2] for name in state if name.startswith("image_encoder.blocks.")}
    depth = sum(index.isdigit() for index in indices)
    tables = [shape(f"image_encoder.blocks.{i}.attn.rel_h", 2) for i in range(depth)]
    whole = 2 * position_grid - 1  # length of a global block's table; others are shorter
    lengths = {length for length, _ in tables if length != whole}
    widths = {width for _, width in tables}
    if len(lengths) > 1 or len(widths) != 1 or 0 in widths or any(n % 2 == 0 for n in lengths):
        raise ModelError(
            f"official checkpoint: relative-position tables of shapes {sorted(set(tables))}; "
            f"expected length {whole} or one odd length, and one width"
        )
    tuning = _tuning_of(state)
    lora = tuning == "lora"
    return ModelConfig(
        embed_dim=embed_dim,
        depth=depth,
        heads=embed_dim // widths.pop(),
        global_blocks=tuple(i for i, (length, _) in enumerate(tables) if length == whole),
        classes=shape(_HEAD, 4)[0],
        window=window,
        tuning=tuning,
        rank=shape("image_encoder.blocks.0.mlp.lin1.lora_Ax", 2)[0] if lora else 4,
        neck_channels=shape("image_encoder.neck.0.weight", 4)[0],
        position_grid=position_grid,
        attention_window=(lengths.pop() + 1) // 2 if lengths else 14,
    )


def our_name(official: str, tuning: str) -> str:
    """Return the name in `MFNet` of an official tensor; an unknown one keeps its name."""
    if official.startswith("image_encoder.blocks."):
        _, _, index, name = official.split(".", 3)
        for theirs, ours in tuning_class(tuning).official.items():
            if name.startswith(theirs):
                return f"encoder.tuning.{index}.{ours}{name.removeprefix(theirs)}"
        name = name.replace("attn.rel_h", "attn.rel_pos_h").replace("attn.rel_w", "attn.rel_pos_w")
        return f"encoder.sam.blocks.{index}.{name}"
    if official.startswith("image_encoder."):
        return f"encoder.sam.{official.removeprefix('image_encoder.')}"
    return f"fusion.{official}" if official.startswith(("fpn", "fusion")) else official


def _tuning_of(state: Mapping[str, Tensor]) -> str:
    """Return the tuning whose official names occur in the first block, or "none"."""
    first = "image_encoder.blocks.0."
    names = [name.removeprefix(first) for name in state if name.startswith(first)]
    for tuning in tuning_names():
        prefixes = tuple(tuning_class(tuning).official)
        if any(name.startswith(prefixes) for name in names):
            return tuning
    return "none"
