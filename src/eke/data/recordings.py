"""Recordings (folders of frames, videos) cut into clips of equal length: windows of T frames."""

from collections.abc import Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import NamedTuple, Protocol

from eke.data.contents import FileContents, ZipContents
from eke.data.decode import BadImageError
from eke.data.images import Content, Contents, Problem
from eke.data.options import ClipOptions
from eke.data.rows import Rows
from eke.data.trees import Stamp, is_video
from eke.data.videos import VideoClips, count_frames
from eke.errors import DataError

Files = FileContents | ZipContents


class Window(NamedTuple):
    """A clip, before its frames are read."""

    recording: int
    """Row of the recording."""
    start: int
    """Its first frame in the recording."""


class Recordings(Protocol):
    """Contents whose rows are recordings, of any length."""

    def count(self, row: int, fps: float) -> int:
        """Count the frames of one recording, at `fps` where it has a rate of its own; BadImageError says why not."""
        ...

    def stamps(self, window: Window, clip: ClipOptions) -> list[Stamp]:
        """Return the stamps of what a clip is made of."""
        ...

    def cut(self, windows: Sequence[Window], clip: ClipOptions) -> Contents:
        """Return clips of `clip.frames` frames each."""
        ...


class FrameFolders:
    """Recordings whose frames are files.

    Args:
        files: the frames of all recordings, one recording after the other, each in its order.
        stamps: of each file.
        starts: of each recording, its first file; and at the end the number of files.
    """

    def __init__(self, files: Files, file_stamps: Sequence[Stamp], starts: Sequence[int]) -> None:
        self.files, self.file_stamps, self.starts = files, file_stamps, starts

    def read(self, row: int) -> Content:
        """Return all frames of one recording."""
        return tuple(self.files.read(file) for file in range(self.starts[row], self.starts[row + 1]))

    def count(self, row: int, fps: float) -> int:
        """Count the files of one recording: their rate is what the user says it is."""
        return self.starts[row + 1] - self.starts[row]

    def stamps(self, window: Window, clip: ClipOptions) -> list[Stamp]:
        """Return the stamps of a clip's frames."""
        first = self.starts[window.recording] + window.start
        return list(self.file_stamps[first : first + clip.frames])

    def cut(self, windows: Sequence[Window], clip: ClipOptions) -> "FrameClips":
        """Return clips of `clip.frames` frames each."""
        return FrameClips(self.files, [self.starts[row] + start for row, start in windows], clip.frames)


class FrameClips:
    """Clips whose frames are files.

    Args:
        files: frames of all recordings.
        starts: of each clip, its first file.
        frames: T.
    """

    def __init__(self, files: Files, starts: Sequence[int], frames: int) -> None:
        self.files, self.starts, self.frames = files, starts, frames

    def read(self, row: int) -> Content:
        """Return the encoded frames of one clip.

        Raises:
            DataError: one of them cannot be read.
        """
        return tuple(self.files.read(self.starts[row] + frame) for frame in range(self.frames))


class Videos:
    """Recordings that are video files.

    Args:
        files: one a recording.
        file_stamps: of each file.
    """

    def __init__(self, files: Files, file_stamps: Sequence[Stamp]) -> None:
        self.files, self.file_stamps = files, file_stamps

    def count(self, row: int, fps: float) -> int:
        """Count the frames of one video at `fps`."""
        return count_frames(self.files.stream(row), fps)

    def stamps(self, window: Window, clip: ClipOptions) -> list[Stamp]:
        """Return the stamp of the video."""
        return [self.file_stamps[window.recording]]

    def cut(self, windows: Sequence[Window], clip: ClipOptions) -> VideoClips:
        """Return clips of `clip.frames` frames each."""
        return VideoClips(self.files, windows, clip.frames, clip.fps)


