"""Small images for tests, made by Pillow."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def noise(seed: int, size: tuple[int, int] = (12, 10), channels: int = 3) -> np.ndarray:
    """uint8 (H, W, C), smooth enough that JPEG keeps it."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, channels), dtype=np.uint8)
    grey = channels == 1
    image = Image.fromarray(coarse[..., 0] if grey else coarse).resize((size[1], size[0]), Image.Resampling.BICUBIC)
    pixels = np.array(image)
    return pixels[..., None] if grey else pixels


def encoded(pixels: np.ndarray | Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels.squeeze())
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def write(path: Path, seed: int, kind: str = "PNG") -> Path:
    """Write the image of a seed, making folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(noise(seed), kind))
    return path


def class_folders(root: Path, counts: dict[str, int], first_seed: int = 0) -> Path:
    """Write `counts` images per class folder, each from a seed of its own."""
    seed = first_seed
    for name, count in counts.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for place in range(count):
            write(root / name / f"{place:03d}.png", seed)
            seed += 1
    return root
