"""Where the bytes of a source lie: files of a folder, members of a zip, rows of a Parquet file, an array.

Each answers `read(row)`, holds little memory, can be pickled, and is safe to read from several threads.
"""

import io
import os
import threading
import zipfile
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eke.errors import DataError

HELD_BYTES = 2**30
"""Image bytes of a Parquet file that stay in memory; beyond, whole row groups are read again when needed."""


class FileContents:
    """Files below a folder, read when asked for."""

    def __init__(self, root: Path, names: Sequence[str]) -> None:
        self.root = str(root)
        self.names = tuple(names)

    def read(self, row: int) -> bytes:
        """Return the bytes of one file.

        Raises:
            DataError: it cannot be read (any more).
        """
        try:
            return (Path(self.root) / self.names[row]).read_bytes()
        except OSError as error:
            raise DataError(
                f"Cannot read {self.names[row]} in {self.root}: {error.strerror}. Restore it or its rights."
            ) from None

    def stream(self, row: int) -> str:
        """Return where a decoder finds one file that is too large to be read at once: its path."""
        return str(Path(self.root) / self.names[row])

    def select(self, rows: Sequence[int]) -> "FileContents":
        """Return some of the files, in that order."""
        return FileContents(Path(self.root), [self.names[row] for row in rows])


class ZipContents:
    """Members of a zip, read in place: nothing is ever extracted to disk.

    Args:
        path: the zip.
        names: full names of the members, one per row.
    """

    def __init__(self, path: Path, names: Sequence[str]) -> None:
        self.path = str(path)
        self.names = tuple(names)
        self._forget()

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._process = 0
        self._zip: zipfile.ZipFile | None = None

    def __getstate__(self) -> tuple[str, tuple[str, ...]]:
        return self.path, self.names

    def __setstate__(self, state: tuple[str, tuple[str, ...]]) -> None:
        self.path, self.names = state
        self._forget()

    def read(self, row: int) -> bytes:
        """Return the bytes of one member.

        Raises:
            DataError: it is damaged, encrypted or packed in a way that Python cannot read.
        """
        with self._lock:  # one open file has one position
            if self._zip is None or self._process != os.getpid():  # a forked child would share the position
                self._zip, self._process = zipfile.ZipFile(self.path), os.getpid()
            try:
                return self._zip.read(self.names[row])
            except (zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError, OSError) as error:
                raise DataError(f"Cannot read {self.names[row]} in {self.path}: {error}. Pack it again.") from None
            except Exception as error:  # zlib.error and lzma.LZMAError share no base
                raise DataError(f"{self.names[row]} in {self.path} is damaged: {error}. Pack it again.") from None

    def stream(self, row: int) -> io.BytesIO:
        """Return where a decoder finds one member: its bytes, since nothing is unpacked to disk."""
        return io.BytesIO(self.read(row))

    def select(self, rows: Sequence[int]) -> "ZipContents":
        """Return some of the members, in that order."""
        return ZipContents(Path(self.path), [self.names[row] for row in rows])


class ParquetContents:
    """A binary column of a Parquet file; the row groups read last stay in memory, up to HELD_BYTES.

    Args:
        file: path, or the bytes of the file (a member of a zip).
        column: dotted name of the column ("image.bytes").
    """

    def __init__(self, file: Path | bytes, column: str) -> None:
        self.file = file
        self.column = column
        self._forget()
        groups = self._table.metadata
        counts = [groups.row_group(group).num_rows for group in range(groups.num_row_groups)]
        self._ends = np.cumsum(counts)

    def _forget(self) -> None:
        import pyarrow.parquet

        self._lock = threading.Lock()
        self._held: OrderedDict[int, Any] = OrderedDict()
        source = io.BytesIO(self.file) if isinstance(self.file, bytes) else self.file
        self._table = pyarrow.parquet.ParquetFile(source)

    def __getstate__(self) -> tuple[Path | bytes, str, np.ndarray]:
        return self.file, self.column, self._ends

    def __setstate__(self, state: tuple[Path | bytes, str, np.ndarray]) -> None:
        self.file, self.column, self._ends = state
        self._forget()

    def read(self, row: int) -> bytes:
        """Return the bytes of one row; empty where the table has none."""
        group = int(np.searchsorted(self._ends, row, side="right"))
        with self._lock:
            values = self._held.get(group)
            if values is None:
                values = self._held[group] = self._read_group(group)
                while len(self._held) > 1 and sum(held.nbytes for held in self._held.values()) > HELD_BYTES:
                    self._held.popitem(last=False)
            self._held.move_to_end(group)
        content: bytes | None = values[row - (int(self._ends[group - 1]) if group else 0)].as_py()
        return content or b""

    def _read_group(self, group: int) -> Any:
        values = self._table.read_row_group(group, columns=[self.column]).column(0).combine_chunks()
        for name in self.column.split(".")[1:]:
            values = values.field(name)
        return values


class ArrayContents:
    """An array of images (N, H, W[, C]) held in memory."""

    def __init__(self, images: np.ndarray) -> None:
        self.images = images

    def read(self, row: int) -> np.ndarray:
        """Return one image as the array holds it."""
        image: np.ndarray = self.images[row]
        return image


class JoinedContents:
    """Several contents one after the other."""

    def __init__(self, parts: Sequence[tuple[Any, int]]) -> None:
        self.parts = [part for part, _ in parts]
        self._ends = np.cumsum([n for _, n in parts])

    def read(self, row: int) -> Any:
        """Return one row of the part that holds it."""
        part = int(np.searchsorted(self._ends, row, side="right"))
        return self.parts[part].read(row - (int(self._ends[part - 1]) if part else 0))
