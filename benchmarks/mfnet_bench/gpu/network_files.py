"""Make the files of one network: checkpoint, FP32 and FP16 ONNX, windows with PyTorch's logits.

    python -m mfnet_bench.gpu.network_files JSON

A program of its own, for the Python that has torch and onnx; needs no GPU.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mfnet.checkpoints.checkpoint import (
    Checkpoint,
    load_checkpoint,
    network_from_checkpoint,
    save_checkpoint,
)
from mfnet.config import config_from_preset
from mfnet.model.network import MFNet
from mfnet.model.torch_backend import TorchBackend
from mfnet_bench.gpu.request import CLASSES, NetworkFiles
from mfnet_bench.latency.published_network import PublishedMFNet
from mfnet_export.export import ExportRequest, exported
from mfnet_export.flops import gflop_from_network, gflop_from_onnx
from mfnet_export.precision.accuracy import Bounds, logits_of
from mfnet_export.validation.sample_windows import sample_windows
from mfnet_runtime.contract import Contract
from mfnet_runtime.files import replace_text
from mfnet_runtime.labels import ClassTable

SEED = 0


def make(files: NetworkFiles, origin: dict[str, Any]) -> None:
    """Write all files of a network, those of ONNX only if they proved equal to PyTorch.

    Args:
        files: Of the network.
        origin: What `request.origin` gives.
    """
    scenes = origin["scenes"] and Path(origin["scenes"])
    files.facts.unlink(missing_ok=True)  # it vouches for the others
    files.folder.mkdir(parents=True, exist_ok=True)
    if files.given is None:
        save_checkpoint(files.checkpoint, random_checkpoint(files.name, origin["window"]))
    elif files.given.resolve() != files.checkpoint.resolve():
        shutil.copyfile(files.given, files.checkpoint)
    report = exported(_request(files, scenes), lambda note: print(note, file=sys.stderr))
    checkpoint = load_checkpoint(files.checkpoint)
    network = network_from_checkpoint(checkpoint)
    windows = sample_windows(checkpoint.contract, scenes, origin["windows"])
    with TorchBackend(network, checkpoint.contract) as backend:
        logits = np.concatenate(logits_of(backend, windows))
    np.savez(files.windows, image=windows.image, dsm=windows.dsm, logits=logits)
    published: Any = PublishedMFNet(network).eval()
    facts = {
        "name": files.name,
        "origin": origin,
        "source": windows.source,
        "sizes": {
            "embed_dim": checkpoint.config.embed_dim,
            "depth": checkpoint.config.depth,
            "tokens": checkpoint.config.grid**2,
        },
        "gflop": gflop_from_onnx(files.onnx),
        "gflop_published": gflop_from_network(published),
        "parity": report.parity.to_json(),
        "fp16": report.to_json()["fp16"],
        "torch": torch.__version__,
    }
    replace_text(files.facts, json.dumps(facts, indent=1) + "\n")


def random_checkpoint(name: str, window: int) -> Checkpoint:
    """Of a preset and a tuning, as `vit_b lora`; no parameter of the tuning is idle."""
    preset, tuning = name.split()
    torch.manual_seed(SEED)
    network = MFNet(config_from_preset(preset, classes=CLASSES, window=window, tuning=tuning))
    with torch.no_grad():
        for parameter in network.encoder.tuning.parameters():
            if parameter.ndim == 2 and not parameter.any():
                parameter.normal_(std=0.02)
    contract = Contract(window, ClassTable.numbered(CLASSES))
    return Checkpoint(network.config, contract, network.eval().state_dict())


def _request(files: NetworkFiles, scenes: Path | None) -> ExportRequest:
    # Pixels of a network without training are undecided: their classes flip at any rounding.
    bounds = Bounds(max_disagree=100.0, max_drop=100.0) if files.given is None else Bounds()
    return ExportRequest(files.checkpoint, files.onnx, scenes, fp16=bounds)


def main(text: str) -> None:
    """Entry point; the argument is what `request.making` gives."""
    asked = json.loads(text)
    given = asked["given"] and Path(asked["given"])
    make(NetworkFiles(asked["name"], Path(asked["folder"]), given), asked["origin"])


if __name__ == "__main__":
    main(sys.argv[1])
