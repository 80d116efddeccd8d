"""Synthetic town scenes to try everything on: image, height model and label, made from a seed.

They look like aerial images with 0.25 m pixels but are no benchmark: a score on them shows that
the tools work, not how well a network sees.
"""

from mfnet.synthetic.town import MIN_SIZE, NODATA, PIXEL, TOWN, TownScene, draw_town, write_town

__all__ = ["MIN_SIZE", "NODATA", "PIXEL", "TOWN", "TownScene", "draw_town", "write_town"]
