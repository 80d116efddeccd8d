"""Synthetic town scenes to try everything on: image, height model and label, made from a seed.

    python -m mfnet.synthetic OUT --train 3 --test 1

They look like 0.25 m aerial images but are no benchmark: a score on them says that the tools
work, not how well a network sees. Knows no torch.
"""

from mfnet.synthetic.scene import MIN_SIZE, NODATA, PIXEL, TOWN, TownScene, draw_town, write_town

__all__ = ["MIN_SIZE", "NODATA", "PIXEL", "TOWN", "TownScene", "draw_town", "write_town"]
