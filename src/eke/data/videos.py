"""Videos: clips of them decoded at a rate of frames per second, one after another, each frame once where they follow.

The frame of a moment is the one that a player shows then: the last that has begun. PyAV is an optional package.
"""

import io
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from eke.data.contents import FileContents, ZipContents
from eke.data.decode import MAX_PIXELS, BadImageError
from eke.errors import ConfigError, EkeError

SEEK_SECONDS = 10.0
"""A clip that begins farther ahead is jumped to; nearer ones are reached by decoding what lies between."""
ROUNDING = 1e-6
"""Seconds by which times of frames may be rounded."""
RESTORE = "Restore the file from its source, or convert it anew"


class VideoClips:
    """Clips of videos as arrays; each thread goes on in the video that it read last.

    Args:
        files: the videos.
        windows: of each clip, the row of its video and its first frame, counted at `fps`.
        frames: T.
        fps: frames per second.
    """

    def __init__(
        self, files: FileContents | ZipContents, windows: Sequence[tuple[int, int]], frames: int, fps: float
    ) -> None:
        self.files, self.windows, self.frames, self.fps = files, windows, frames, fps
        self._threads = threading.local()

    def __getstate__(self) -> tuple[Any, ...]:
        return self.files, self.windows, self.frames, self.fps

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.files, self.windows, self.frames, self.fps = state
        self._threads = threading.local()

    def read(self, row: int) -> np.ndarray:
        """Return one clip, uint8 (T, H, W, 3), turned upright.

        Raises:
            BadImageError: the video cannot be decoded, or ends before the clip does.
            ConfigError: PyAV is not installed.
        """
        video, start = self.windows[row]
        last: tuple[int, Player] | None = getattr(self._threads, "last", None)
        if last is None or last[0] != video or not last[1].reaches(start):
            if last is not None:
                last[1].close()
            self._threads.last = None
            last = (video, Player(self.files.stream(video), self.fps))
        clip = last[1].clip(start, self.frames)
        self._threads.last = last
        return clip


class Player:
    """Plays one video forward, and remembers the frames of the clip that it gave last.

    Args:
        source: a path, or the file in memory.
        fps: frames per second.
    """

    def __init__(self, source: str | io.BytesIO, fps: float) -> None:
        self._source, self._fps = source, fps
        self._held: dict[int, np.ndarray] = {}
        self._open(0)

    def _open(self, first: int) -> None:
        """Begin at frame `first`, or at the beginning where the file cannot be searched."""
        with _named_errors():
            self._container = open_video(self._source)
            self._stream = self._container.streams.video[0]
            self._begin = float((self._stream.start_time or 0) * self._stream.time_base)
            if first:
                moment = round((self._begin + first / self._fps) / self._stream.time_base)
                self._container.seek(moment, stream=self._stream)
        self._frames = self._resampled(first)
        self._next = first

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def reaches(self, start: int) -> bool:
        """Tell whether a clip that begins at frame `start` can be played without going back."""
        return all(frame in self._held for frame in range(start, self._next))

    def clip(self, start: int, n: int) -> np.ndarray:
        """Return `n` frames from `start` on, uint8 (n, H, W, 3)."""
        self._held = {frame: pixels for frame, pixels in self._held.items() if frame >= start}
        if (start - self._next) / self._fps > SEEK_SECONDS:
            self._jump(start)
        with _named_errors():
            while self._next < start + n:
                frame = next(self._frames)
                if self._next >= start:
                    self._held[self._next] = _pixels(frame)
                self._next += 1
            return np.stack([self._held[frame] for frame in range(start, start + n)])

    def _jump(self, start: int) -> None:
        self.close()
        self._open(start)
        with _named_errors():
            first = next(self._container.decode(self._stream))
            late = first.time - self._begin > start / self._fps + ROUNDING
        self.close()
        self._open(0 if late else start)

    def _resampled(self, first: int) -> Iterator[Any]:
        """Yield what is shown at the moments `first`, `first` + 1 ... / fps."""
        number, shown, ends = first, None, 0.0
        for frame in self._container.decode(self._stream):
            if frame.pts is None:
                raise BadImageError("unsupported", "its frames have no times", "Convert it, for example to .mp4")
            begins = frame.time - self._begin
            while shown is not None and number / self._fps < begins - ROUNDING:
                yield shown
                number += 1
            shown, ends = frame, begins + _duration(frame, self._stream)
        while shown is not None and number / self._fps < ends + ROUNDING:
            yield shown
            number += 1
        raise BadImageError("truncated", f"its frames end after {ends:.2f} s, before its header says so", RESTORE)


def count_frames(source: str | io.BytesIO, fps: float) -> int:
    """Count the frames of a video at `fps`, without decoding it.

    Args:
        source: a path, or the file in memory.
        fps: frames per second.

    Raises:
        BadImageError: it cannot be opened, or is too large.
        ConfigError: PyAV is not installed.
    """
    with _named_errors(), open_video(source) as container:
        stream = container.streams.video[0]
        if stream.duration:
            seconds = float(stream.duration * stream.time_base)
        else:  # the file must be read, since the length of the file may be that of its sound
            packets = [packet for packet in container.demux(stream) if packet.pts is not None]
            last = max(packets, key=lambda packet: packet.pts, default=None)
            begin = (stream.start_time or 0) * stream.time_base
            seconds = float(last.pts * stream.time_base - begin) + _duration(last, stream) if last else 0.0
    return int(np.ceil(seconds * fps - ROUNDING * fps))


def open_video(source: str | io.BytesIO) -> Any:
    """Open a video by PyAV.

    Raises:
        BadImageError: it holds no video, or one that is too large.
        ConfigError: PyAV is not installed.
    """
    try:
        import av
    except ImportError:
        raise ConfigError("Reading videos needs PyAV: pip install 'eke[video]'.") from None
    if isinstance(source, io.BytesIO):
        source.seek(0)
    container = av.open(source)
    if not container.streams.video:
        container.close()
        raise BadImageError("not a video", "the file has no video stream", "Delete or rename the file")
    stream = container.streams.video[0]
    if stream.width * stream.height > MAX_PIXELS:
        container.close()
        limit = f"the limit is {MAX_PIXELS // 1_000_000} megapixels"
        raise BadImageError("too large", f"{stream.width}x{stream.height} pixels, {limit}", "Scale it down")
    return container


def _duration(shown: Any, stream: Any) -> float:
    """Return for how many seconds a frame, or the frame of a packet, is shown."""
    if shown.duration:
        return float(shown.duration * stream.time_base)
    return float(1 / stream.average_rate) if stream.average_rate else 0.0


def _pixels(frame: Any) -> np.ndarray:
    pixels: np.ndarray = frame.to_ndarray(format="rgb24")
    return np.rot90(pixels, frame.rotation // 90) if frame.rotation % 360 else pixels


@contextmanager
def _named_errors() -> Iterator[None]:
    try:
        yield
    except EkeError:
        raise
    except Exception as error:  # damaged files make decoders raise nearly anything
        words = str(error).strip() or type(error).__name__
        raise BadImageError("damaged video", words, RESTORE) from None
