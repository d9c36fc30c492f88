"""The pixel cache: every image or clip decoded once, at the working size, in one uint8 file that batches read from.

Rows are images in the order of their image set, C*H*W bytes each, or clips, C*T*H*W bytes each. Reading is `preadv` of
a row into a buffer, so a process that reads from 100 GB holds one batch; a memory map would show up as memory of its
own.
"""

import errno
import math
import os
import shutil
import weakref
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from eke.config import fingerprint
from eke.data.decoding import DECODER_VERSION, BadImage, Work, decode_all
from eke.data.images import ImageSet
from eke.errors import DataError
from eke.files import locked
from eke.progress import Progress, silent

SMALL = 256 * 2**20
"""Bytes up to which a cache is simply held in memory."""
DEVICE_RATE = 0.5
"""Part of an accelerator's free memory that resident pixels may take; the rest is for training."""


class Pixels(Protocol):
    """Where a stream reads images: uint8 (C, H, W) each, by row; or clips (C, T, H, W)."""

    shape: tuple[int, ...]
    device: torch.device
    """Where `read` leaves pixels."""

    def __len__(self) -> int: ...

    def read(self, rows: Sequence[int] | Tensor, out: Tensor | None = None) -> Tensor:
        """Return rows as uint8 (n, C, [T,] H, W), in `out` where given."""
        ...


class ResidentPixels:
    """Images held as one uint8 tensor (N, C, [T,] H, W), in memory or on an accelerator."""

    def __init__(self, pixels: Tensor) -> None:
        self.pixels = pixels
        self.device = pixels.device
        self.shape = tuple(pixels.shape[1:])

    def __len__(self) -> int:
        return len(self.pixels)

    def read(self, rows: Sequence[int] | Tensor, out: Tensor | None = None) -> Tensor:
        """Return rows as uint8 (n, C, [T,] H, W), in `out` where given."""
        index = torch.as_tensor(rows).to(self.device, non_blocking=True)
        return torch.index_select(self.pixels, 0, index, out=out)


class ChosenPixels:
    """Some images of others, counted anew.

    Args:
        pixels: the others.
        rows: which of them.
    """

    def __init__(self, pixels: Pixels, rows: Sequence[int]) -> None:
        self.pixels, self.rows = pixels, torch.as_tensor(rows)
        self.shape, self.device = pixels.shape, pixels.device

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, rows: Sequence[int] | Tensor, out: Tensor | None = None) -> Tensor:
        """Return rows as uint8 (n, C, H, W), in `out` where given."""
        return self.pixels.read(self.rows[torch.as_tensor(rows)], out)


