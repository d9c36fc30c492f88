"""What stands for photographs and clips where there are none: colored squares on noise, as zips of equal bytes."""

import zipfile
from pathlib import Path

import numpy as np

from eke.data.images import Box
from eke.files import locked
from eke.tables.voc_zip import Photo, add_png, write_voc_zip, write_zip

COLORS = {"blue": (40, 60, 220), "green": (40, 200, 60), "red": (220, 50, 40)}
SIDE = 32


def squares(path: Path, n_train: int, n_test: int) -> Path:
    """Write the zip, or find it. Equal arguments give equal bytes.

    Args:
        path: of the zip.
        n_train: images in the list trainval.
        n_test: images in the list test.
    """
    names = [f"{i:06d}" for i in range(n_train + n_test)]
    generator = np.random.default_rng(0)
    with locked(path.with_suffix(".lock")):
        if not path.exists():
            lists = {"trainval": names[:n_train], "test": names[n_train:]}
            write_voc_zip(path, (_photo(name, generator) for name in names), lists)
    return path


def moving_squares(path: Path, n_train: int, n_test: int, n_frames: int = 4) -> Path:
    """Write clips as folders of frames, `train/red/clip_000/frame_000.png`, or find them.

    Args:
        path: of the zip.
        n_train: clips of each class to train on.
        n_test: clips of each class to test on.
        n_frames: of a clip.
    """
    generator = np.random.default_rng(0)

    def write(file: zipfile.ZipFile) -> None:
        for color in COLORS:
            for clip in range(n_train + n_test):
                folder = f"{'train' if clip < n_train else 'test'}/{color}/clip_{clip:03d}"
                y, x = generator.integers(0, 5, 2)
                for frame in range(n_frames):
                    pixels = generator.integers(90, 150, (SIDE // 2, SIDE // 2, 3)).astype(np.uint8)
                    pixels[y : y + 8, x + frame : x + frame + 8] = COLORS[color]
                    add_png(file, f"{folder}/frame_{frame:03d}.png", pixels)

    with locked(path.with_suffix(".lock")):
        if not path.exists():
            write_zip(path, write)
    return path


def _photo(name: str, generator: np.random.Generator) -> Photo:
    """Draw one or two squares of different colors, in quarters of their own."""
    pixels = generator.integers(90, 150, (SIDE, SIDE, 3)).astype(np.uint8)
    half, boxes = SIDE // 2, []
    colors = generator.permutation(list(COLORS))[: generator.integers(1, 3)]
    for color, quarter in zip(colors, generator.permutation(4), strict=False):
        side = int(generator.integers(10, half))
        y, x = (half * int(part) + int(generator.integers(half - side + 1)) for part in divmod(int(quarter), 2))
        pixels[y : y + side, x : x + side] = COLORS[str(color)]
        boxes.append(Box(str(color), x, y, x + side, y + side))
    return name, pixels, boxes