def cut_recordings(rows: Rows, source: str, clip: ClipOptions | None) -> Rows:
    """Cut the recordings that a layout found into clips; images are returned as they are.

    A recording that is too short or cannot be read is named and set aside. Clips of one recording are a group, unless
    the source names groups itself. A recording of one clip lends it its name; the first of several is called `name#0`.

    Args:
        rows: what a layout found: images, folders of frames, or files that may be videos.
        source: what the user named.
        clip: how to cut; None where images are needed.

    Raises:
        DataError: no recording is left, or there are videos where images are needed.
        ConfigError: there are videos, and PyAV is not installed.
    """
    if isinstance(rows.contents, FrameFolders):
        assert clip is not None, "layouts read frames as images where images are needed"
        return _cut(rows, rows.contents, source, clip)
    videos = [row for row, path in enumerate(rows.paths) if is_video(path)]
    images = [row for row, path in enumerate(rows.paths) if not is_video(path)]
    if not videos:
        return rows
    assert isinstance(rows.contents, Files)
    if len(videos) <= len(images):
        problem = _strangers(rows, videos, "video(s) among images")
        return _picked(rows, images, rows.contents.select(images), [problem])
    if clip is None:
        raise DataError(f"{source} holds videos, such as {rows.paths[videos[0]]}, where images are needed.")
    problems = [_strangers(rows, images, "image(s) among videos")] if images else []
    kept = _picked(rows, videos, rows.contents.select(videos), problems)
    assert kept.stamps is not None
    return _cut(kept, Videos(rows.contents.select(videos), kept.stamps), source, clip)


def _strangers(rows: Rows, places: Sequence[int], what: str) -> Problem:
    detail = f"{len(places)} {what}, of which there are fewer, are not read"
    return Problem(rows.paths[places[0]], "ignored", detail, "Make them a source of their own")


def _picked(rows: Rows, places: Sequence[int], contents: Contents, problems: Sequence[Problem]) -> Rows:
    """Return the rows at `places`, which may repeat, with other contents and with further problems."""

    def at(values: Sequence[str] | None) -> list[str] | None:
        return None if values is None else [values[place] for place in places]

    return replace(
        rows,
        contents=contents,
        paths=[rows.paths[place] for place in places],
        words=[rows.words[place] for place in places],
        stamps=None if rows.stamps is None else [rows.stamps[place] for place in places],
        groups=at(rows.groups),
        split=at(rows.split),
        problems=[*rows.problems, *problems],
    )


def _cut(rows: Rows, recordings: Recordings, source: str, clip: ClipOptions) -> Rows:
    """Replace each recording by its clips."""
    windows: list[Window] = []
    paths: list[str] = []
    problems: list[Problem] = []
    for row, path in enumerate(rows.paths):
        try:
            starts = _starts(recordings.count(row, clip.fps), clip)
        except BadImageError as error:
            problems.append(Problem(path, error.kind, error.detail, error.remedy))
            continue
        windows += [Window(row, start) for start in starts]
        paths += [path] if len(starts) == 1 else [f"{path}#{number}" for number in range(len(starts))]
    if not windows:
        reason = f" {problems[0].path}: {problems[0].detail}. {problems[0].remedy}." if problems else ""
        raise DataError(f"No recording of {source} gives a clip.{reason}")
    places = [window.recording for window in windows]
    cut = _picked(rows, places, recordings.cut(windows, clip), problems)
    return replace(
        cut,
        paths=paths,
        groups=cut.groups or [_name(rows, place) for place in places],
        stamps=[_stamp(recordings.stamps(window, clip), window, clip) for window in windows],
        frames=clip.frames,
    )


def _starts(n_frames: int, clip: ClipOptions) -> range:
    """Return the first frames of the clips of a recording; a rest that is shorter than a clip is left out."""
    if n_frames < clip.frames:
        detail = f"{n_frames} frames, and a clip has {clip.frames} ({clip.seconds:g} s at {clip.fps:g} frames/s)"
        raise BadImageError("too short", detail, "Set clip.seconds or clip.fps lower, or leave the recording out")
    return range(0, n_frames - clip.frames + 1, clip.step)


def _name(rows: Rows, place: int) -> str:
    """Name a recording as a group: its path, without the folder of its split."""
    path = rows.paths[place]
    return path.partition("/")[2] if rows.split and rows.split[place] else path


def _stamp(stamps: Sequence[Stamp], window: Window, clip: ClipOptions) -> Stamp:
    """Make one stamp of several: a digest in place of the size, and the latest change."""
    made_of = f"{stamps}{window.start} {clip.frames} {clip.fps}"
    digest = int.from_bytes(blake2b(made_of.encode(), digest_size=8).digest(), "big")
    return Stamp(digest, max(stamp.changed_ns for stamp in stamps))
