"""MFNet: two-stream encoder, deep fusion, decoder."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mfnet.config import ModelConfig
from mfnet.model.decoder import Decoder
from mfnet.model.encoder import TwoStreamEncoder
from mfnet.model.fusion import DeepFusion


@dataclass(frozen=True)
class ParameterCounts:
    """Numbers of trainable and frozen parameters, and of the tuning's among them."""

    trainable: int
    frozen: int
    tuning: int


class MFNet(nn.Module):
    """Semantic segmentation of windows from an image and a DSM (paper arXiv 2410.11160)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = TwoStreamEncoder(config)
        self.fusion = DeepFusion(config.neck_channels)
        self.decoder = Decoder(config.neck_channels, config.classes)

    def forward(self, image: Tensor, dsm: Tensor) -> Tensor:
        """Compute the class logits of a batch of windows.

        Args:
            image: (N, 3, S, S) in [0, 1], S a multiple of 32. No weight depends on S; training uses
                `config.window`.
            dsm: (N, 1, S, S) in [0, 1], scaled over its scene.

        Returns:
            Logits (N, classes, S, S).

        Raises:
            ValueError: The inputs have other shapes.
        """
        if not torch.compiler.is_compiling():  # checking the batch size would fix it in an export
            self._check(image, dsm)
        x, y = self.encoder(image, dsm)
        logits: Tensor = self.decoder(self.fusion(x, y), image.shape[-1])
        return logits

    def freeze_for_tuning(self) -> None:
        """Freeze SAM; tuning, fusion and decoder train (MFNET.md 6)."""
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(not name.startswith("encoder.sam."))

    def parameter_counts(self) -> ParameterCounts:
        """Count the parameters as they are frozen now."""
        sizes = [(p.numel(), p.requires_grad) for p in self.parameters()]
        return ParameterCounts(
            trainable=sum(size for size, trains in sizes if trains),
            frozen=sum(size for size, trains in sizes if not trains),
            tuning=sum(p.numel() for p in self.encoder.tuning.parameters()),
        )

    def _check(self, image: Tensor, dsm: Tensor) -> None:
        side = image.shape[-1]
        expected = [(len(image), channels, side, side) for channels in (3, 1)]
        if [tuple(image.shape), tuple(dsm.shape)] != expected or side % 32 or not side:
            raise ValueError(
                f"image is {tuple(image.shape)} and dsm {tuple(dsm.shape)}; this network takes "
                "(N, 3, S, S) and (N, 1, S, S), S a multiple of 32"
            )
