"""Videos: frames at the right moments, whatever the order of reading; and what cannot be read is named."""

import builtins
import pickle
import random
import zipfile
from pathlib import Path

import numpy as np
import pytest
from clips import write_video
from PIL import Image

from eke.data.cache import build_cache
from eke.data.decode import fit
from eke.data.options import ClipOptions
from eke.data.sources import open_images
from eke.errors import ConfigError, DataError

CLIP = ClipOptions(seconds=1, fps=5, stride=0.4)


def shown_at(path: Path, moments: list[float]) -> list[np.ndarray]:
    """Return the last frame that has begun at each moment, from decoding the whole video."""
    import av

    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        begin = float((stream.start_time or 0) * stream.time_base)
        frames = [(frame.time - begin, frame.to_ndarray(format="rgb24")) for frame in container.decode(stream)]
    return [[pixels for time, pixels in frames if time <= moment + 1e-6][-1] for moment in moments]


@pytest.mark.parametrize(
    ("ending", "codec"),
    [("mp4", "mpeg4"), ("avi", "mpeg4"), ("mov", "mpeg4"), ("mkv", "mpeg4"), ("webm", "libvpx-vp9")],
)
def test_frames_are_those_of_their_moments_in_any_order(tmp_path, ending, codec):
    path = write_video(tmp_path / "set" / "run" / f"dash.{ending}", 500, codec=codec)  # 20 s: far clips are jumped to
    images = open_images(tmp_path / "set", clip=CLIP)
    n = 1 + (100 - 5) // 2
    assert images.paths == tuple(f"run/dash.{ending}#{i}" for i in range(n))
    assert images.groups == (f"run/dash.{ending}",) * n
    order = list(range(n))
    random.Random(0).shuffle(order)
    for row in order:
        wanted = shown_at(path, [(2 * row + frame) / 5 for frame in range(5)]) if row % 12 == 0 else None
        clip = images.read(row)
        assert clip.shape == (5, 48, 64, 3)
        assert wanted is None or np.array_equal(clip, wanted)
    in_order = [images.read(row) for row in range(n)]
    assert all(np.array_equal(images.read(row), in_order[row]) for row in order)
    assert len({clip.tobytes() for clip in in_order}) == n


def test_neighboring_clips_are_decoded_once(tmp_path, monkeypatch):
    write_video(tmp_path / "set" / "run" / "dash.mp4", 100)
    images = open_images(tmp_path / "set", clip=CLIP)
    opened = []
    import eke.data.videos as videos

    really = videos.open_video
    monkeypatch.setattr(videos, "open_video", lambda source: opened.append(source) or really(source))
    images = pickle.loads(pickle.dumps(images))
    for row in range(len(images)):
        images.read(row)
    assert len(opened) == 1


def test_videos_of_a_table_of_a_zip_and_alone(tmp_path):
    folder = tmp_path / "set"
    for first, (name, length) in enumerate({"a.mp4": 26, "b.mp4": 30, "c.mp4": 40}.items()):
        write_video(folder / name, length, first=20 * first)
    alone = open_images(folder / "a.mp4", clip=CLIP)
    assert list(alone.paths) == ["a.mp4"]
    (folder / "labels.csv").write_text("path,label\na.mp4,run\nb.mp4,walk\n")
    tables = [open_images(folder, clip=CLIP)]
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for file in folder.iterdir():
            archive.write(file, file.name)
    tables.append(open_images(tmp_path / "set.zip", clip=CLIP))
    (folder / "labels.csv").rename(folder / "table.csv")
    tables.append(open_images(folder / "table.csv", clip=CLIP))
    for images in tables:
        labels = {path.partition("#")[0]: label for path, label in zip(images.paths, images.labels, strict=True)}
        assert (labels["a.mp4"], labels["b.mp4"]) == (0, 1)
        assert labels.get("c.mp4", -1) == -1
        assert images.ids[images.paths.index("a.mp4")] == alone.ids[0]
    assert "c.mp4#0" in tables[0].paths


def test_the_cache_of_videos_equals_fitting_their_frames(tmp_path):
    write_video(tmp_path / "set" / "run" / "dash.mp4", 60)
    images = open_images(tmp_path / "set", clip=CLIP)
    cache = build_cache(images, (12, 12), channels=3, fit="crop", folder=tmp_path / "cache")
    for row in range(len(images)):
        by_hand = np.stack([fit(frame, (12, 12), "crop")[0] for frame in images.read(row)], 1)
        assert np.array_equal(cache.read([row])[0].numpy(), by_hand)


def test_videos_that_cannot_be_read_are_named_and_set_aside(tmp_path):
    folder = tmp_path / "set" / "run"
    good = write_video(folder / "good.avi", 100)
    (folder / "text.mp4").write_text("no video")
    (folder / "empty.mp4").write_bytes(b"")
    write_video(folder / "short.mp4", 10)
    content = good.read_bytes()
    (folder / "cut.avi").write_bytes(content[: len(content) // 2])
    images = open_images(tmp_path / "set", clip=CLIP)
    kinds = {problem.path: problem.kind for problem in images.problems if "#" not in problem.path}
    assert kinds.keys() == {"run/text.mp4", "run/empty.mp4", "run/short.mp4"}
    assert kinds["run/short.mp4"] == "too short"
    lost = [problem for problem in images.problems if problem.path.startswith("run/cut.avi#")]
    assert lost, "clips after the end are named"
    assert all("truncated" in problem.detail or "damaged" in problem.detail for problem in lost)
    assert all(problem.remedy for problem in images.problems)


def test_a_video_among_images_and_images_among_videos(tmp_path):
    write_video(tmp_path / "set" / "run" / "a.mp4", 30)
    for place in range(2):
        Image.fromarray(np.full((8, 8, 3), place, np.uint8)).save(tmp_path / "set" / "run" / f"{place}.png")
    images = open_images(tmp_path / "set", clip=CLIP)
    assert (len(images), images.frames) == (2, None)
    assert [problem.path for problem in images.problems] == ["run/a.mp4"]
    for first, name in enumerate(("b.mp4", "c.mp4"), 1):
        write_video(tmp_path / "set" / "run" / name, 30, first=20 * first)
    clips = open_images(tmp_path / "set", clip=CLIP)
    assert clips.frames == 5
    assert [problem.path for problem in clips.problems if problem.kind == "ignored"] == ["run/0.png"]
    with pytest.raises(DataError, match="holds videos, such as run/a.mp4, where images are needed"):
        open_images(tmp_path / "set", clip=None)


def test_without_pyav_the_extra_is_named(tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "a.mp4").write_bytes(b"anything")
    real = builtins.__import__

    def no_av(name, *args, **named):
        if name == "av":
            raise ImportError(name)
        return real(name, *args, **named)

    monkeypatch.setattr(builtins, "__import__", no_av)
    with pytest.raises(ConfigError, match=r"eke\[video\]"):
        open_images(tmp_path, clip=CLIP)
