"""Photographs' stand-in where there are none: colored squares on noise, several an image, with boxes, as a VOC zip."""

import io
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from eke.files import locked, write_atomic

COLORS = {"blue": (40, 60, 220), "green": (40, 200, 60), "red": (220, 50, 40)}
SIDE = 32


def squares(path: Path, n_train: int, n_test: int) -> Path:
    """Write the zip, or find it. Equal arguments give equal bytes of pixels and lists.

    Args:
        path: of the zip.
        n_train: images in the list trainval.
        n_test: images in the list test.
    """
    with locked(path.with_suffix(".lock")):
        if not path.exists():
            write_atomic(path, lambda temporary: _write(temporary, n_train, n_test))
    return path


def _write(path: Path, n_train: int, n_test: int) -> None:
    names = [f"{i:06d}" for i in range(n_train + n_test)]
    generator = np.random.default_rng(0)
    with zipfile.ZipFile(path, "w") as file:

        def add(name: str, content: bytes) -> None:
            file.writestr(zipfile.ZipInfo(name), content)  # without the time of day: the bytes are hashed

        for name in names:
            pixels, objects = _image(generator)
            written = io.BytesIO()
            Image.fromarray(pixels).save(written, "png")
            add(f"JPEGImages/{name}.png", written.getvalue())
            add(f"Annotations/{name}.xml", f"<annotation>{objects}</annotation>".encode())
        add("ImageSets/Main/trainval.txt", "\n".join(names[:n_train]).encode())
        add("ImageSets/Main/test.txt", "\n".join(names[n_train:]).encode())


def _image(generator: np.random.Generator) -> tuple[np.ndarray, str]:
    """Draw one or two squares of different colors, in quarters of their own."""
    pixels = generator.integers(90, 150, (SIDE, SIDE, 3)).astype(np.uint8)
    half, objects = SIDE // 2, ""
    colors = generator.permutation(list(COLORS))[: generator.integers(1, 3)]
    for color, quarter in zip(colors, generator.permutation(4), strict=False):
        side = int(generator.integers(10, half))
        y, x = (half * int(part) + int(generator.integers(half - side + 1)) for part in divmod(int(quarter), 2))
        pixels[y : y + side, x : x + side] = COLORS[str(color)]
        ends = f"<xmin>{x + 1}</xmin><ymin>{y + 1}</ymin><xmax>{x + side}</xmax><ymax>{y + side}</ymax>"
        objects += f"<object><name>{color}</name><bndbox>{ends}</bndbox></object>"
    return pixels, objects
