"""Which part of the network each node of its graph belongs to, for people: "block 3 image".

Told by the names of parameters, in the order of execution. Knows no numbers.
"""

from __future__ import annotations

import re

import onnx_ir as ir

BLOCK = re.compile(r"encoder\.(?:sam\.blocks|tuning|attention)\.(\d+)\.")  # from 0
EARLY = ("embedding",)
LATE = ("neck", "fusion", "decoder")
_LATE = re.compile(r"(?:encoder\.sam\.)?(neck|fusion|decoder)\.")
STREAMS = {"image": "image", "dsm": "DSM"}  # by the graph's input


def parts_of(model: ir.Model) -> dict[str, str]:
    """The part that makes each activation, by the activation's name.

    Parts of the encoder are told apart by stream. An activation of both streams is of the one its
    first operand is of: own before other is how a block adds them.
    """
    names: dict[str, str] = {}
    streams = {value.name: STREAMS.get(value.name or "", "") for value in model.graph.inputs}
    reached = (0, EARLY[0])  # rank and name: constants may be shared with parts before
    for node in model.graph:
        reached = max([reached, *(_part(value.name or "") for value in node.inputs if value)])
        stream = next((streams[v.name] for v in node.inputs if v and v.name in streams), "")
        part = reached[1]
        for value in node.outputs:
            streams[value.name] = stream
            apart = stream and part not in ("fusion", "decoder")
            names[str(value.name)] = f"{part} {stream}" if apart else part
    return names


def _part(name: str) -> tuple[int, str]:
    """Rank and name of the part a parameter is of; the first of all for any other value."""
    if found := BLOCK.match(name):
        return 1 + int(found[1]), f"block {found[1]}"
    if found := _LATE.match(name):
        return 10_000 + LATE.index(found[1]), found[1]
    return 0, EARLY[0]
