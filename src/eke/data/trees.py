"""A folder or a zip seen alike: names of files, names of folders, and a way to read them."""

import os
import stat
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from eke.data.contents import FileContents, ZipContents
from eke.errors import DataError

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".bmp", ".dib", ".gif", ".tif", ".tiff", ".webp"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".tga", ".avif"),
)
VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm")
MAX_MEMBER = 4 * 2**30
"""Largest declared size of one member of a zip."""
MAX_RATE, FREE_BYTES = 100, 2**30
"""A zip may declare FREE_BYTES plus MAX_RATE times its size; photos hardly shrink; a bomb declares more."""


class Stamp(NamedTuple):
    """What must be unchanged for a file to count as unchanged."""

    size: int
    changed_ns: int


@dataclass(frozen=True)
class Tree:
    """Files of a folder or zip, hidden ones left out."""

    path: Path
    names: tuple[str, ...]
    """Sorted, relative, with forward slashes."""
    folders: tuple[str, ...]
    """Folders, empty ones too, sorted."""
    stamps: dict[str, Stamp]
    prefix: str = ""
    """The one folder that everything in a zip lies in, with its slash; left out of `names`."""
    is_zip: bool = False

    def contents(self, names: Sequence[str]) -> FileContents | ZipContents:
        """Return the named files as rows."""
        if self.is_zip:
            return ZipContents(self.path, [self.prefix + name for name in names])
        return FileContents(self.path, names)

    def read(self, name: str) -> bytes:
        """Return the bytes of one file."""
        return self.contents([name]).read(0)


def is_image(name: str) -> bool:
    """Tell by its ending whether a file should be an image."""
    return PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES


def is_video(name: str) -> bool:
    """Tell by its ending whether a file should be a video."""
    return PurePosixPath(name).suffix.lower() in VIDEO_SUFFIXES


def is_media(name: str) -> bool:
    """Tell by its ending whether a file should be an image or a video."""
    return is_image(name) or is_video(name)


def open_folder(path: Path) -> Tree:
    """List a folder, following links to folders (each folder once, so that loops end)."""
    names, folders, stamps = [], [], {}
    seen: set[tuple[int, int]] = set()
    for here, below, files in os.walk(path, followlinks=True):
        status = os.stat(here)  # noqa: PTH116 (a Path for each of many folders is slow)
        if (status.st_dev, status.st_ino) in seen:
            below.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        below[:] = [name for name in below if not _hidden(name)]
        inside = os.path.relpath(here, path).replace(os.sep, "/") + "/"
        inside = "" if inside == "./" else inside
        folders += [inside + name for name in below]
        for name in files:
            if not _hidden(name):
                found = _stamp(f"{here}/{name}")
                if found:
                    names.append(inside + name)
                    stamps[inside + name] = found
    return Tree(path, tuple(sorted(names)), tuple(sorted(folders)), stamps)


def _stamp(path: str) -> Stamp | None:
    try:
        status = os.stat(path)  # noqa: PTH116
    except OSError:  # a link that leads nowhere
        return None
    return Stamp(status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else None


def _hidden(name: str) -> bool:
    return name.startswith(".") or name in {"__MACOSX", "Thumbs.db", "desktop.ini", "__pycache__"}


def open_zip(path: Path) -> Tree:
    """List a zip.

    Raises:
        DataError: it is no zip, a member points outside or is a link, or declares the size of a bomb.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError) as error:
        raise DataError(f"{path} cannot be read as a zip: {error}. Pack or download it again.") from None
    _refuse_outsiders(path, members)
    _refuse_bombs(path, members)
    visible = [member for member in members if not any(map(_hidden, PurePosixPath(member.filename).parts))]
    prefix = _common_folder([member.filename for member in visible])
    changed = path.stat().st_mtime_ns
    stamps, folders = {}, set()
    for member in visible:
        name = member.filename[len(prefix) :]
        parents = [str(parent) for parent in PurePosixPath(name).parents if str(parent) != "."]
        folders.update(parents)
        if member.is_dir():
            folders.add(name.rstrip("/"))
        else:
            stamps[name] = Stamp(member.file_size, changed ^ member.CRC)
    return Tree(path, tuple(sorted(stamps)), tuple(sorted(folders - {""})), stamps, prefix, is_zip=True)


def _refuse_outsiders(path: Path, members: Sequence[zipfile.ZipInfo]) -> None:
    for member in members:
        parts = member.filename.replace("\\", "/").split("/")
        outside = ".." in parts or parts[0] == "" or parts[0].endswith(":")
        if outside or stat.S_ISLNK(member.external_attr >> 16):
            what = "points outside the zip" if outside else "is a link"
            raise DataError(f"{path}: the member {member.filename!r} {what}. Pack the zip again without it.")


def _refuse_bombs(path: Path, members: Sequence[zipfile.ZipInfo]) -> None:
    declared = sum(member.file_size for member in members)
    largest = max((member.file_size for member in members), default=0)
    allowed = FREE_BYTES + MAX_RATE * path.stat().st_size
    if declared > allowed or largest > MAX_MEMBER:
        raise DataError(
            f"{path} ({path.stat().st_size / 2**20:.1f} MiB) would unpack to {declared / 2**30:.1f} GiB, its "
            f"largest member to {largest / 2**30:.1f} GiB: refused as a zip bomb. If you trust it, unpack it."
        )


def _common_folder(names: Sequence[str]) -> str:
    """Return the one folder that all members lie in, with its slash; "" where there is none."""
    tops = {name.split("/", 1)[0] for name in names}
    return f"{tops.pop()}/" if len(tops) == 1 and all("/" in name for name in names) else ""
