"""A small PASCAL VOC folder, written for tests."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.data.pictures import write

Boxes = Sequence[tuple[str, float, float, float, float]]


def xml_of(boxes: Boxes, size: tuple[int, int] = (10, 12), difficult: Sequence[int] = ()) -> str:
    """Write boxes as VOC does: pixels counted from 1, the last one inside."""
    objects = [
        f"<object><name>{name}</name><difficult>{int(place in difficult)}</difficult><bndbox><xmin>{left}</xmin>"
        f"<ymin>{top}</ymin><xmax>{right}</xmax><ymax>{bottom}</ymax></bndbox></object>"
        for place, (name, left, top, right, bottom) in enumerate(boxes)
    ]
    width, height = size
    shape = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    return f"<annotation><filename>x.jpg</filename>{shape}{''.join(objects)}</annotation>"


def write_voc(
    root: Path, images: Mapping[str, Boxes | str | None], lists: Mapping[str, Sequence[str]] | None = None
) -> Path:
    """Write images of 10 x 12 pixels (width, height) with their boxes, a text as XML, or no file for None."""
    for seed, (stem, boxes) in enumerate(images.items()):
        write(root / "JPEGImages" / f"{stem}.jpg", seed, "JPEG")
        if boxes is not None:
            (root / "Annotations").mkdir(exist_ok=True)
            text = boxes if isinstance(boxes, str) else xml_of(boxes)
            (root / "Annotations" / f"{stem}.xml").write_text(text, encoding="utf-8")
    for name, stems in (lists or {}).items():
        folder = root / "ImageSets" / "Main"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.txt").write_text("".join(f"{stem}\n" for stem in stems), encoding="utf-8")
    return root
