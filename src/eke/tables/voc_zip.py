"""Write images as zips, those with boxes as PASCAL VOC has them; their bytes depend on the content alone."""

import io
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
from PIL import Image

from eke.data.images import Box
from eke.files import write_atomic

Photo = tuple[str, np.ndarray, Sequence[Box]]
"""Name without ending, (H, W, 3) uint8, and boxes; an image has the classes of its boxes."""


def write_voc_zip(path: Path, photos: Iterable[Photo], lists: Mapping[str, Sequence[str]]) -> None:
    """Write the zip atomically.

    Args:
        path: of the zip.
        photos: the images, whose boxes are whole pixels.
        lists: trainval, test ... -> names of images.
    """

    def write(file: zipfile.ZipFile) -> None:
        for name, pixels, boxes in photos:
            add_png(file, f"JPEGImages/{name}.png", pixels)
            objects = "".join(map(_object, boxes))
            _add(file, f"Annotations/{name}.xml", f"<annotation>{objects}</annotation>".encode())
        for part, names in lists.items():
            _add(file, f"ImageSets/Main/{part}.txt", "\n".join(names).encode())

    write_zip(path, write)


def write_zip(path: Path, write: Callable[[zipfile.ZipFile], None]) -> None:
    """Write a zip atomically; `write` fills it."""

    def fill(temporary: Path) -> None:
        with zipfile.ZipFile(temporary, "w") as file:
            write(file)

    write_atomic(path, fill)


def add_png(file: zipfile.ZipFile, name: str, pixels: np.ndarray) -> None:
    """Add an image, (H, W, 3) uint8."""
    written = io.BytesIO()
    Image.fromarray(pixels).save(written, "png")
    _add(file, name, written.getvalue())


def _add(file: zipfile.ZipFile, name: str, content: bytes) -> None:
    file.writestr(zipfile.ZipInfo(name), content)  # without the time of day


def _object(box: Box) -> str:
    """Count as VOC does: from 1, the last pixel inside."""
    ends = {"xmin": box.left + 1, "ymin": box.top + 1, "xmax": box.right, "ymax": box.bottom}
    box_words = "".join(f"<{end}>{value:g}</{end}>" for end, value in ends.items())
    return f"<object><name>{escape(box.name)}</name><bndbox>{box_words}</bndbox></object>"
