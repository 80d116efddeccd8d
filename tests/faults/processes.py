"""Faults of a run's process, its disk and its memory: X1 to X4, X7 to X9; of shards: D1, D3."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Callable

import numpy as np
import onnx
from faults.cell import Cell
from faults.runner import Ended, Running
from faults.workplace import Workplace
from onnx import TensorProto, helper
from support import RGBD

from mfnet_runtime.contract import METADATA_KEY, Contract

GOES_ON = "--resume gives the bytes of an undisturbed run"
EVERY = ("a", "b", "c")
TIMEOUT = 60.0  # seconds until a run should have begun


def slowly(place: Workplace) -> None:
    """Windows enough to do something to a run, and whoever does it comes first."""
    place.words += ["--stride", "16"]
    place.under(niceness=19)


def pieces(place: Workplace, scene: str) -> Running:
    """A run that has finished rows of a scene, and has more to do."""
    running = place.start()
    wait_for(place, scene)
    return running


def wait_for(place: Workplace, scene: str) -> None:
    end = time.monotonic() + TIMEOUT
    while not place.manifest().of(scene).pieces:
        assert time.monotonic() < end
        time.sleep(0.005)


def signalled(
    number: signal.Signals, scene: str = "b", *, group: bool = False
) -> Callable[[Workplace], Ended]:
    """A run that gets a signal in the middle of a scene."""

    def act(place: Workplace) -> Ended:
        running = pieces(place, scene)
        running.send(number, group=group)
        return running.wait()

    return act


def interrupted(
    fault: str, what: str, code: int, act: Callable[[Workplace], Ended], *says: str
) -> Cell:
    result = f"refused; {GOES_ON}" if code == 2 else GOES_ON
    return Cell(
        fault, what, code, result, slowly, says, act=act, template="large", resumed=True
    )  # fmt: skip


def file_size(limit: int) -> Cell:
    """A limit on the size of files: writing fails as on a full disk."""

    def plant(place: Workplace) -> None:
        place.under(limits=(("RLIMIT_FSIZE", limit),))

    return Cell(
        "X1", f"files end at {limit:,} bytes", 5, f"stops; {GOES_ON}", plant,
        ("check free space", "/out"), resumed=True,
    )  # fmt: skip


def standard_output(where: str) -> Callable[[Workplace], None]:
    return lambda place: place.under(stdout=where)


def read_only(place: Workplace) -> None:
    place.out.mkdir(mode=0o555)
    place.under(plain_user=True)


def removed(place: Workplace) -> Ended:
    """The output folder goes away in the middle of a run."""
    running = pieces(place, "b")
    place.out.rename(place.root / "gone")
    shutil.rmtree(place.root / "gone")
    return running.wait()


def memory(limit: int) -> Callable[[Workplace], None]:
    return lambda place: place.under(limits=(("RLIMIT_AS", limit),))


def not_finite(place: Workplace) -> None:
    """A model that has no answer to white pixels, and one of them in b."""
    sound = onnx.load(place.model)
    nodes = [
        helper.make_node("Sub", ["most", "image"], ["rest"]),
        helper.make_node("Sqrt", ["rest"], ["root"]),
        helper.make_node("Concat", ["root", "dsm"], ["logits"], axis=1),
    ]
    most = helper.make_tensor("most", TensorProto.FLOAT, [], [0.9])
    graph = helper.make_graph(nodes, "g", sound.graph.input, sound.graph.output, [most])
    model = helper.make_model(graph, opset_imports=sound.opset_import, ir_version=10)
    helper.set_model_props(model, {METADATA_KEY: Contract(32, RGBD).to_json()})
    onnx.save(model, place.model)
    pixels = np.minimum(place.pixels(), 200)
    pixels[:, 20, 20] = 255
    place.write(pixels)


def two_at_once(place: Workplace) -> Ended:
    return while_stopped(place, pieces(place, "b"))


def while_stopped(place: Workplace, first: Running, *words: str) -> Ended:
    """What a second process comes to while a first one waits in the middle of its work."""
    first.send(signal.SIGSTOP)
    second = place.run(*words)
    first.send(signal.SIGCONT)
    assert first.wait().code == 0
    return second


def after_a_kill(*words: str) -> Callable[[Workplace], Ended]:
    """What a second run with other words says."""

    def act(place: Workplace) -> Ended:
        assert signalled(signal.SIGKILL)(place).code == -signal.SIGKILL
        return place.run(*words)

    return act


def with_another_model(place: Workplace) -> Ended:
    assert signalled(signal.SIGKILL)(place).code == -signal.SIGKILL
    sound = place.model.read_bytes()
    model = onnx.load(place.model)
    model.producer_name = "another"
    onnx.save(model, place.model)
    ended = place.run("--resume")
    place.model.write_bytes(sound)
    return ended


def one_of_four_killed(place: Workplace) -> Ended:
    """Shards at the same time, one of them killed and started again after the others' end."""
    shards = [place.start("--shard", f"{index}/4") for index in (1, 2, 3, 4)]
    wait_for(place, "a")
    shards[1].send(signal.SIGKILL)
    ended = [shard.wait() for shard in shards]
    assert [one.code for one in ended] == [0, -signal.SIGKILL, 0, 0]
    return place.run("--shard", "2/4")


