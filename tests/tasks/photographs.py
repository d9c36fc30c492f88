"""A VOC folder of drawn photographs: one colored square per class at a known place, which a small network learns."""

from pathlib import Path

import numpy as np
from PIL import Image

COLORS = {"blue": (30, 60, 230), "green": (40, 200, 60), "red": (230, 40, 40)}
SIZE = (24, 36)
"""Height and width: not square, so that a crop moves boxes."""


def write_photographs(root: Path, n_train: int = 48, n_test: int = 16, seed: int = 0) -> Path:
    """Write images of gray noise with one square for each of their classes, of 0 to 3, and the squares as boxes."""
    generator = np.random.default_rng(seed)
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    names = [f"{i:03d}" for i in range(n_train + n_test)]
    for i, name in enumerate(names):
        pixels = generator.integers(90, 130, (*SIZE, 1), dtype=np.uint8).repeat(3, 2)
        objects = ""
        places = generator.permutation(3)
        chosen = [color for place, color in enumerate(COLORS) if (i + place) % 4 == 0 or generator.random() < 0.35]
        for place, color in zip(places, chosen, strict=False):
            left, top, side = 1 + 12 * int(place), int(generator.integers(1, 12)), 10
            pixels[top : top + side, left : left + side] = COLORS[color]
            objects += (
                f"<object><name>{color}</name><difficult>0</difficult><bndbox><xmin>{left + 1}</xmin><ymin>{top + 1}"
                f"</ymin><xmax>{left + side}</xmax><ymax>{top + side}</ymax></bndbox></object>"
            )
        Image.fromarray(pixels).save(root / "JPEGImages" / f"{name}.jpg", quality=95)
        size = f"<size><width>{SIZE[1]}</width><height>{SIZE[0]}</height></size>"
        (root / "Annotations" / f"{name}.xml").write_text(f"<annotation>{size}{objects}</annotation>")
    lists = {"trainval": names[:n_train], "test": names[n_train:]}
    for part, stems in lists.items():
        (root / "ImageSets" / "Main" / f"{part}.txt").write_text("\n".join(stems))
    return root
