"""What a network says of many images, computed once and kept: in shards, by as many processes as are started.

A shard is the images whose ids begin alike, about SHARD of them; an image that comes or goes changes its own shard
only. Its file is named by the network's weights, by what is computed and by the ids, and is written whole: a finished
shard is its own marker, and none is computed twice. Several processes that score the same images take different shards,
so that one process or seven find the same numbers; the memory of a process is bounded by a shard and by what is kept of
all.
"""

import math
import time
import zipfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eke.config import fingerprint
from eke.engine.model_files import WEIGHTS
from eke.files import held, write_atomic
from eke.progress import Progress, silent

SHARD = 4096
"""Images of a shard: half as many to as many. It is part of what is computed, since dropout draws by shard."""
WAIT_SECONDS = 0.2
"""Between two looks at shards that other processes hold."""


@dataclass(frozen=True)
class View:
    """What is computed of each image."""

    name: str
    """One word for the folder."""
    options: Mapping[str, Any]
    """Plain values: everything besides weights and images that determines the result."""
    compute: Callable[[Sequence[int], Callable[[int], object]], Mapping[str, Tensor]]
    """(positions, advance) -> name -> (n, ...) on the CPU, a row for each position."""


def score(
    run: Path,
    view: View,
    ids: Sequence[str],
    rows: Sequence[int],
    progress: Progress = silent,
    apart: Collection[str] = (),
) -> dict[str, Tensor]:
    """Compute, or read, a view of images by a run's network.

    Args:
        run: a finished run; shards are kept in its folder `scores`.
        view: what is computed.
        ids: of all images of the source.
        rows: N different positions in it.
        progress: shows the images of the shards that this process computes.
        apart: ids that are left out of what is returned. They are computed with the others all the same, so that shards
            do not depend on them.

    Returns:
        Name -> (N - A, ...), in the order of `rows`; A of them are apart.
    """
    weights = blake2b((run / "model" / WEIGHTS).read_bytes(), digest_size=8).hexdigest()
    home = run / "scores" / f"{view.name}-{fingerprint({'weights': weights, 'shard': SHARD, **view.options})}"
    shards = _cut([ids[row] for row in rows])
    files = [home / f"{_named([ids[rows[place]] for place in shard])}.npz" for shard in shards]
    waiting = list(range(len(shards)))
    with progress(f"scoring: {view.name}", len(rows)) as advance:
        while waiting:
            left = []
            for number in waiting:
                with held(files[number].with_suffix(".lock")) as mine:
                    if not mine:
                        left.append(number)
                        continue
                    if _read(files[number]) is None:
                        _write(files[number], view.compute([rows[place] for place in shards[number]], advance))
                    else:
                        advance(len(shards[number]))
            if len(left) == len(waiting):
                time.sleep(WAIT_SECONDS)
            waiting = left
    place_of = {place: n for n, place in enumerate(p for p, row in enumerate(rows) if ids[row] not in apart)}
    found: dict[str, Tensor] = {}
    for shard, file in zip(shards, files, strict=True):
        kept = [n for n, place in enumerate(shard) if place in place_of]
        places = [place_of[shard[n]] for n in kept]
        for name, array in (_read(file) or {}).items():
            values = torch.from_numpy(array)
            if name not in found:  # whole at once: joining parts would take the memory of all twice
                found[name] = values.new_empty(len(place_of), *values.shape[1:])
            found[name][places] = values[kept]
    return found


def _cut(ids: Sequence[str]) -> list[list[int]]:
    """Return the places of the images of each shard, in the order of their ids (of hexadecimal digits)."""
    bits = max(0, math.ceil(math.log2(len(ids) / SHARD))) if ids else 0
    shards: dict[int, list[int]] = {}
    for place in sorted(range(len(ids)), key=ids.__getitem__):
        shards.setdefault(int(ids[place][:8], 16) >> (32 - bits), []).append(place)
    return list(shards.values())


def _named(ids: Sequence[str]) -> str:
    return blake2b("\n".join(ids).encode(), digest_size=12).hexdigest()


def _read(file: Path) -> dict[str, Any] | None:
    """Return a finished shard; None where there is none, or a damaged one, which is computed again."""
    try:
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as saved:
            return dict(saved)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return None


def _write(file: Path, values: Mapping[str, Tensor]) -> None:
    arrays: Any = {name: value.numpy() for name, value in values.items()}

    def write(temporary: Path) -> None:
        with temporary.open("wb") as opened:
            np.savez(opened, **arrays)

    write_atomic(file, write)
