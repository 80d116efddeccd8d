"""What a latency run compares: networks, the files exported from them, engines that run those.

Reads files to know what they are; runs none of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from mfnet_bench.accuracy.scoring import CHECKPOINTS
from mfnet_bench.latency.request import LatencyRequest
from mfnet_runtime.contract import Contract
from mfnet_runtime.errors import ModelError, UsageError

if TYPE_CHECKING:
    from mfnet.config import ModelConfig

PUBLISHED, OURS, COMPILED = "published", "mfnet", "compiled"  # kinds of baseline, all PyTorch


@dataclass(frozen=True)
class EngineSpec:
    """One engine at one batch, as its own process loads it: a cell of the comparison."""

    kind: str  # file, or a kind of baseline
    path: Path
    backend: str
    asked: str  # precision asked for
    precision: str  # precision it computes in: that of the file's integers, then what was asked
    gflop: float  # of one window
    batch: int  # windows a call

    @property
    def arithmetic(self) -> str:
        """The precision most of the arithmetic is in: int8 for int8+bf16."""
        return self.precision.partition("+")[0]

    def to_json(self, threads: int, windows: Path) -> dict[str, Any]:
        """The first line its process is told."""
        return {
            "kind": self.kind,
            "path": str(self.path),
            "backend": self.backend,
            "precision": self.asked,
            "batch": self.batch,
            "threads": threads,
            "windows": str(windows),
        }


@dataclass(frozen=True)
class Network:
    """A checkpoint, which gives the baselines, and the engines that are compared with it."""

    name: str
    checkpoint: Path
    contract: Contract
    embed_dim: int
    tokens: int  # of one window and one stream
    baselines: tuple[EngineSpec, ...]  # every kind at every batch, the published order first
    engines: tuple[EngineSpec, ...] = field(default=())


def networks_from_request(request: LatencyRequest) -> list[Network]:
    """Match every exported file with the checkpoint it was made from.

    Raises:
        UsageError: a checkpoint is missing.
        ModelError: a file is damaged, or was made from another checkpoint, window or classes.
    """
    files = [path for path in request.models if not _is_checkpoint(path)]
    given = [*request.baselines, *(path for path in request.models if _is_checkpoint(path))]
    for path in files:
        if not given or not request.baselines:
            given += _beside(path)
    given = list(dict.fromkeys(path.resolve() for path in given))
    if not given:
        raise UsageError(
            f"{files[0]}: no checkpoint beside it; name the one it was exported from "
            "with --baseline"
        )
    from mfnet_runtime.files import sha256_from_file

    networks = {sha256_from_file(path): _network(path, request) for path in given}
    matched: dict[str, list[EngineSpec]] = {checksum: [] for checksum in networks}
    for path in files:
        contract = _contract(path)
        checksum = _matching(path, contract, networks)
        matched[checksum] += _engines(path, contract, request)
    return [
        Network(**{**vars(network), "engines": tuple(matched[checksum])})
        for checksum, network in networks.items()
        if matched[checksum] or network.checkpoint in {p.resolve() for p in request.models}
    ]


def network_name(config: ModelConfig) -> str:
    """The preset a configuration is of, or its sizes, and its tuning."""
    from mfnet.config import PRESETS

    for name, preset in PRESETS.items():
        if all(getattr(config, key) == value for key, value in preset.items()):
            return f"{name} {config.tuning}"
    return f"{config.embed_dim}x{config.depth} {config.tuning}"


def _network(path: Path, request: LatencyRequest) -> Network:
    import torch

    from mfnet.checkpoints.checkpoint import load_checkpoint
    from mfnet.model.network import MFNet
    from mfnet_bench.latency.published_network import PublishedMFNet
    from mfnet_export.flops import gflop_from_network

    checkpoint = load_checkpoint(path)
    with torch.device("meta"):  # shapes only
        ours = MFNet(checkpoint.config).eval()
        published = cast(MFNet, PublishedMFNet(ours))  # called as one
    kinds = {
        PUBLISHED: published,
        OURS: ours,
        **({COMPILED: published} if request.compiled else {}),
    }
    counts = {kind: gflop_from_network(network) for kind, network in kinds.items()}
    return Network(
        name=network_name(checkpoint.config),
        checkpoint=path,
        contract=checkpoint.contract,
        embed_dim=checkpoint.config.embed_dim,
        tokens=checkpoint.config.grid**2,
        baselines=tuple(
            EngineSpec(kind, path, f"torch {kind}", "fp32", "fp32", gflop, batch)
            for kind, gflop in counts.items()
            for batch in sorted(set(request.baseline_batches))
        ),
    )


def _engines(path: Path, contract: Contract, request: LatencyRequest) -> list[EngineSpec]:
    from mfnet_export.flops import gflop_from_onnx

    gflop = gflop_from_onnx(path)
    return [
        EngineSpec("file", path, backend, asked, precision_of(contract, asked), gflop, batch)
        for backend in request.backends
        for asked in request.precisions
        for batch in sorted(set(request.batches))
    ]


def precision_of(contract: Contract, asked: str) -> str:
    """What a file computes in when the engine is asked for a precision."""
    if contract.precision == "fp32":
        return asked
    return contract.precision if asked == "fp32" else f"{contract.precision}+{asked}"


def _matching(path: Path, contract: Contract, networks: dict[str, Network]) -> str:
    named = contract.provenance.get("checkpoint_sha256")
    if named in networks:
        checksum = str(named)
    elif named is None and len(networks) == 1:
        (checksum,) = networks
    else:
        was = "does not say from which checkpoint" if named is None else f"from {named[:12]}..."
        raise ModelError(
            f"{path}: was exported {was}, and the checkpoints given are "
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
    from mfnet_export.inspect import inspected

    facts = inspected(path)
    if "contract" not in facts:
        raise ModelError(f"{path}: holds no mfnet contract; export it with mfnet-export")
    return Contract.from_dict(facts["contract"])


def _is_checkpoint(path: Path) -> bool:
    return path.suffix.lower() in CHECKPOINTS


def _beside(path: Path) -> Sequence[Path]:
    """Checkpoints that an exported file's name suggests: lora.pt for lora.int8.onnx."""
    stem = path.name.partition(".")[0]
    found = (path.with_name(stem + suffix) for suffix in CHECKPOINTS)
    return [checkpoint for checkpoint in found if checkpoint.is_file()]
