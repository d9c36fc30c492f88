"""Recordings for tests: folders of frames of which each says its number, and videos of such frames."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image


def frame_pixels(tone: int, number: int, size: tuple[int, int] = (12, 16)) -> NDArray[np.uint8]:
    """(H, W, 3): one tone, with a bar at the top that is the longer the higher the number."""
    pixels = np.full((*size, 3), tone, np.uint8)
    pixels[:2, : 1 + number % size[1]] = 255 - tone
    return pixels


def write_frames(folder: Path, numbers: Iterable[int], tone: int) -> None:
    """Write frame_000.png and so on."""
    folder.mkdir(parents=True)
    for number in numbers:
        Image.fromarray(frame_pixels(tone, number)).save(folder / f"frame_{number:03d}.png")


def write_recordings(root: Path, n: int = 3, n_frames: int = 4, words: tuple[str, ...] = ("run", "walk")) -> Path:
    """Write n recordings of each class, `root/run/run0/frame_000.png` ..., and one without a label."""
    for place, word in enumerate(words):
        for each in range(n):
            write_frames(root / word / f"{word}{each}", range(n_frames), 40 * place + 9 * each)
    write_frames(root / "unlabeled" / "new", range(n_frames), 200)
    return root


def write_video(path: Path, n_frames: int = 100, codec: str = "mpeg4", first: int = 0) -> Path:
    """Write a video of 48 x 64 pixels at 25 frames/s that grow brighter by two levels each; skips without PyAV."""
    av: Any = pytest.importorskip("av", reason="PyAV is not installed: pip install 'eke[video]'")
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = 64, 48, "yuv420p", 12
        for number in range(first, first + n_frames):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 2 * number % 256, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path
