"""The training loop: step, validate, keep the best, resume."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from mfnet.checkpoints.checkpoint import Checkpoint, load_checkpoint, load_resume, save_checkpoint
from mfnet.data.scenes import LabelledScene, MemoryScene
from mfnet.model.network import MFNet
from mfnet.model.torch_backend import TorchBackend
from mfnet.training.evaluate import evaluate
from mfnet.training.loss import class_weights, window_loss
from mfnet.training.options import PAPER, TrainConfig
from mfnet.training.run_directory import RunDirectory
from mfnet.training.sampling import PublishedSampler, WindowSampler
from mfnet_runtime.console import progress, say
from mfnet_runtime.contract import Contract
from mfnet_runtime.errors import UsageError
from mfnet_runtime.metrics import Scores, paper_classes
from mfnet_runtime.tiling.pipeline import SegmentOptions

SHOW_EVERY = 10  # steps


class Trainer:
    """One training run.

    Args:
        network: On its device, with the parameters frozen that shall not train.
        contract: Stored in the checkpoints.
        config: The recipe.
        scenes: Scenes to cut windows from.
        validation: Returns the scenes to score after each epoch.
        directory: Created if missing.
        facts: Provenance for the checkpoints, plain JSON.

    Raises:
        UsageError: The class weights do not fit the classes.
    """

    def __init__(
        self,
        network: MFNet,
        contract: Contract,
        config: TrainConfig,
        scenes: Sequence[MemoryScene],
        validation: Callable[[], Iterable[LabelledScene]],
        directory: RunDirectory,
        facts: dict[str, Any],
    ) -> None:
        self.network, self.contract, self.config = network, contract, config
        self.validation, self.directory, self.facts = validation, directory, facts
        self.device = next(network.parameters()).device
        sampler = PublishedSampler if config.recipe == PAPER else WindowSampler
        self.sampler = sampler(scenes, contract, config)
        classes = len(contract.classes)
        self.class_weights = class_weights(config.class_weights, scenes, classes, self.device)
        self.mixed = config.mixed_precision and self.device.type == "cuda"
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.mixed)
        self.optimizer = _optimizer(network, config)
        self.epoch = 0  # epochs finished
        self.best = -1.0  # highest validation mIoU
        self.history: list[dict[str, Any]] = []  # one row per epoch

    def train(self, resume: bool = False) -> None:
        """Run all epochs, or those left; `directory` then holds best.pt and last.pt.

        On a CPU a resumed run equals an uninterrupted one bit for bit: batches, dropout and
        learning rates follow from seed, epoch and step alone.

        Raises:
            UsageError: Nothing of the tuning is trainable, the loss diverges, the validation
                scenes have no label, or the run to resume had other settings.
            ResourceError: A checkpoint cannot be written.
        """
        require_trainable(self.network)
        self.directory.create()
        if resume:
            self._resume()
        while self.epoch < self.config.epochs:
            started = time.perf_counter()
            loss = self._train_epoch()
            trained = time.perf_counter()
            scores = self._validate()
            row = {
                "epoch": self.epoch + 1,
                "lr": self.config.lr_at(self.epoch, 0),
                "loss": loss,
                **scores.to_dict(),
                "train_s": round(trained - started, 2),
                "validate_s": round(time.perf_counter() - trained, 2),
            }
            self._finish_epoch(row)

    def _train_epoch(self) -> float:
        """Train one epoch; return the mean loss."""
        epoch, steps = self.epoch, self.config.steps
        self.network.train()
        torch.manual_seed(self.config.seed + 1_000_003 * epoch)  # for dropout
        total = torch.zeros((), device=self.device, dtype=torch.float64)
        label = f"epoch {epoch + 1}/{self.config.epochs}"
        with ThreadPoolExecutor(1) as ahead, progress(steps, label) as tick:
            following, note = ahead.submit(self.sampler.windows, epoch, 0), ""
            for step in range(steps):
                batch = following.result()
                if step + 1 < steps:  # cut the next windows meanwhile
                    following = ahead.submit(self.sampler.windows, epoch, step + 1)
                for group in self.optimizer.param_groups:
                    group["lr"] = self.config.lr_at(epoch, step)
                with torch.autocast(self.device.type, torch.float16, enabled=self.mixed):
                    loss = window_loss(self.network, batch, self.class_weights, self.device)
                self.optimizer.zero_grad(set_to_none=True)
                self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
                if self.config.clip:
                    self.scaler.unscale_(self.optimizer)
                    nn.utils.clip_grad_norm_(self.network.parameters(), self.config.clip)
                self.scaler.step(self.optimizer)
                self.scaler.update()
                total += loss.detach()
                if step % SHOW_EVERY == 0:  # reading the loss waits for the device
                    note = f"loss {self._check_loss(float(total) / (step + 1)):.4f}"
                tick(1, note)
        return self._check_loss(float(total) / steps)

    def _check_loss(self, loss: float) -> float:
        if not math.isfinite(loss):
            raise UsageError(
                f"the loss is {loss} in epoch {self.epoch + 1}; lower --lr or set --clip 1"
            )
        return loss

    def _validate(self) -> Scores:
        options = SegmentOptions(self.config.stride, "uniform")
        with TorchBackend(self.network, self.contract) as backend:
            matrix = evaluate(backend, self.validation(), options).matrix
        if not matrix.counts.sum():
            raise UsageError(
                "the validation scenes have no labelled pixel; choose others with --val, "
                "or another --holdout"
            )
        return matrix.scores(paper_classes(self.contract.classes))

    def _finish_epoch(self, row: dict[str, Any]) -> None:
        """Write the checkpoints: best.pt first, so that last.pt never gets ahead of it."""
        score = row["mean_iou"] or 0.0
        is_best = score > self.best
        self.epoch, self.best = self.epoch + 1, max(score, self.best)
        self.history.append(row)
        checkpoint = Checkpoint(
            self.network.config,
            self.contract,
            self.network.state_dict(),
            training={**self.facts, "config": self.config.to_dict(), "epoch": self.epoch},
            metrics=row,
        )
        if is_best:
            save_checkpoint(self.directory.best, checkpoint)
        resume = {
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "best": self.best,
            "history": self.history,
        }
        save_checkpoint(self.directory.last, checkpoint, resume)
        self.directory.write_metrics(self.history)
        say(
            f"epoch {self.epoch}/{self.config.epochs}  loss {row['loss']:.4f}  "
            f"mIoU {score:.4f}  OA {row['oa'] or 0.0:.4f}  "
            f"{row['train_s'] + row['validate_s']:.0f} s{'  best' if is_best else ''}"
        )

    def _resume(self) -> None:
        last = self.directory.last
        checkpoint, resume = load_checkpoint(last), load_resume(last)
        self._require_same_settings(checkpoint)
        self.network.load_state_dict(checkpoint.weights)
        self.optimizer.load_state_dict(resume["optimizer"])
        self.scaler.load_state_dict(resume["scaler"])
        self.epoch, self.best = int(checkpoint.training["epoch"]), float(resume["best"])
        self.history = list(resume["history"])

    def _require_same_settings(self, found: Checkpoint) -> None:
        contracts = [replace(each.contract, provenance={}) for each in (found, self)]
        pairs = {
            "network": (found.config.to_dict(), self.network.config.to_dict()),
            "recipe": (found.training.get("config") or {}, self.config.to_dict()),
            "contract": (contracts[0].to_dict(), contracts[1].to_dict()),
            "data": (found.training, self.facts),
        }
        for part, (before, now) in pairs.items():
            for name in now:
                if name not in before or before[name] != now[name]:
                    raise UsageError(
                        f"{self.directory.last}: its {part} has {name} {before.get(name)!r}, "
                        f"requested is {now[name]!r}; resume with the options of the first start"
                    )


def require_trainable(network: MFNet) -> None:
    """Refuse a run in which the chosen tuning would not train.

    Raises:
        UsageError: The tuning's parameters are all frozen, or nothing trains at all.
    """
    tuning = [parameter.requires_grad for parameter in network.encoder.tuning.parameters()]
    if (tuning and not any(tuning)) or not network.parameter_counts().trainable:
        raise UsageError(
            f"nothing of the tuning '{network.config.tuning}' is trainable; "
            "the run would train only the decoder"
        )


def _optimizer(network: MFNet, config: TrainConfig) -> torch.optim.Optimizer:
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    if config.optimizer == "sgd":
        return torch.optim.SGD(
            parameters, config.lr, momentum=config.momentum, weight_decay=config.weight_decay
        )
    return torch.optim.AdamW(parameters, config.lr, weight_decay=config.weight_decay)
