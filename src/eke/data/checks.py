"""Looking at every image once: can it be decoded, what is its header, and a thumbnail to find copies by."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from PIL import Image

from eke.data.decode import BadImageError, Header, inspect_and_decode, of_frame
from eke.data.images import ImageSet, Problem, frames_of
from eke.errors import DataError
from eke.progress import Progress, silent

CHUNK = 64
"""Images that one thread looks at before it reports progress."""
THUMBNAIL = (16, 18)
"""Height and width of thumbnails: twice those of the grid that a hash of 64 bits is taken from."""


@dataclass(frozen=True)
class Checked:
    """What decoding every image of a set showed."""

    headers: tuple[Header | None, ...]
    """One per row, of a clip that of its middle frame; None where the image cannot be decoded."""
    thumbnails: np.ndarray
    """(n, 16, 18) uint8, grey; black where the image cannot be decoded."""
    problems: tuple[Problem, ...]
    """One per image that cannot be decoded."""


def check_images(image_set: ImageSet, progress: Progress = silent) -> Checked:
    """Decode every image, as training would; none of them ends the check."""
    chunks = [range(start, min(start + CHUNK, len(image_set))) for start in range(0, len(image_set), CHUNK)]
    headers: list[Header | None] = []
    thumbnails = np.zeros((len(image_set), *THUMBNAIL), dtype=np.uint8)
    problems: list[Problem] = []

    def look(rows: Sequence[int]) -> list[Header | Problem]:
        return [_look(image_set, row, thumbnails) for row in rows]

    with progress("decoding images", len(image_set)) as advance, ThreadPoolExecutor(os.cpu_count()) as pool:
        for results in pool.map(look, chunks):
            headers += [result if isinstance(result, Header) else None for result in results]
            problems += [result for result in results if isinstance(result, Problem)]
            advance(len(results))
    return Checked(tuple(headers), thumbnails, tuple(problems))


def _look(image_set: ImageSet, row: int, thumbnails: np.ndarray) -> Header | Problem:
    path = image_set.paths[row]
    try:
        header, grey = _middle(image_set, row)
    except BadImageError as error:
        return Problem(path, error.kind, error.detail, error.remedy)
    except DataError as error:
        return Problem(path, "unreadable", str(error), "Repair or delete it")
    height, width = THUMBNAIL
    thumbnails[row] = Image.fromarray(grey[..., 0]).resize((width, height), Image.Resampling.BOX)
    return header


def _middle(image_set: ImageSet, row: int) -> tuple[Header, np.ndarray]:
    """Decode an image, or every frame of a clip, of which the middle one is returned."""
    frames = frames_of(image_set.read(row))
    looked = []
    for number, frame in enumerate(frames):
        with of_frame(number, len(frames)):
            looked.append(inspect_and_decode(frame, channels=1))
    return looked[len(looked) // 2]
