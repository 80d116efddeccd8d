"""Faults of a run's process, its disk and its memory: X1 to X4, X7 to X9."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from faults.cell import Cell
from faults.runner import Ended, Running
from faults.workplace import Workplace
from onnx import TensorProto, helper
from support import RGBD

from mfnet_runtime.contract import METADATA_KEY, Contract

SAME_BYTES = "--resume gives the bytes of an undisturbed run"
EVERY = ("a", "b", "c")
TIMEOUT = 60.0  # seconds until a run should have begun

Act = Callable[[Workplace], Ended]


def slowly(place: Workplace) -> None:
    """Give a run enough windows to be disturbed, and whoever disturbs it the processor."""
    place.words += ["--stride", "16"]
    place.under(niceness=19)


def under(**conditions: Any) -> Callable[[Workplace], None]:
    return lambda place: place.under(**conditions)


def started(place: Workplace, scene: str = "b") -> Running:
    """Start a run, and return when it has begun with a scene."""
    running, end = place.start(), time.monotonic() + TIMEOUT
    while not place.manifest().scene(scene).inputs:
        assert time.monotonic() < end
        time.sleep(0.005)
    return running


def signalled(number: signal.Signals, scene: str = "b", *, group: bool = False) -> Act:
    """Send a signal in the middle of a scene."""

    def act(place: Workplace) -> Ended:
        running = started(place, scene)
        running.send(number, group=group)
        return running.wait()

    return act


def interrupted(fault: str, what: str, code: int, act: Act, *says: str) -> Cell:
    result = f"refused; {SAME_BYTES}" if code == 2 else SAME_BYTES
    return Cell(fault, what, code, result, slowly, says, act=act, template="large", resumed=True)


def stops(fault: str, what: str, plant: Callable[[Workplace], None], *says: str) -> Cell:
    return Cell(fault, what, 5, f"stops; {SAME_BYTES}", plant, says, resumed=True)


def read_only(place: Workplace) -> None:
    place.out.mkdir(mode=0o555)
    place.under(plain_user=True)


def folder_removed(place: Workplace) -> Ended:
    running = started(place)
    place.out.rename(place.root / "gone")
    shutil.rmtree(place.root / "gone")
    return running.wait()


def not_finite(place: Workplace) -> None:
    """A model whose logits are NaN for white pixels, and a white pixel in b."""
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
    """Start a second run while the first one waits in the middle of its work."""
    first = started(place)
    first.send(signal.SIGSTOP)
    second = place.run()
    first.send(signal.SIGCONT)
    assert first.wait().code == 0
    return second


def after_a_kill(*words: str, other_model: bool = False) -> Act:
    """Kill a run, and start another one with other words."""

    def act(place: Workplace) -> Ended:
        assert signalled(signal.SIGKILL)(place).code == -signal.SIGKILL
        sound = place.model.read_bytes()
        if other_model:
            model = onnx.load_from_string(sound)
            model.producer_name = "another"
            onnx.save(model, place.model)
        ended = place.run(*words)
        place.model.write_bytes(sound)
        return ended

    return act


SPOKEN = ("interrupted", "use --resume to continue")
FULL = ("check free space", "/out")
CELLS = (
    *(
        stops("X1", f"files end at {size:,} bytes", under(limits=(("RLIMIT_FSIZE", size),)), *FULL)
        for size in (1000, 2000, 4000)
    ),
    Cell("X1", "standard output on a full disk (/dev/full)", 5, "maps are there; exit 5",
         under(stdout="/dev/full"), ("standard output", "check free space"), others=EVERY),
    Cell("X2", "output folder read-only", 5, "nothing begun", read_only,
         ("out: cannot be created or written", "choose another folder"), resumed=True),
    interrupted("X2", "output folder removed in the middle", 5, folder_removed, *FULL),
    interrupted("X3", "Ctrl-C: SIGINT to the group", 130, signalled(signal.SIGINT, group=True),
                *SPOKEN),
    interrupted("X3", "SIGINT", 130, signalled(signal.SIGINT), *SPOKEN),
    interrupted("X3", "SIGTERM", 143, signalled(signal.SIGTERM), "terminated", SPOKEN[1]),
    interrupted("X3", "SIGHUP", -signal.SIGHUP, signalled(signal.SIGHUP)),
    Cell("X3", "SIGPIPE: nobody reads standard output", 0, "the code of the run itself",
         under(stdout="closed pipe"), others=EVERY),
    *(
        interrupted("X4", f"SIGKILL in scene {scene}", -signal.SIGKILL,
                    signalled(signal.SIGKILL, scene))
        for scene in EVERY
    ),
    *(
        stops("X7", f"{size} MiB of address space", under(limits=(("RLIMIT_AS", size << 20),)),
              "out of memory", "; ")
        for size in (190, 215)
    ),
    Cell("X8", "logits that are NaN", 4, "scene refused, the others run", not_finite,
         ("scenes/image/b.tif: ", "not finite")),
    Cell("X9", "two runs in one folder", 2, "the second is refused, the first undisturbed", slowly,
         ("out: another mfnet-run works in it", "choose another folder"), act=two_at_once,
         template="large", others=EVERY),
    interrupted("X9", "a new run in an unfinished folder", 2, after_a_kill(),
                "an unfinished run is there", "--resume"),
    interrupted("X9", "--resume with another stride", 2, after_a_kill("--resume", "--stride", "8"),
                "stride was 16", "use the same as before"),
    interrupted("X9", "--resume with other bands", 2, after_a_kill("--resume", "--bands", "3,2,1"),
                "bands was", "use the same as before"),
    interrupted("X9", "--resume with another model", 2,
                after_a_kill("--resume", other_model=True), "MFNET_MODEL_SHA256 was",
                "use the same as before"),
)  # fmt: skip
