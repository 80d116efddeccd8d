"""The training loop: step, validate, keep the best, resume. Knows no command line."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from mfnet.checkpoints.checkpoint import Checkpoint, load_checkpoint, load_resume, save_checkpoint
from mfnet.data.scene_data import MemoryScene
from mfnet.model.network import MFNet
from mfnet.model.torch_backend import TorchBackend
from mfnet.training.evaluate import LabelledScene, evaluated
from mfnet.training.loss import class_weights, window_loss
from mfnet.training.run_directory import RunFolder
from mfnet.training.sampling import WindowSampler
from mfnet.training.train_config import TrainConfig
from mfnet_runtime.console import progress
from mfnet_runtime.contract import Contract
from mfnet_runtime.errors import UsageError
from mfnet_runtime.metrics import Scores, paper_classes
from mfnet_runtime.tiling.pipeline import SegmentOptions

SHOW_EVERY = 10  # steps

Say = Callable[[str], None]
ValidationScenes = Callable[[], Iterable[LabelledScene]]


@dataclass
class TrainState:
    """What a run has reached."""

    epoch: int = 0  # epochs finished
    best: float = -1.0  # highest validation mIoU
    history: tuple[dict[str, Any], ...] = ()  # a row an epoch


@dataclass(frozen=True)
class Training:
    """All a run needs; `train` runs it.

    Args:
        network: On its device, its parameters frozen as wanted.
        contract: Goes into the checkpoints.
        config: The recipe.
        scenes: To cut windows from.
        validation: Gives the scenes to score after each epoch.
        folder: Made where missing.
        facts: Provenance for the checkpoint, plain JSON.
        say: Prints a line.
    """

    network: MFNet
    contract: Contract
    config: TrainConfig
    scenes: Sequence[MemoryScene]
    validation: ValidationScenes
    folder: RunFolder
    facts: dict[str, Any]
    say: Say = print

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.network.parameters()).device

    def train(self, resume: bool = False) -> TrainState:
        """Run all epochs, or those left; `folder` then holds best.pt and last.pt.

        On a CPU a resumed run equals an uninterrupted one bit for bit: batches, dropout and
        learning rates follow from seed, epoch and step alone.

        Raises:
            UsageError: nothing of the tuning is trainable, or the run to resume was another.
            ResourceError: a checkpoint cannot be written.
        """
        require_trainable(self.network)
        self.folder.make()
        optimizer = _optimizer(self.network, self.config)
        config, device = self.config, self.device
        amp = config.mixed_precision and device.type == "cuda"
        scaler = torch.amp.GradScaler(device.type, enabled=amp)
        state = self._resumed(optimizer, scaler) if resume else TrainState()
        sampler = WindowSampler(self.scenes, self.contract, config)
        classes = len(self.contract.classes)
        weights = class_weights(config.class_weights, self.scenes, classes, device)
        while state.epoch < config.epochs:
            started = time.perf_counter()
            loss = self._epoch(state.epoch, sampler, optimizer, scaler, weights, amp)
            trained = time.perf_counter()
            scores = self._validate()
            row = {
                "epoch": state.epoch + 1,
                "lr": config.lr_at(state.epoch, 0),
                "loss": loss,
                **scores.to_dict(),
                "train_s": round(trained - started, 2),
                "validate_s": round(time.perf_counter() - trained, 2),
            }
            state = self._keep(state, row, optimizer, scaler)
        return state

    def _epoch(
        self,
        epoch: int,
        sampler: WindowSampler,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        weights: Tensor | None,
        amp: bool,
    ) -> float:
        """Train one epoch; returns the mean loss."""
        device = self.device
        self.network.train()
        torch.manual_seed(self.config.seed + 1_000_003 * epoch)  # dropout
        total = torch.zeros((), device=device, dtype=torch.float64)
        label = f"epoch {epoch + 1}/{self.config.epochs}"
        with ThreadPoolExecutor(1) as ahead, progress(self.config.steps, label) as tick:
            following, note = ahead.submit(sampler.windows, epoch, 0), ""
            for step in range(self.config.steps):
                batch = following.result()
                if step + 1 < self.config.steps:  # cut the next windows meanwhile
                    following = ahead.submit(sampler.windows, epoch, step + 1)
                for group in optimizer.param_groups:
                    group["lr"] = self.config.lr_at(epoch, step)
                with torch.autocast(device.type, torch.float16, enabled=amp):
                    loss = window_loss(self.network, batch, weights, device)
                optimizer.zero_grad(set_to_none=True)
                scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
                if self.config.clip:
                    scaler.unscale_(optimizer)
                    nn.utils.clip_grad_norm_(self.network.parameters(), self.config.clip)
                scaler.step(optimizer)
                scaler.update()
                total += loss.detach()
                if step % SHOW_EVERY == 0:  # reading the loss waits for the device
                    note = f"loss {_finite(float(total) / (step + 1), epoch):.4f}"
                tick(1, note)
        return _finite(float(total) / self.config.steps, epoch)

    def _validate(self) -> Scores:
        options = SegmentOptions(self.config.stride, "uniform")
        with TorchBackend(self.network, self.contract) as backend:
            matrix = evaluated(backend, self.validation(), options).matrix
        if not matrix.counts.sum():
            raise UsageError(
                "the validation scenes have no labelled pixel; choose others with --val, "
                "or another --holdout"
            )
        return matrix.scores(paper_classes(self.contract.classes))

    def _keep(
        self,
        state: TrainState,
        row: dict[str, Any],
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
    ) -> TrainState:
        """Write what an epoch has reached: best.pt first, so that last.pt never outruns it."""
        score = row["mean_iou"] or 0.0
        best = score > state.best
        state = TrainState(state.epoch + 1, max(score, state.best), (*state.history, row))
        checkpoint = Checkpoint(
            self.network.config,
            self.contract,
            self.network.state_dict(),
            training={**self.facts, "config": self.config.to_dict(), "epoch": state.epoch},
            metrics=row,
        )
        if best:
            save_checkpoint(self.folder.best, checkpoint)
        resume = {
            "optimizer": optimizer.state_dict(),
            "scaler": scaler.state_dict(),
            "best": state.best,
            "history": list(state.history),
        }
        save_checkpoint(self.folder.last, checkpoint, resume)
        self.folder.write_metrics(state.history)
        mark = "  best" if best else ""
        self.say(
            f"epoch {state.epoch}/{self.config.epochs}  loss {row['loss']:.4f}  "
            f"mIoU {score:.4f}  OA {row['oa'] or 0.0:.4f}  "
            f"{row['train_s'] + row['validate_s']:.0f} s{mark}"
        )
        return state

    def _resumed(
        self, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler
    ) -> TrainState:
        checkpoint = load_checkpoint(self.folder.last)
        resume = load_resume(self.folder.last)
        require_same(self.folder, checkpoint, self)
        self.network.load_state_dict(checkpoint.weights)
        optimizer.load_state_dict(resume["optimizer"])
        scaler.load_state_dict(resume["scaler"])
        epoch = int(checkpoint.training["epoch"])
        return TrainState(epoch, float(resume["best"]), tuple(resume["history"]))


def require_trainable(network: MFNet) -> None:
    """Refuse a run in which the chosen tuning would not train.

    Raises:
        UsageError: the tuning has parameters and all are frozen, or nothing trains at all.
    """
    tuning = [parameter.requires_grad for parameter in network.encoder.tuning.parameters()]
    if (tuning and not any(tuning)) or not network.parameter_counts().trainable:
        raise UsageError(
            f"nothing of the tuning '{network.config.tuning}' is trainable; "
            "the run would train only the decoder"
        )


def require_same(folder: RunFolder, found: Checkpoint, asked: Training) -> None:
    """Refuse to resume a run under other settings.

    Raises:
        UsageError: names the first setting that differs.
    """
    pairs = {
        "network": (found.config.to_dict(), asked.network.config.to_dict()),
        "recipe": (found.training.get("config"), asked.config.to_dict()),
        "contract": (
            replace(found.contract, provenance={}).to_dict(),
            replace(asked.contract, provenance={}).to_dict(),
        ),
    }
    pairs["data"] = (found.training, asked.facts)
    for part, (before, now) in pairs.items():
        for name in now:
            if not before or before.get(name) != now[name]:
                was = (before or {}).get(name)
                raise UsageError(
                    f"{folder.last}: its {part} has {name} {was!r}, now asked for "
                    f"{now[name]!r}; resume with the options of the first start"
                )


def _finite(loss: float, epoch: int) -> float:
    if not math.isfinite(loss):
        raise UsageError(f"the loss is {loss} in epoch {epoch + 1}; lower --lr or set --clip 1")
    return loss


def _optimizer(network: MFNet, config: TrainConfig) -> torch.optim.Optimizer:
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    if config.optimizer == "sgd":
        return torch.optim.SGD(
            parameters, config.lr, momentum=config.momentum, weight_decay=config.weight_decay
        )
    return torch.optim.AdamW(parameters, config.lr, weight_decay=config.weight_decay)