def the_same_shard_twice(place: Workplace) -> Ended:
    first = place.start("--shard", "1/2")
    wait_for(place, "a")
    second = while_stopped(place, first, "--shard", "1/2")
    assert place.run("--shard", "2/2").code == 0
    return second


SPOKEN = ("interrupted", "--resume goes on from here")
CELLS = (
    *(file_size(limit) for limit in (1000, 2000, 4000)),
    Cell(
        "X1", "standard output on a full disk (/dev/full)", 5, "maps are there; exit 5",
        standard_output("/dev/full"), ("standard output", "check free space"), others=EVERY,
    ),
    Cell(
        "X2", "output folder read-only", 5, "nothing begun", read_only,
        ("out: cannot be made or written", "choose another folder"), resumed=True,
    ),
    interrupted("X2", "output folder removed in the middle", 5, removed, "out", "check free space"),
    interrupted("X3", "Ctrl-C: SIGINT to the group", 130, signalled(signal.SIGINT, group=True),
                *SPOKEN),
    interrupted("X3", "SIGINT", 130, signalled(signal.SIGINT), *SPOKEN),
    interrupted("X3", "SIGTERM", 143, signalled(signal.SIGTERM), "terminated", SPOKEN[1]),
    interrupted("X3", "SIGHUP", -signal.SIGHUP, signalled(signal.SIGHUP)),
    Cell(
        "X3", "SIGPIPE: nobody reads standard output", 0, "the code of the run itself",
        standard_output("closed pipe"), others=EVERY,
    ),
    *(
        interrupted("X4", f"SIGKILL in scene {scene}", -signal.SIGKILL,
                    signalled(signal.SIGKILL, scene))
        for scene in EVERY
    ),
    *(
        Cell("X7", f"{limit} MiB of address space", 5, f"stops; {GOES_ON}", memory(limit << 20),
             ("out of memory", "; "), resumed=True)
        for limit in (190, 215)
    ),
    Cell("X8", "logits that are NaN", 4, "scene refused, the others run", not_finite,
         ("scenes/image/b.tif: ", "not finite")),
    Cell(
        "X9", "two runs in one folder", 2, "the second is refused, the first undisturbed", slowly,
        ("out: another mfnet-run works in it", "choose another folder"), act=two_at_once,
        template="large", others=EVERY,
    ),
    interrupted("X9", "a new run in an unfinished folder", 2, after_a_kill(),
                "a run there is not finished", "--resume"),
    interrupted("X9", "--resume with another stride", 2, after_a_kill("--resume", "--stride", "8"),
                "stride was 16", "choose as then"),
    interrupted("X9", "--resume with other bands", 2, after_a_kill("--resume", "--bands", "3,2,1"),
                "bands was", "choose as then"),
    interrupted("X9", "--resume with another model", 2, with_another_model,
                "MFNET_MODEL_SHA256 was", "choose as then"),
    Cell(
        "D1", "1 of 4 shards killed, started again", 0, "the bytes of one run", slowly,
        act=one_of_four_killed, template="large", others=EVERY,
    ),
    Cell(
        "D3", "the same shard twice at once", 2, "the second is refused, the first undisturbed",
        slowly, ("shard 1/2 runs already", "; "), act=the_same_shard_twice, template="large",
        others=EVERY,
    ),
)  # fmt: skip
