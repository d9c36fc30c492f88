"""Whatever lies in a folder: a clear error, or a named image set aside, and nothing else lost."""

import stat
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures import class_folders, encoded, noise, write
from PIL import Image

from eke.data import trees
from eke.data.checks import check_images
from eke.data.sources import open_images
from eke.data.splits import DataOptions, make_split
from eke.errors import DataError


def png_bomb(side: int) -> bytes:
    head = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", len(head) - 4) + head + struct.pack(">I", zlib.crc32(head))
    return start + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))


@pytest.fixture
def menagerie(tmp_path: Path) -> Path:
    """Two classes of good images with every kind of strange file between them."""
    root = class_folders(tmp_path / "images with ünïcode", {"cat": 4, "dog": 4})
    cat = root / "cat"
    photo = encoded(noise(50, (64, 64)), "JPEG")
    (cat / "truncated.jpg").write_bytes(photo[: len(photo) // 2])
    (cat / "zero byte.jpg").write_bytes(b"")
    (root / "dog" / "zero byte, too.jpg").write_bytes(b"")
    (cat / "text.jpg").write_text("I am no picture.\n")
    (cat / "bomb.png").write_bytes(png_bomb(20_000))
    (cat / "cmyk.jpg").write_bytes(encoded(Image.fromarray(noise(51)).convert("CMYK"), "JPEG"))
    (cat / "deep.png").write_bytes(encoded(Image.fromarray(np.arange(100, dtype=np.uint16).reshape(10, 10) * 600)))
    (cat / "palette.gif").write_bytes(encoded(Image.fromarray(noise(52)).quantize(8), "GIF"))
    frames = [Image.fromarray(noise(seed)) for seed in (53, 54)]
    frames[0].save(cat / "animated.gif", save_all=True, append_images=frames[1:])
    exif = Image.Exif()
    exif[0x0112] = 6
    (cat / "rotated é.jpg").write_bytes(encoded(noise(55, (20, 12)), "JPEG", exif=exif))
    (cat / "notes.txt").write_text("not an image, and not named like one")
    (cat / "dangling.png").symlink_to(root / "nowhere.png")
    return root


def test_strange_files_are_named_and_the_rest_is_used(menagerie: Path) -> None:
    found = open_images(menagerie)
    checked = check_images(found)
    named = {Path(problem.path).name: problem.kind for problem in (*found.problems, *checked.problems)}
    assert named == {
        "truncated.jpg": "truncated",
        "zero byte.jpg": "empty",
        "zero byte, too.jpg": "empty",
        "text.jpg": "not an image",
        "bomb.png": "too large",
        "notes.txt": "ignored",
    }
    headers = dict(zip(found.paths, checked.headers, strict=True))
    good = [path for path, header in headers.items() if header is not None]
    assert len(good) == 8 + 5
    assert {header.mode for header in checked.headers if header} >= {"CMYK", "I;16", "P", "RGB"}
    animated = headers["cat/animated.gif"]
    rotated = headers["cat/rotated é.jpg"]
    assert animated is not None
    assert rotated is not None
    assert animated.frames == 2
    assert (rotated.height, rotated.width, rotated.rotated) == (12, 20, True)
    assert all(problem.detail and problem.remedy for problem in (*found.problems, *checked.problems))


def test_a_file_that_cannot_be_read_does_not_end_the_rest(menagerie: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Path.read_bytes

    def read_bytes(path: Path) -> bytes:
        if path.name == "001.png":
            raise PermissionError(13, "Permission denied")
        return whole(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    found = open_images(menagerie)
    unreadable = [problem for problem in found.problems if problem.kind == "unreadable"]
    assert [problem.path for problem in unreadable] == ["cat/001.png", "dog/001.png"]
    assert "Permission denied" in unreadable[0].detail
    assert "cat/000.png" in found.paths


def test_a_file_that_vanishes_between_opening_and_decoding_is_named(menagerie: Path) -> None:
    found = open_images(menagerie)
    (menagerie / "cat" / "000.png").unlink()
    assert ("cat/000.png", "unreadable") in [(problem.path, problem.kind) for problem in check_images(found).problems]


@pytest.mark.parametrize("name", ["../outside.png", "/etc/outside.png", "a/../../b.png", "C:\\x.png", "..\\x.png"])
def test_zip_members_that_point_outside_are_refused(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.writestr("cat/1.png", encoded(noise(0)))
        archive.writestr(name, encoded(noise(1)))
    with pytest.raises(DataError, match="points outside"):
        open_images(tmp_path / "z.zip")


def test_zip_members_that_are_links_are_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("cat/2.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.writestr("cat/1.png", encoded(noise(0)))
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(DataError, match="is a link"):
        open_images(tmp_path / "z.zip")


def test_a_zip_bomb_is_refused_by_its_declared_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "z.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("cat/1.png", bytes(10_000_000))
    assert open_images(tmp_path / "z.zip").ids
    monkeypatch.setattr(trees, "FREE_BYTES", 2**20)
    with pytest.raises(DataError, match="bomb"):
        open_images(tmp_path / "z.zip")


def test_damaged_containers_are_errors_and_damaged_members_are_problems(tmp_path: Path) -> None:
    for name in ("a.zip", "a.parquet", "a.npz"):
        (tmp_path / name).write_bytes(b"this is something else")
        with pytest.raises(DataError, match="cannot be read"):
            open_images(tmp_path / name)
    path = tmp_path / "z.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for seed in range(3):
            archive.writestr(f"cat/{seed}.png", encoded(noise(seed)))
    content = bytearray(path.read_bytes())
    content[60] ^= 0xFF  # inside the first member: its checksum no longer fits
    path.write_bytes(content)
    found = open_images(path)
    assert len(found) == 2
    assert [problem.kind for problem in found.problems] == ["unreadable"]


def test_npz_with_pickled_objects_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=np.array([object()], dtype=object))
    with pytest.raises(DataError, match="cannot be read"):
        open_images(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", pixels=np.zeros(3))
    with pytest.raises(DataError, match="images and labels"):
        open_images(tmp_path / "b.npz")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda root: root / "nothing here", "no file or folder"),
        (lambda root: root, "no image"),
        (lambda root: write(root / "a.docx", 0), "not a source"),
    ],
)
def test_sources_that_are_none(tmp_path: Path, make: Any, says: str) -> None:
    with pytest.raises(DataError, match=says):
        open_images(make(tmp_path))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("path,label\n", "no image"),
        ("image,label\na.png,cat\n", "no column 'path'"),
        ("path,label\nx.png,cat\ny.png,dog\n", "None of the 2 images"),
        ("path,label,split\na.png,cat,trian\n", "Did you mean 'train'"),
        ("", "empty"),
    ],
)
def test_tables_that_cannot_be_right(tmp_path: Path, text: str, says: str) -> None:
    write(tmp_path / "a.png", 0)
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(DataError, match=says):
        open_images(tmp_path / "list.csv")


def test_jsonl_errors_name_the_line(tmp_path: Path) -> None:
    for second in ("{", "[1]"):
        (tmp_path / "l.jsonl").write_text(f'{{"path": "a.png"}}\n{second}\n')
        with pytest.raises(DataError, match="line 2"):
            open_images(tmp_path / "l.jsonl")


def test_two_tables_of_labels_are_not_guessed_between(tmp_path: Path) -> None:
    write(tmp_path / "a.png", 0)
    for name in ("labels.csv", "labels.jsonl"):
        (tmp_path / name).write_text("path,label\n")
    with pytest.raises(DataError, match="several tables"):
        open_images(tmp_path)


def test_no_labels_and_a_binary_task(tmp_path: Path) -> None:
    for seed in range(4):
        write(tmp_path / "flat" / f"{seed}.png", seed)
    flat = open_images(tmp_path / "flat")
    assert flat.classes == ()
    assert flat.labels.tolist() == [-1] * 4
    with pytest.raises(DataError, match="no labeled image"):
        make_split(flat, None, DataOptions(), 0)
    binary = open_images(class_folders(tmp_path / "two", {"no": 5, "yes": 5}))
    split = make_split(binary, None, DataOptions(), 0)
    assert (len(split.labeled), len(split.validation)) == (8, 2)


def test_links_that_go_in_circles_end(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "r", {"a": 1, "b": 1})
    (root / "a" / "again").symlink_to(root)
    found = open_images(root)
    assert len(found) == 2
    assert found.problems == ()
