"""Processes that share a run come to the bytes of one; processes that do not are locked out."""

from __future__ import annotations

import random
import signal
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from faults.runner import ForkServer
from resumed_run import Told
from undisturbed import Undisturbed, state_in, wait_for_pieces

from mfnet_runtime.run.chunks import PieceWriter
from mfnet_runtime.run.paths import OutputPaths
from mfnet_runtime.run.progress import SceneWork
from mfnet_runtime.run.shard import MANY, Shard
from mfnet_runtime.run.workdir import WORK, ResumeOptions, RunFolder
from mfnet_runtime.scene.discovery import scenes_from
from mfnet_runtime.tiling.classes import FinishedRows
from mfnet_runtime.tiling.grid import WindowGrid
from mfnet_runtime.tiling.options import SegmentOptions

SLOW = {"seconds": 0.02}  # for a batch


@pytest.fixture(scope="module")
def many(server: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """Scenes enough to be dealt."""
    folder = tmp_path_factory.mktemp("many")
    return Undisturbed(server, folder, [(20, 25 + i) for i in range(2 * MANY)], layers=False)


def shards(whole: Undisturbed, out: Path, count: int, **changes: object) -> list[Told]:
    return [whole.told_in(out, shard=f"{k}/{count}", **changes) for k in range(1, count + 1)]


def test_one_after_the_other(undisturbed: Undisturbed, tmp_path: Path) -> None:
    told = shards(undisturbed, tmp_path, 3)
    for index in (2, 0, 1):
        ended = undisturbed.wait(told[index])
        assert ended.code == 0, ended.err
        assert ('"shared"' in ended.out) == (index != 1)
    undisturbed.assert_same(tmp_path)


def together(whole: Undisturbed, told: list[Told]) -> None:
    running = [whole.start(one) for one in told]
    for one in running:
        ended = one.wait()
        assert ended.code == 0, ended.err
    whole.assert_same(Path(told[0].out))


def test_at_the_same_time(undisturbed: Undisturbed, many: Undisturbed, tmp_path: Path) -> None:
    together(undisturbed, shards(undisturbed, tmp_path / "cut", 3))
    together(many, shards(many, tmp_path / "dealt", 2))


@pytest.mark.slow
def test_at_the_same_time_again_and_again(undisturbed: Undisturbed, tmp_path: Path) -> None:
    for index in range(40):
        together(undisturbed, shards(undisturbed, tmp_path / str(index), 2 + index % 4))


def killed_among_others(whole: Undisturbed, out: Path, count: int, seed: int) -> None:
    rng = random.Random(seed)
    told = shards(whole, out, count)
    running = [whole.start(one) for one in told]
    victim = rng.randrange(count)
    time.sleep(rng.uniform(0, whole.seconds))
    running[victim].send(signal.SIGKILL)
    codes = [one.wait().code for one in running]
    assert codes[victim] in (0, -signal.SIGKILL)
    assert all(code == 0 for index, code in enumerate(codes) if index != victim)
    if codes[victim]:
        assert not state_in(out).ended or not (out / WORK).exists()
        again = whole.wait(told[victim])
        assert again.code == 0, again.err
    whole.assert_same(out, seed)


def test_one_killed_among_others(
    undisturbed: Undisturbed, many: Undisturbed, tmp_path: Path
) -> None:
    killed_among_others(undisturbed, tmp_path / "cut", 3, 3)
    killed_among_others(many, tmp_path / "dealt", 2, 4)


@pytest.mark.slow
def test_one_killed_among_others_again_and_again(
    undisturbed: Undisturbed, many: Undisturbed, tmp_path: Path
) -> None:
    for seed in range(20):
        killed_among_others(undisturbed, tmp_path / f"cut-{seed}", 3, seed)
        killed_among_others(many, tmp_path / f"dealt-{seed}", 2, seed)


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ({}, {}, "another mfnet-run works in it; wait for it, or choose another folder with -o"),
        ({}, {"shard": "1/2"}, "another mfnet-run works in it"),
        ({"shard": "1/2"}, {}, "another mfnet-run works in it"),
        ({"shard": "1/2"}, {"shard": "1/2"}, "shard 1/2 runs already; choose another"),
        ({"shard": "1/2"}, {"shard": "2/2", "restart": True}, "other shards of another run"),
        ({"shard": "1/2"}, {"shard": "2/3"}, "the run there has 2 shards, not 3"),
        ({"shard": "1/2"}, {"shard": "2/2", "walk": {"stride": 8}}, "stride was 16"),
    ],
)
def test_others_are_locked_out_at_once(
    undisturbed: Undisturbed,
    tmp_path: Path,
    first: dict[str, object],
    second: dict[str, object],
    said: str,
) -> None:
    works = undisturbed.start(undisturbed.told_in(tmp_path, model=SLOW, **first))
    wait_for_pieces(tmp_path)
    works.send(signal.SIGSTOP)  # so that it does not end before
    refused = undisturbed.wait(undisturbed.told_in(tmp_path, **second))
    assert refused.code == 2, refused.err
    assert said in refused.err
    assert len(refused.errors) == 1
    works.send(signal.SIGCONT)
    ended = works.wait()
    assert ended.code == 0, ended.err
    if "shard" in first:
        assert undisturbed.wait(undisturbed.told_in(tmp_path, shard="2/2")).code == 0
    undisturbed.assert_same(tmp_path, "the first was not disturbed")


