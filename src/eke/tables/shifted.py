"""Another place: darker, blurred copies of a source's test images, cut into two halves."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from eke.data.decode import decode
from eke.data.dividing import order_of
from eke.data.images import ImageSet, frames_of
from eke.data.sources import open_images
from eke.files import locked
from eke.progress import Progress
from eke.tables.voc_zip import Photo, write_voc_zip

LIGHT = 0.45
BLUR_RATE = 1 / 100
"""Radius of the blur, of the longer side."""


def shifted(source: str, seen: Path, measured: Path, progress: Progress) -> None:
    """Write both halves as VOC zips, or find them. The halves follow the images' bytes.

    Args:
        source: images with boxes, of which some are called test.
        seen: zip of the half that may be seen without labels.
        measured: zip of the other half.
        progress: shows the images.
    """
    with locked(measured.with_suffix(".lock")):
        if seen.exists() and measured.exists():
            return
        images = open_images(source)
        words = images.split or ()
        tests = images.select(row for row, word in enumerate(words) if word == "test")
        ranked = np.argsort(order_of(tests.ids, 0)).tolist()
        half = len(ranked) // 2
        with progress("making another place", len(ranked)) as advance:
            for path, part, rows in ((seen, "trainval", ranked[:half]), (measured, "test", ranked[half:])):
                names = [f"{row:06d}" for row in sorted(rows)]
                write_voc_zip(path, _photos(tests, sorted(rows)), {part: names})
                advance(len(rows))


def _photos(images: ImageSet, rows: list[int]) -> Iterator[Photo]:
    assert images.boxes is not None
    for row in rows:
        image = Image.fromarray(decode(frames_of(images.read(row))[0], channels=3))
        blurred = image.filter(ImageFilter.GaussianBlur(BLUR_RATE * max(image.size)))
        yield f"{row:06d}", (LIGHT * np.asarray(blurred, np.float64)).round().astype(np.uint8), images.boxes[row]
