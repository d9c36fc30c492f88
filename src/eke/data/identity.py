"""Ids of rows, computed once: remembered on disk by (path, size, time of change)."""

import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from eke.data.images import content_id
from eke.data.rows import Rows
from eke.data.trees import Stamp
from eke.errors import DataError, EkeError
from eke.files import write_atomic
from eke.progress import Progress

EMPTY = content_id(b"")
"""The id of a file without bytes."""
UNREADABLE = "unreadable: "
CHUNK = 256
"""Rows that one thread reads and hashes at a time."""
SETTLED_NS = 2 * 10**9
"""A file that changed less than this ago may change again without a new time; its id is not remembered."""


def cache_folder() -> Path:
    """Return the folder of everything that can be computed again: EKE_CACHE, or ~/.cache/eke."""
    return Path(os.environ.get("EKE_CACHE") or Path.home() / ".cache" / "eke")


def ids_of(rows: Rows, source: str, progress: Progress) -> list[str]:
    """Return the id of each row, hashing only what is new or has changed.

    Args:
        rows: what to name.
        source: where the rows come from; names the file that remembers.
        progress: shows the hashing.

    Returns:
        One id per row; UNREADABLE and the reason where a row cannot be read.
    """
    if rows.stamps is None:
        return _hash(rows, range(len(rows.paths)), progress)
    keys = [_key(path, stamp) for path, stamp in zip(rows.paths, rows.stamps, strict=True)]
    file = cache_folder() / "ids" / f"{blake2b(source.encode(), digest_size=16).hexdigest()}.npz"
    remembered = _load(file)
    todo = [row for row, key in enumerate(keys) if key not in remembered]
    if todo:
        settled = time.time_ns() - SETTLED_NS
        found = dict(zip(todo, _hash(rows, todo, progress), strict=True))
        good = {keys[row]: bytes.fromhex(name) for row, name in found.items() if not name.startswith(UNREADABLE)}
        remembered.update(good)
        lasting = [keys[row] for row, stamp in enumerate(rows.stamps) if stamp.changed_ns < settled]
        _save(file, {key: remembered[key] for key in lasting if key in remembered})
        return [remembered[key].hex() if key in remembered else found[row] for row, key in enumerate(keys)]
    return [remembered[key].hex() for key in keys]


def _key(path: str, stamp: Stamp) -> bytes:
    return blake2b(
        f"{path}\0{stamp.size}\0{stamp.changed_ns}".encode("utf-8", "surrogateescape"), digest_size=16
    ).digest()


def _hash(rows: Rows, todo: Sequence[int], progress: Progress) -> list[str]:
    def name(chunk: Sequence[int]) -> list[str]:
        return [_name(rows, row) for row in chunk]

    chunks = [todo[start : start + CHUNK] for start in range(0, len(todo), CHUNK)]
    ids: list[str] = []
    with progress("reading images", len(todo)) as advance, ThreadPoolExecutor(os.cpu_count()) as pool:
        for named in pool.map(name, chunks):
            ids += named
            advance(len(named))
    return ids


def _name(rows: Rows, row: int) -> str:
    try:
        return content_id(rows.contents.read(row))
    except DataError as error:
        return f"{UNREADABLE}{error}"


def _load(file: Path) -> dict[bytes, bytes]:
    try:
        with np.load(file, allow_pickle=False) as saved:
            pairs = saved["pairs"]
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):  # missing or damaged: computed again
        return {}
    flat = pairs.tobytes()
    return {flat[at : at + 16]: flat[at + 16 : at + 32] for at in range(0, len(flat), 32)}


def _save(file: Path, ids: dict[bytes, bytes]) -> None:
    if not ids:
        return
    flat = b"".join(key + name for key, name in ids.items())
    pairs = np.frombuffer(flat, dtype=np.uint8).reshape(-1, 32)

    def write(path: Path) -> None:
        with path.open("wb") as opened:
            np.savez(opened, pairs=pairs)

    try:
        write_atomic(file, write)
    except (EkeError, OSError):  # a full or read-only disk costs the hashing next time, not this run
        return
