"""An ONNX file for Deepness, the QGIS plugin: one input of four bands, the fourth of heights.

Deepness reads the bands of one layer, multiplies them by 1/255, and calls a model of one input. The
network's own file has two inputs. Here the bands are taken apart in front of it, and a softmax
follows, because Deepness compares its outputs with a threshold in 0..1.
"""

from __future__ import annotations

import json
from pathlib import Path

import onnx
from onnx.helper import make_node

from mfnet_export.interfaces.graph import (
    add_constants,
    add_nodes,
    load_graph,
    replace_values,
    save_graph,
)
from mfnet_export.interfaces.options import InterfaceOptions
from mfnet_export.interfaces.source import Source
from mfnet_runtime.backends.base import HALF
from mfnet_runtime.errors import UsageError

IR_VERSION = 9  # the newest that the ONNX Runtime of Deepness's users may read
OVERLAP = 25  # percent; Deepness cuts off half of it on each side of a tile, and does not blend
FACTOR = 255.0  # Deepness divides by it
LOW_HIGH = {
    "scene_minmax": "lowest and highest height of the scene: gdalinfo -mm heights.tif",
    "scene_percentile": "percentiles {low:g} and {high:g} of the scene's heights",
}


def write(source: Source, folder: Path, options: InterfaceOptions) -> None:
    """Write the file of four bands, under the name of its source, into a folder.

    Raises:
        UsageError: The source is a plan or has FP16 inputs, or the pixel size is unknown or
            contradicts the source.
    """
    source.require_onnx("deepness")
    contract, side = source.contract, source.contract.window
    if contract.precision in HALF:
        raise UsageError(f"{source.path}: Deepness needs FP32 inputs; give the FP32 or INT8 file")
    size = _pixel_size(source, options)
    model = load_graph(source)
    add_constants(model, first=[0], heights=[3], end=[4], band_axis=[1])
    before = [
        make_node("Slice", ["bands", "first", "heights", "band_axis"], ["image"]),
        make_node("Slice", ["bands", "heights", "end", "band_axis"], ["dsm"]),
    ]
    if contract.image.full_scale != FACTOR:
        before[0].output[0] = "colours"
        add_constants(model, full_scale=FACTOR / contract.image.full_scale)
        before.append(make_node("Mul", ["colours", "full_scale"], ["image"]))
    add_nodes(model, before, [make_node("Softmax", ["logits"], ["probabilities"], axis=1)])
    kind = onnx.TensorProto.FLOAT
    replace_values(model.graph.input, ("bands", kind, (4, side, side)))
    replace_values(model.graph.output, ("probabilities", kind, (len(contract.classes), side, side)))
    model.ir_version = min(model.ir_version, IR_VERSION)
    # Without the contract, which describes two inputs.
    facts = {
        "model_type": "Segmentor",
        "class_names": {str(index): name for index, name in enumerate(contract.classes.names)},
        "resolution": round(100 * size, 6),  # centimetres a pixel
        "tile_size": side,
        "tiles_size": side,
        "tiles_overlap": OVERLAP,
        "seg_thresh": 0.0,
        "seg_small_segment": 0,
    }
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, {name: json.dumps(fact) for name, fact in facts.items()})
    save_graph(model, source, folder / source.path.name)


def next_steps(source: Source, folder: Path) -> list[str]:
    """Return the commands that make the layer of four bands which the model takes."""
    rule, deep = source.contract.dsm, source.contract.image.full_scale > FACTOR
    low, high = (f"{rule.low:g}", f"{rule.high:g}") if rule.name == "range" else ("LOW", "HIGH")
    scaled = f"-ot {'UInt16' if deep else 'Byte'} -scale {low} {high} 0 255 -a_nodata none"
    where = LOW_HIGH.get(rule.name, "").format(low=rule.low, high=rule.high)
    # A band flagged as alpha would mask the others where the ground is lowest.
    return [
        f"gdal_translate {scaled} heights.tif band4.tif{where and f'  # {where}'}",
        "gdal_merge.py -separate -co ALPHA=NO -o stack.tif ortho.tif band4.tif",
        f"QGIS, Deepness: layer stack.tif, model {folder / source.path.name}",
    ]


def _pixel_size(source: Source, options: InterfaceOptions) -> float:
    stated, given = source.contract.pixel_size, options.pixel_size
    if stated is not None and given not in (None, stated):
        raise UsageError(
            f"{source.path}: states pixels of {stated:g} m, not {given:g} m; leave --pixel-size out"
        )
    size = stated or given
    if size is None:
        raise UsageError(
            f"{source.path}: does not state the pixel size that Deepness needs; give that of the "
            "training images in metres with --pixel-size"
        )
    return size
