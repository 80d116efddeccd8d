from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from mfnet.config import PRESETS, ModelConfig, config_from_preset
from mfnet.tuning import tuning_class, tuning_names
from mfnet_runtime.errors import ModelError, UsageError


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("tuning", tuning_names())
def test_config_survives_json(preset: str, tuning: str) -> None:
    config = config_from_preset(preset, classes=6, window=96, tuning=tuning, rank=2)
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert config.grid == 6


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"window": 100}, "multiple of 32"),
        ({"window": 8192}, "at most 4096"),
        ({"window": 0}, "window"),
        ({"heads": 3}, "heads"),
        ({"depth": 10**9}, "depth"),
        ({"rank": 1.5}, "rank"),
        ({"embed_dim": True}, "embed_dim"),
        ({"global_blocks": (2,)}, "depth 2"),
        ({"global_blocks": (-1,)}, "global_blocks"),
        ({"classes": 300}, "300 classes"),
    ],
)
def test_config_refuses_what_makes_no_network(change: dict[str, Any], part: str) -> None:
    config = config_from_preset("tiny", classes=3)
    with pytest.raises(ModelError, match=part):
        dataclasses.replace(config, **change)
    with pytest.raises(ModelError, match=part):
        ModelConfig.from_dict({**config.to_dict(), **change})


@pytest.mark.parametrize("data", [None, [], {"embed_dim": 32}, {"window": []}, {1: 2}])
def test_malformed_mapping_is_a_model_error(data: Any) -> None:
    with pytest.raises(ModelError, match="network configuration is"):
        ModelConfig.from_dict(data)


def test_unknown_names_are_named() -> None:
    with pytest.raises(ModelError, match="colour"):
        ModelConfig.from_dict({**config_from_preset("tiny", classes=3).to_dict(), "colour": 1})
    with pytest.raises(UsageError, match="vit_b, vit_l, vit_h, small, tiny"):
        config_from_preset("vit_g", classes=3)
    with pytest.raises(UsageError, match="adapter, lora, none"):
        tuning_class("prompt")
