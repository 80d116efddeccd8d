from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks import random_network
from torch import Tensor

from mfnet.checkpoints.sam_weights import load_sam_weights
from mfnet.model.encoder import TwoStreamEncoder
from mfnet_runtime.errors import ModelError, UsageError

TABLES = ("rel_pos_h", "rel_pos_w")


def sam_state(encoder: TwoStreamEncoder) -> dict[str, Tensor]:
    """A state_dict in the format of Meta's `sam_vit_*.pth`."""
    state = {f"image_encoder.{k}": v.clone() for k, v in encoder.sam.state_dict().items()}
    state["prompt_encoder.no_mask_embed.weight"] = torch.zeros(1, 256)
    state["mask_decoder.iou_token.weight"] = torch.zeros(1, 256)
    return state


def saved(folder: Path, state: Any) -> Path:
    path = folder / "sam_vit_t_0123.pth"
    torch.save(state, path)
    return path


def encoders() -> tuple[TwoStreamEncoder, TwoStreamEncoder]:
    """One to save, another to load into."""
    return random_network("lora", seed=1).encoder, random_network("lora", seed=2).encoder


def test_every_tensor_of_a_sam_file_is_loaded(tmp_path: Path) -> None:
    source, target = encoders()
    report = load_sam_weights(target, saved(tmp_path, sam_state(source)))
    expected = source.sam.state_dict()
    assert set(report.loaded) == set(expected)
    assert (report.missing, report.unexpected, report.resized, report.zeroed) == ((), (), (), ())
    for name, tensor in target.sam.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    assert str(report) == f"{len(expected)} SAM tensors loaded"


def test_tables_are_zeroed_on_request_only(tmp_path: Path) -> None:
    source, target = encoders()
    path = saved(tmp_path, sam_state(source))
    report = load_sam_weights(target, path, zero_rel_pos=True)
    tables = {name for name in source.sam.state_dict() if name.endswith(TABLES)}
    assert set(report.zeroed) == tables
    assert not tables & set(report.loaded)
    assert all(not target.sam.state_dict()[name].any() for name in tables)
    assert "4 zeroed (blocks.0.attn.rel_pos_h, ...)" in str(report)


def test_other_names_missing_tables_and_unknown_tensors(tmp_path: Path) -> None:
    source, target = encoders()
    state = {k.replace("rel_pos_", "rel_"): v for k, v in sam_state(source).items()}
    del state["image_encoder.blocks.0.attn.rel_h"]
    state["image_encoder.blocks.7.norm1.weight"] = torch.zeros(32)
    report = load_sam_weights(target, saved(tmp_path, state))
    assert report.missing == ("blocks.0.attn.rel_pos_h",)
    assert report.unexpected == ("blocks.7.norm1.weight",)
    name = "blocks.1.attn.rel_pos_w"
    assert torch.equal(target.sam.state_dict()[name], source.sam.state_dict()[name])


def test_positions_of_another_size_are_interpolated(tmp_path: Path) -> None:
    source, target = encoders()
    state = sam_state(source)
    position, table = torch.randn(1, 24, 24, 32), torch.randn(61, 16)
    state["image_encoder.pos_embed"] = position
    state["image_encoder.blocks.1.attn.rel_pos_h"] = table
    report = load_sam_weights(target, saved(tmp_path, state))
    assert report.resized == ("pos_embed", "blocks.1.attn.rel_pos_h")
    assert "2 resized (pos_embed, ...)" in str(report)
    planes = F.interpolate(position.permute(0, 3, 1, 2), (16, 16), mode="bicubic")
    torch.testing.assert_close(target.sam.pos_embed.data, planes.permute(0, 2, 3, 1))
    rows = F.interpolate(table.T[None], 31, mode="linear")[0].T
    torch.testing.assert_close(target.sam.blocks[1].attn.rel_pos_h.data, rows)


def test_misfits_are_listed_and_nothing_is_loaded(tmp_path: Path) -> None:
    source, target = encoders()
    state = sam_state(source)
    del state["image_encoder.blocks.0.norm1.weight"]
    state["image_encoder.blocks.1.mlp.lin1.weight"] = torch.zeros(5, 32)
    state["image_encoder.neck.0.weight"] = torch.zeros(16, 32, 1, 1, dtype=torch.int64)
    before = {k: v.clone() for k, v in target.sam.state_dict().items()}
    with pytest.raises(ModelError, match="3 of") as caught:
        load_sam_weights(target, saved(tmp_path, state))
    for part in ("missing: blocks.0.norm1.weight", "(5, 32), expected (128, 32)", "torch.int64"):
        assert part in str(caught.value)
    assert all(torch.equal(v, before[k]) for k, v in target.sam.state_dict().items())


def test_a_file_of_another_size_is_named_in_one_short_line(tmp_path: Path) -> None:
    small = random_network("lora", preset="small").encoder
    path = saved(tmp_path, sam_state(small))
    with pytest.raises(ModelError) as caught:
        load_sam_weights(random_network("lora").encoder, path)
    assert str(caught.value) == (
        f"{path}: has 4 blocks of width 128, the network has 2 of width 32; use --backbone small"
    )


def test_other_and_damaged_files_are_refused(tmp_path: Path) -> None:
    """Code in a file never runs: rows M2 of the fault matrix, by the same function."""
    source, target = encoders()
    whole = saved(tmp_path, sam_state(source)).read_bytes()
    path = saved(tmp_path, {"image_encoder.pos_embed": Fraction(1)})  # an object
    with pytest.raises(ModelError, match=r"0123\.pth holds more than .*Fraction, which may run"):
        load_sam_weights(target, path)
    for content in (whole[: len(whole) // 2], b"", b"not a checkpoint"):
        path.write_bytes(content)
        with pytest.raises(ModelError, match=r"0123\.pth is damaged.*; download it again"):
            load_sam_weights(target, path)
    with pytest.raises(ModelError, match="not a SAM file"):
        load_sam_weights(target, saved(tmp_path, {"weight": torch.zeros(1)}))
    with pytest.raises(UsageError, match="not a file"):
        load_sam_weights(target, tmp_path / "absent.pth")
