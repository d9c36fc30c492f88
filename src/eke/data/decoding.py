"""Decoding many images at once: in threads, and in helper processes where there is enough to do.

Pillow decodes a small image in less time than Python needs to ask for it, so threads alone gain little there.
Helpers are programs of their own that talk over pipes: they need no guard in the caller's script, as
multiprocessing does, and no copy of the image set. They write pixels straight into the cache file.
"""

import math
import os
import pickle
import queue
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL
from numpy.typing import NDArray

from eke.data.decode import BadImageError, decode, decode_and_fit
from eke.data.images import Content, ImageSet, frames_of
from eke.errors import DataError

CHUNK = 4 * 2**20
"""Bytes of pixels that one worker decodes before it writes them: bounds the memory of building."""
HELD = 64 * 2**20
"""Bytes of arrays that one worker is given at once: clips of videos come decoded, in full size."""
WORTH_SECONDS = 2.0
"""Remaining single-thread seconds above which helpers, which take a few tenths to start, are worth it."""
DECODER_VERSION = f"2, Pillow {PIL.__version__}"
"""Part of every cache's name: another decoder may give other pixels."""


MAX_SIDE = 224
"""Longest side of a working size that nobody chose."""
SAMPLED = 100
"""Images that are looked at to choose a working size."""


class Survey(NamedTuple):
    """What a sample of the images says about how to hold them."""

    size: tuple[int, int]
    """(H, W): median height by median width, scaled down so that no side is longer than MAX_SIDE."""
    channels: int
    """1 where every sampled image is gray, else 3."""