class PixelCache:
    """Images of one image set on disk, read by row.

    Args:
        path: the file that `build_cache` finished; its index lies beside it.

    """

    device = torch.device("cpu")

    def __init__(self, path: Path) -> None:
        damaged = DataError(f"The pixel cache {path} is damaged. Delete it; it is built again by itself.")
        try:
            with np.load(_index_path(path), allow_pickle=False) as file:
                index = dict(file)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile):
            raise damaged from None
        self.path = path
        self.affine: Tensor = torch.from_numpy(index["affine"])
        """(N, 2, 3) float32: pixel-edge coordinates of the source image to those of the cached one."""
        bad = zip(index["bad_rows"].tolist(), index["bad"].tolist(), strict=True)
        self.problems = [BadImage(row, *words) for row, words in bad]
        """Images that were set aside, by ascending row."""
        self.shape = tuple(index["shape"].tolist())
        self._stride = math.prod(self.shape)
        self._file = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)
        if os.fstat(self._file).st_size != len(self) * self._stride:
            raise damaged

    def __len__(self) -> int:
        return len(self.affine)

    def read(self, rows: Sequence[int] | Tensor, out: Tensor | None = None) -> Tensor:
        """Read rows, in any order, into `out` (contiguous uint8 on the CPU) or a new tensor (n, C, [T,] H, W)."""
        places = rows.tolist() if isinstance(rows, Tensor) else rows
        if out is None:
            out = torch.empty((len(places), *self.shape), dtype=torch.uint8)
        buffer = memoryview(out.numpy().reshape(-1))  # type: ignore[arg-type]  # numpy's stubs before Python 3.12
        stride = self._stride
        for start, row in enumerate(places):
            target = buffer[start * stride : (start + 1) * stride]
            if os.preadv(self._file, [target], row * stride) != stride:
                raise DataError(f"The pixel cache {self.path} ends before row {row}. Delete it; it is built again.")
        return out

    def load(self, rows: Sequence[int] | Tensor | None = None) -> Tensor:
        """Return rows, or all of them, as one uint8 tensor (n, C, [T,] H, W) in memory."""
        return self.read(range(len(self)) if rows is None else rows)

    def resident(self, device: torch.device) -> Pixels:
        """Hold all images on the device, or a small set in memory, where they fit; else return the file."""
        n_bytes = len(self) * self._stride
        if device.type == "cuda" and n_bytes <= DEVICE_RATE * torch.cuda.mem_get_info(device)[0]:
            return ResidentPixels(self._upload(device))
        return ResidentPixels(self.load()) if n_bytes <= SMALL else self

    def _upload(self, device: torch.device) -> Tensor:
        """Copy to the device by chunks, so that the host never holds more than one."""
        pixels = torch.empty((len(self), *self.shape), dtype=torch.uint8, device=device)
        step = max(1, SMALL // self._stride)
        for start in range(0, len(self), step):
            part = pixels[start : start + step]
            part.copy_(self.read(range(start, start + len(part))))
        return pixels


def build_cache(
    images: ImageSet,
    size: tuple[int, int],
    *,
    channels: int,
    fit: str,
    folder: Path,
    progress: Progress = silent,
) -> PixelCache:
    """Decode all images once, or open the cache of an earlier run; processes that ask at once build it once.

    Args:
        images: N images; their ids, the other arguments and the decoder's version name the cache.
        size: working size (H, W).
        channels: 1 or 3.
        fit: how an image is brought to the size: crop, pad or stretch.
        folder: where caches are kept.
        progress: shows the decoding.

    Returns:
        The cache. Images that could not be decoded are named in its `problems`.

    Raises:
        DataError: no image at all, none that can be decoded, or no room; nothing half-made is left behind.

    """
    if not len(images):
        raise DataError("There is no image to decode. Check the source's path.")
    ids = blake2b("\n".join(images.ids).encode(), digest_size=16).hexdigest()
    asked = {"ids": ids, "size": size, "channels": channels, "fit": fit, "decoder": DECODER_VERSION}
    path = folder / f"{fingerprint(asked)}.pixels"
    work = Work(path.with_suffix(".part"), size, channels, fit, images.frames)
    if not _is_whole(path):
        with _refusals(path, len(images) * math.prod(work.shape)):
            folder.mkdir(parents=True, exist_ok=True)
            with locked(path.with_suffix(".lock")):
                if not _is_whole(path):
                    _build(images, work, path, progress)
    cache = PixelCache(path)
    if len(cache.problems) == len(cache):
        first = cache.problems[0]
        raise DataError(f"None of {len(cache)} images can be decoded. {first.path} is {first.reason}.")
    return cache


def _build(images: ImageSet, work: Work, path: Path, progress: Progress) -> None:
    """Fill the part file, then its index, then give it its name: what has the name is whole."""
    affine = np.zeros((len(images), 2, 3), np.float32)
    problems: list[BadImage] = []
    try:
        with work.path.open("wb") as file:
            if reserve := getattr(os, "posix_fallocate", None):  # macOS has none: a full disk shows later there
                reserve(file.fileno(), 0, len(affine) * math.prod(work.shape))
        with progress("decoding", len(affine)) as advance, closing(decode_all(images, work)) as chunks:
            for chunk in chunks:
                affine[chunk.start : chunk.start + len(chunk.affine)] = chunk.affine
                problems += chunk.problems
                advance(len(chunk.affine))
        problems.sort()
        index = {
            "shape": np.array(work.shape),
            "affine": affine,
            "ids": np.array(images.ids),
            "bad_rows": np.array([problem.row for problem in problems], np.int64),
            "bad": np.array([problem[1:] for problem in problems], np.str_).reshape(-1, 4),
        }
        with _index_path(path).open("wb") as file:
            np.savez(file, allow_pickle=False, **index)
        with work.path.open("rb") as file:
            os.fsync(file.fileno())
        work.path.replace(path)
    finally:
        work.path.unlink(missing_ok=True)
        if not path.exists():
            _index_path(path).unlink(missing_ok=True)


def _is_whole(path: Path) -> bool:
    return path.exists() and _index_path(path).exists()


def _index_path(path: Path) -> Path:
    return path.with_suffix(".index.npz")


@contextmanager
def _refusals(path: Path, n_bytes: int) -> Iterator[None]:
    """Say what to do about a disk that is full or cannot be written."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
            needed, free = n_bytes / 1e9, shutil.disk_usage(path.parent).free / 1e9
            raise DataError(
                f"The pixel cache needs {needed:.2f} GB in {path.parent}, where {free:.2f} GB are free. "
                "Free some space, set a smaller data.size, or keep caches on another disk (EKE_CACHE)."
            ) from error
        raise DataError(f"Cannot write the pixel cache in {path.parent}: {error.strerror}.") from error
