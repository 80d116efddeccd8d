"""Styles that QGIS applies by itself when it opens a map: `.qml` files, and rows of a GeoPackage.

A `.qml` belongs to the files of its stem, so one document styles `NAME.tif` and the polygons
`NAME.fgb`: a raster layer reads its `pipe`, a vector layer its `renderer-v2`. The elements are
those that QGIS 3.22 writes.
"""

from __future__ import annotations

from xml.sax.saxutils import quoteattr

from mfnet_runtime.labels import ClassTable, Colour

# viridis: even steps to the eye, also to the colour-blind and in print
RAMP = ((0, "#440154"), (25, "#3b528b"), (50, "#21918c"), (75, "#5ec962"), (100, "#fde725"))


def class_style(classes: ClassTable) -> str:
    """Return the style of a class map and its polygons: a legend of exactly the classes."""
    table = list(zip(classes.names, classes.colours, strict=True))
    palette = [
        f'<paletteEntry value="{index}" label={quoteattr(name)} color="{_hex(colour)}" '
        'alpha="255"/>'
        for index, (name, colour) in enumerate(table)
    ]
    categories = [
        f'<category value={quoteattr(name)} type="string" label={quoteattr(name)} '
        f'symbol="{index}" render="true"/>'
        for index, name in enumerate(classes.names)
    ]
    symbols = [_fill(index, colour) for index, (_, colour) in enumerate(table)]
    return _document(
        _pipe(
            '<rasterrenderer type="paletted" band="1" opacity="1" alphaBand="-1">',
            *("<colorPalette>", *palette, "</colorPalette>"),
        ),
        '<renderer-v2 type="categorizedSymbol" attr="name" forceraster="0" symbollevels="0">',
        *("<categories>", *categories, "</categories>"),
        *("<symbols>", *symbols, "</symbols>"),
        "</renderer-v2>",
        "<layerGeometryType>2</layerGeometryType>",
    )


def percent_style() -> str:
    """Return the style of a map of percentages: one ramp from 0 to 100 for all scenes."""
    items = [
        f'<item value="{value}" label="{value} %" color="{colour}" alpha="255"/>'
        for value, colour in RAMP
    ]
    return _document(
        _pipe(
            '<rasterrenderer type="singlebandpseudocolor" band="1" opacity="1" alphaBand="-1" '
            'classificationMin="0" classificationMax="100">',
            "<rastershader>",
            '<colorrampshader colorRampType="INTERPOLATED" classificationMode="1" clip="0" '
            'minimumValue="0" maximumValue="100">',
            *items,
            "</colorrampshader>",
            "</rastershader>",
        )
    )


def _document(*parts: str) -> str:
    return "\n".join(
        (
            "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>",
            '<qgis version="3.22.0" styleCategories="Symbology">',
            *parts,
            "</qgis>\n",
        )
    )


def _pipe(*renderer: str) -> str:
    return "\n".join(("<pipe>", *renderer, "</rasterrenderer>", "</pipe>"))


def _fill(index: int, colour: Colour) -> str:
    """Return the symbol of a class: its colour, outlined in a darker one."""
    fill, outline = (",".join(map(str, (*rgb, 255))) for rgb in (colour, [c // 2 for c in colour]))
    return (
        f'<symbol name="{index}" type="fill" alpha="1" clip_to_extent="1" force_rhr="0">'
        '<layer class="SimpleFill" enabled="1" locked="0" pass="0"><Option type="Map">'
        f'<Option type="QString" name="color" value="{fill}"/>'
        '<Option type="QString" name="style" value="solid"/>'
        f'<Option type="QString" name="outline_color" value="{outline}"/>'
        '<Option type="QString" name="outline_style" value="solid"/>'
        '<Option type="QString" name="outline_width" value="0.1"/>'
        '<Option type="QString" name="outline_width_unit" value="MM"/>'
        "</Option></layer></symbol>"
    )


def _hex(colour: Colour) -> str:
    return "#" + bytes(colour).hex()
