"""The networks of a latency run: checkpoints, the files exported from them, and their engines."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from mfnet_bench.accuracy.score import is_checkpoint
from mfnet_bench.latency.request import (
    AUTOCAST,
    COMPILED,
    FILE,
    OURS,
    PUBLISHED,
    LatencyRequest,
)
from mfnet_runtime.backends import RUNS
from mfnet_runtime.contract import Contract
from mfnet_runtime.errors import ModelError, UsageError
from mfnet_runtime.files import sha256_from_file

if TYPE_CHECKING:
    from mfnet.config import ModelConfig


@dataclass(frozen=True)
class EngineSpec:
    """One engine at one batch: a row of the comparison."""

    kind: str
    path: Path
    backend: str  # as tables name it
    asked: str  # precision asked for
    precision: str  # precision it computes in: of the file's integers, then as asked
    gflop: float  # of one window
    batch: int  # windows per call

    @property
    def arithmetic(self) -> str:
        """The precision of most of the arithmetic: int8 for int8+bf16."""
        return self.precision.partition("+")[0]


@dataclass(frozen=True)
class Network:
    """A checkpoint, its baselines in PyTorch, and the engines compared with them."""

    name: str
    checkpoint: Path
    contract: Contract
    embed_dim: int
    tokens: int  # of one window and one stream
    baselines: tuple[EngineSpec, ...]  # every kind at every batch, the published order first
    engines: tuple[EngineSpec, ...] = ()


def networks_from_request(request: LatencyRequest) -> list[Network]:
    """Match every exported file with the checkpoint it was made from.

    Raises:
        UsageError: A checkpoint is missing, or no backend runs a file on the device.
        ModelError: A file is damaged, or was made from another checkpoint, window or classes.
    """
    files = [path for path in request.models if not is_checkpoint(path)]
    timed = [path.resolve() for path in request.models if is_checkpoint(path)]
    beside = [] if request.baselines else [found for path in files for found in _beside(path)]
    given = dict.fromkeys(path.resolve() for path in (*request.baselines, *timed, *beside))
    if not given:
        raise UsageError(
            f"{files[0]}: no checkpoint beside it; name the one it was exported from "
            "with --baseline"
        )
    contracts = {path: _contract(path) for path in files}
    networks = {sha256_from_file(path): _network(path, request) for path in given}
    for path, contract in contracts.items():
        checksum = _matching(path, contract, networks)
        network = networks[checksum]
        engines = (*network.engines, *_engines(path, contract, request))
        networks[checksum] = replace(network, engines=engines)
    return [
        network for network in networks.values() if network.engines or network.checkpoint in timed
    ]


def network_name(config: ModelConfig) -> str:
    """Return the preset of a configuration, or its sizes, and its tuning."""
    from mfnet.config import PRESETS

    for name, preset in PRESETS.items():
        if all(getattr(config, key) == value for key, value in preset.items()):
            return f"{name} {config.tuning}"
    return f"{config.embed_dim}x{config.depth} {config.tuning}"


def _network(path: Path, request: LatencyRequest) -> Network:
    import torch

    from mfnet.checkpoints.checkpoint import load_checkpoint
    from mfnet.model.network import MFNet
    from mfnet_bench.latency.baseline import PublishedMFNet
    from mfnet_export.flops import gflop_from_network

    checkpoint = load_checkpoint(path)
    with torch.device("meta"):  # shapes only
        ours = MFNet(checkpoint.config).eval()
        published = cast(MFNet, PublishedMFNet(ours))  # called as one
    gflop, gflop_ours = gflop_from_network(published), gflop_from_network(ours)
    half = "fp16" if request.device == "cuda" else "fp32"
    kinds = [(PUBLISHED, "fp32", gflop), (OURS, "fp32", gflop_ours)]
    kinds += [(AUTOCAST, half, gflop)] if request.device == "cuda" else []
    kinds += [(COMPILED, half, gflop)] if request.compiled else []
    return Network(
        name=network_name(checkpoint.config),
        checkpoint=path,
        contract=checkpoint.contract,
        embed_dim=checkpoint.config.embed_dim,
        tokens=checkpoint.config.grid**2,
        baselines=tuple(
            EngineSpec(kind, path, f"torch {kind}", precision, precision, flop, batch)
            for kind, precision, flop in kinds
            for batch in sorted(set(request.baseline_batches))
        ),
    )


def _engines(path: Path, contract: Contract, request: LatencyRequest) -> list[EngineSpec]:
    from mfnet_export.flops import gflop_from_onnx

    able = RUNS.get((path.suffix.lower(), request.device), ())
    backends = [name for name in request.backends if name in able]
    if not backends:
        raise UsageError(
            f"{path}: {', '.join(request.backends)}: none of these runs it with --device "
            f"{request.device}; choose others with --backends, or another device"
        )
    onnx = path.with_suffix(".onnx")
    if not onnx.is_file():
        raise UsageError(f"{path}: its operations are counted in {onnx.name}; put that beside it")
    gflop = gflop_from_onnx(onnx)
    return [
        EngineSpec(FILE, path, backend, asked, precision_of(contract, asked), gflop, batch)
        for backend in backends
        for asked in request.precisions
        for batch in sorted(set(request.batches))
    ]


def precision_of(contract: Contract, asked: str) -> str:
    """Return what a file computes in when the engine is asked for a precision."""
    if contract.precision == "fp32":
        return asked
    return contract.precision if asked == "fp32" else f"{contract.precision}+{asked}"


def _matching(path: Path, contract: Contract, networks: dict[str, Network]) -> str:
    """Return the checksum of the checkpoint that a file was exported from."""
    named = contract.provenance.get("checkpoint_sha256")
    if named in networks:
        checksum = str(named)
    elif named is None and len(networks) == 1:
        (checksum,) = networks
    else:
        source = f"from {named[:12]}..." if named else "from a checkpoint it does not name"
        raise ModelError(
            f"{path}: was exported {source}; the checkpoints given are "
            f"{', '.join(f'{n.checkpoint.name} ({c[:12]}...)' for c, n in networks.items())}; "
            "name the right one with --baseline"
        )
    network = networks[checksum]
    for fact, found, expected in (
        ("windows of {} px", contract.window, network.contract.window),
        ("{} classes", len(contract.classes), len(network.contract.classes)),
    ):
        if found != expected:
            raise ModelError(
                f"{path}: has {fact.format(found)}, the baseline {network.checkpoint.name} "
                f"{fact.format(expected)}; compare files of one network"
            )
    return checksum


def _contract(path: Path) -> Contract:
    from mfnet_export.inspect import inspect_file

    facts = inspect_file(path)
    if "contract" not in facts:
        raise ModelError(f"{path}: holds no mfnet contract; export it with mfnet-export")
    return Contract.from_dict(facts["contract"])


def _beside(path: Path) -> list[Path]:
    """Return the checkpoints that a file's name suggests: lora.pt for lora.int8.onnx."""
    from mfnet.checkpoints.torch_file import SUFFIXES

    parts = path.name.split(".")
    stems = (".".join(parts[:count]) for count in range(len(parts) - 1, 0, -1))
    named = (path.with_name(stem + suffix) for stem in stems for suffix in ("", *SUFFIXES))
    return [found for found in named if found.is_file()]
