"""Write images with boxes as a PASCAL VOC zip, whose bytes depend on its content alone."""

import io
import zipfile
from collections.abc import Iterable, Mapping, Sequence
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

    def write(temporary: Path) -> None:
        with zipfile.ZipFile(temporary, "w") as file:

            def add(name: str, content: bytes) -> None:
                file.writestr(zipfile.ZipInfo(name), content)  # without the time of day

            for name, pixels, boxes in photos:
                written = io.BytesIO()
                Image.fromarray(pixels).save(written, "png")
                add(f"JPEGImages/{name}.png", written.getvalue())
                objects = "".join(map(_object, boxes))
                add(f"Annotations/{name}.xml", f"<annotation>{objects}</annotation>".encode())
            for part, names in lists.items():
                add(f"ImageSets/Main/{part}.txt", "\n".join(names).encode())

    write_atomic(path, write)


def _object(box: Box) -> str:
    """Count as VOC does: from 1, the last pixel inside."""
    ends = {"xmin": box.left + 1, "ymin": box.top + 1, "xmax": box.right, "ymax": box.bottom}
    box_words = "".join(f"<{end}>{value:g}</{end}>" for end, value in ends.items())
    return f"<object><name>{escape(box.name)}</name><bndbox>{box_words}</bndbox></object>"