def survey(images: ImageSet) -> Survey:
    """Choose a working size and the number of channels from up to SAMPLED evenly spaced images; of clips the middle.

    Raises:
        DataError: none of them can be decoded.

    """
    n = len(images)
    sizes, gray, reason = [], True, "the image set is empty"
    for row in sorted({i * n // SAMPLED for i in range(SAMPLED)} if n else ()):
        try:
            frames = frames_of(images.read(row))
            pixels = decode(frames[len(frames) // 2], channels=3)
        except (BadImageError, OSError) as error:
            reason = str(error)
            continue
        sizes.append(pixels.shape[:2])
        gray = gray and bool((pixels == pixels[:, :, :1]).all())
    if not sizes:
        raise DataError(f"No image can be decoded: {reason}")
    height, width = np.median(np.array(sizes), axis=0)
    scale = min(1.0, MAX_SIDE / max(height, width))
    return Survey((max(1, round(height * scale)), max(1, round(width * scale))), 1 if gray else 3)


class Work(NamedTuple):
    """What decoding does to an image, and where its pixels go."""

    path: Path
    size: tuple[int, int]
    channels: int
    how: str
    frames: int | None = None
    """T of clips."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, h, w) of an image or (C, T, h, w) of a clip."""
        return (self.channels, *([] if self.frames is None else [self.frames]), *self.size)


class BadImage(NamedTuple):
    """An image that was set aside; its row in the cache is black and must not be used."""

    row: int
    path: str
    kind: str
    """One word or two, such as truncated."""
    detail: str
    remedy: str

    @property
    def reason(self) -> str:
        """What is wrong, in words."""
        return f"{self.kind}: {self.detail}"


class Chunk(NamedTuple):
    """Neighboring rows of the cache and their images, or why one has no content."""

    work: Work
    start: int
    paths: tuple[str, ...]
    contents: list[Content | BadImage]


class Decoded(NamedTuple):
    """What came of a chunk, apart from the pixels, which are in the file."""

    start: int
    affine: NDArray[np.float32]
    problems: list[BadImage]


def decode_chunk(chunk: Chunk) -> Decoded:
    """Decode a chunk and write its pixels into the file; an image that cannot be decoded stays black.

    Raises:
        OSError: the file cannot be written.

    """
    work = chunk.work
    pixels = np.zeros((len(chunk.contents), *work.shape), np.uint8)
    affine = np.zeros((len(chunk.contents), 2, 3), np.float32)
    problems = []
    for i, content in enumerate(chunk.contents):
        if isinstance(content, BadImage):
            problems.append(content)
            continue
        try:
            pixels[i], affine[i] = decode_and_fit(content, work.size, channels=work.channels, how=work.how)
        except BadImageError as error:
            problems.append(BadImage(chunk.start + i, chunk.paths[i], error.kind, error.detail, error.remedy))
        except Exception as error:  # whatever one image makes a decoder raise, the others must be decoded
            words = f"{type(error).__name__}: {error}"
            problems.append(
                BadImage(chunk.start + i, chunk.paths[i], "damaged", words, "Restore the file from its source")
            )
    with work.path.open("r+b", buffering=0) as file:
        file.seek(chunk.start * pixels[0].nbytes)
        left = memoryview(pixels.reshape(-1))  # type: ignore[arg-type]  # numpy's stubs before Python 3.12
        while left:
            left = left[file.write(left) :]
    return Decoded(chunk.start, affine, problems)


def decode_all(images: ImageSet, work: Work) -> Generator[Decoded]:
    """Decode every image into the file, on all cores, yielding chunks as they are done, in any order.

    Raises:
        OSError: the file cannot be written.
        DataError: a helper process died.

    """
    n = len(images)
    step = _chunk_rows(images, work)
    chunks = [range(i, min(i + step, n)) for i in range(0, n, step)]
    started = time.perf_counter()
    yield decode_chunk(_read_chunk(images, work, chunks[0]))
    seconds = (time.perf_counter() - started) * (len(chunks) - 1)
    cores = min(len(os.sched_getaffinity(0)), len(chunks))
    with ExitStack() as stack:
        decoders: queue.SimpleQueue[Callable[[Chunk], Decoded]] = queue.SimpleQueue()
        for _ in range(cores):
            helps = cores > 1 and seconds > WORTH_SECONDS
            decoders.put(stack.enter_context(closing(_Helper())) if helps else decode_chunk)

        def run(rows: range) -> Decoded:
            chunk = _read_chunk(images, work, rows)
            decoder = decoders.get()
            try:
                return decoder(chunk)
            finally:
                decoders.put(decoder)

        pool = ThreadPoolExecutor(2 * cores)  # half of them read ahead
        stack.callback(pool.shutdown, cancel_futures=True)
        for done in as_completed([pool.submit(run, rows) for rows in chunks[1:]]):
            yield done.result()


def _chunk_rows(images: ImageSet, work: Work) -> int:
    """Return how many rows one worker takes at once."""
    rows = CHUNK // math.prod(work.shape)
    if work.frames is not None:
        first = _read_chunk(images, work, range(1)).contents[0]
        if isinstance(first, np.ndarray):
            rows = min(rows, HELD // first.nbytes)
    return max(1, rows)


def _read_chunk(images: ImageSet, work: Work, rows: range) -> Chunk:
    paths = images.paths[rows.start : rows.stop]
    contents: list[Content | BadImage] = []
    for row, path in zip(rows, paths, strict=True):
        try:
            contents.append(images.read(row))
        except OSError as error:
            remedy = "Restore the file or its permissions"
            contents.append(BadImage(row, path, "unreadable", error.strerror or str(error), remedy))
        except BadImageError as error:
            contents.append(BadImage(row, path, error.kind, error.detail, error.remedy))
    return Chunk(work, rows.start, paths, contents)


class _Helper:
    """A process that decodes chunks one after another; it ends when this process does, however that ends."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from eke.data.decoding import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )
        assert self._process.stdin
        assert self._process.stdout
        self._contents, self._answers = self._process.stdin, self._process.stdout

    def __call__(self, chunk: Chunk) -> Decoded:
        try:
            pickle.dump(chunk, self._contents)
            self._contents.flush()
            answer = pickle.load(self._answers)
        except (EOFError, BrokenPipeError, pickle.UnpicklingError):
            raise DataError(
                f"A helper that decodes images died at {chunk.paths[0]} to {chunk.paths[-1]} (exit status "
                f"{self._process.wait()}). If memory is short, close other programs and run again."
            ) from None
        if isinstance(answer, OSError):
            raise answer
        return answer

    def close(self) -> None:
        with suppress(BrokenPipeError):
            self._contents.close()
        self._answers.close()
        self._process.wait()


def serve() -> None:
    """Decode chunks that come over standard input until it closes (the body of a helper process)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warnings.filterwarnings("ignore", ".*decompression bomb")  # such images are refused by eke's own limit
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not get between the answers
    with suppress(EOFError, BrokenPipeError):
        while True:
            chunk = pickle.load(sys.stdin.buffer)
            answer: Decoded | OSError
            try:
                answer = decode_chunk(chunk)
            except OSError as error:
                answer = error
            pickle.dump(answer, answers)
            answers.flush()
