"""The network's configuration and the named sizes."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from mfnet_runtime.contract import MAX_WINDOW
from mfnet_runtime.errors import ModelError, UsageError
from mfnet_runtime.labels import MAX_CLASSES

PATCH = 16  # pixels per side of one token, as in SAM; fusion and decoder rely on it
MAX_SIZE = 16384  # for any number below; a larger one means a damaged file


@dataclass(frozen=True)
class ModelConfig:
    """Everything that determines the names and shapes of a network's weights, and its window.

    The name of the tuning is checked where the tuning is looked up.

    Raises:
        ModelError: A value is out of range, or values contradict each other.
    """

    embed_dim: int  # D, channels of a token
    depth: int  # transformer blocks
    heads: int
    global_blocks: tuple[int, ...]  # indices of the blocks that attend over the whole window
    classes: int
    window: int = 256  # pixels per side of the network's input
    tuning: str = "lora"  # one of mfnet.tuning.tuning_names()
    rank: int = 4  # rank of the LoRA matrices; other tunings ignore it
    neck_channels: int = 256
    position_grid: int = 64  # tokens per side of the stored position embedding
    attention_window: int = 14  # tokens per side of the attention window of the other blocks

    def __post_init__(self) -> None:
        object.__setattr__(self, "global_blocks", tuple(self.global_blocks))
        for field in fields(self):
            if field.name == "tuning":
                continue
            value = getattr(self, field.name)
            parts, least = (value, 0) if field.name == "global_blocks" else ((value,), 1)
            if any(type(part) is not int or not least <= part <= MAX_SIZE for part in parts):
                raise ModelError(
                    f"network {field.name} is {value!r}; expected integers in {least}..{MAX_SIZE}"
                )
        if self.embed_dim % self.heads or self.embed_dim % 4:
            raise ModelError(
                f"network embed_dim {self.embed_dim} must be a multiple of 4 "
                f"and of its {self.heads} heads"
            )
        if any(index >= self.depth for index in self.global_blocks):
            raise ModelError(f"global blocks {self.global_blocks} exceed depth {self.depth}")
        if self.window % 32 or self.window > MAX_WINDOW:
            raise ModelError(
                f"window is {self.window} px; expected a multiple of 32, at most {MAX_WINDOW}"
            )
        if self.classes > MAX_CLASSES:
            raise ModelError(f"{self.classes} classes; a class map holds at most {MAX_CLASSES}")

    @property
    def grid(self) -> int:
        """Tokens per side of one window."""
        return self.window // PATCH

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration as plain JSON types."""
        return {**asdict(self), "global_blocks": list(self.global_blocks)}

    @staticmethod
    def from_dict(data: Any) -> ModelConfig:
        """Rebuild a configuration from `to_dict`.

        Raises:
            ModelError: `data` is not a mapping, or a field is missing, unknown or out of range.
        """
        if not isinstance(data, dict):
            raise ModelError(f"network configuration is {type(data).__name__}, not a mapping")
        try:
            return ModelConfig(**data)
        except TypeError as fault:  # names the missing or unknown field
            raise ModelError(f"network configuration is malformed: {fault}") from fault


# Keyword arguments of ModelConfig. vit_* follow segment-anything's build_sam.py.
PRESETS: dict[str, dict[str, Any]] = {
    "vit_b": {"embed_dim": 768, "depth": 12, "heads": 12, "global_blocks": (2, 5, 8, 11)},
    "vit_l": {"embed_dim": 1024, "depth": 24, "heads": 16, "global_blocks": (5, 11, 17, 23)},
    "vit_h": {"embed_dim": 1280, "depth": 32, "heads": 16, "global_blocks": (7, 15, 23, 31)},
    "small": {
        "embed_dim": 128,
        "depth": 4,
        "heads": 4,
        "global_blocks": (1, 3),
        "neck_channels": 64,
        "position_grid": 16,
    },
    "tiny": {
        "embed_dim": 32,
        "depth": 2,
        "heads": 2,
        "global_blocks": (1,),
        "neck_channels": 16,
        "position_grid": 16,
    },
}


def config_from_preset(
    name: str, *, classes: int, window: int = 256, tuning: str = "lora", rank: int = 4
) -> ModelConfig:
    """Build a configuration from a named size.

    Raises:
        UsageError: The size is unknown, or a value is out of range.
    """
    if name not in PRESETS:
        raise UsageError(f"unknown network size {name!r}; known: {', '.join(PRESETS)}")
    try:
        return ModelConfig(
            **PRESETS[name], classes=classes, window=window, tuning=tuning, rank=rank
        )
    except ModelError as fault:  # the caller's values, not a file's
        raise UsageError(str(fault)) from fault