def test_a_lock_ends_with_its_process(undisturbed: Undisturbed, tmp_path: Path) -> None:
    told = undisturbed.told_in(tmp_path, model=SLOW)
    works = undisturbed.start(told)
    wait_for_pieces(tmp_path)
    works.send(signal.SIGKILL)
    works.wait()
    undisturbed.assert_goes_on(told)


def test_one_process_goes_on_with_what_shards_left(
    undisturbed: Undisturbed, tmp_path: Path
) -> None:
    (told, *_) = shards(undisturbed, tmp_path, 3)
    assert undisturbed.wait(told).code == 0
    refused = undisturbed.wait(undisturbed.told_in(tmp_path))
    assert refused.code == 2
    assert "not finished (0 scenes done); add --resume" in refused.err
    undisturbed.assert_goes_on(undisturbed.told_in(tmp_path))


def test_the_last_shard_at_work_ends_the_run(tmp_path: Path) -> None:
    """Not the last that has something to do."""
    options = [ResumeOptions(shard=Shard(index, 2)) for index in (1, 2)]
    one, other = (RunFolder(tmp_path, {}, which, ["a"]) for which in options)
    with other:
        with one:
            one.manifest.append("failed", scene="a", error="damaged")
            one.end()
        assert not state_in(tmp_path).ended
        assert other.of("a").is_dir(), "the other may still write there"
        other.end()
    assert state_in(tmp_path).ended
    assert not (tmp_path / WORK).exists()


def test_who_makes_the_last_piece_finishes_the_scene(
    undisturbed: Undisturbed, tmp_path: Path
) -> None:
    """Also while another looks whether all are there, and finds that one missing."""
    scene = scenes_from(Path(undisturbed.told.scenes))[0]
    paths = OutputPaths.of(tmp_path, scene.name, SegmentOptions(), None)
    blocks = WindowGrid(8, 6, 32, 16).blocks(3)
    with ExitStack() as opened:
        one, other = (
            SceneWork(
                opened.enter_context(
                    RunFolder(tmp_path, {}, ResumeOptions(shard=Shard(index, 2)), ["a"])
                ),
                scene,
                paths,
                {"classes": 1},
            )
            for index in (1, 2)
        )

        def made(work: SceneWork, block: WindowGrid) -> None:
            with PieceWriter(work.folder, ["classes"], work.note, 60) as writer:
                classes = np.zeros((8, 3), np.uint8)
                writer.write(FinishedRows(classes, place=(0, block.made.start)))

        made(one, blocks[0])
        with one.every_piece(blocks) as found:
            assert found is None
            made(other, blocks[1])
            with other.every_piece(blocks) as all_there:
                assert all_there is not None
                assert len(all_there) == 2
                with one.every_piece(blocks) as found:
                    assert found is None, "the other is at it"
