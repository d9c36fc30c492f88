"""Recordings: how they are cut, named, grouped and hashed; what is set aside; caches equal decoding by hand."""

import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from clips import frame_pixels, write_frames, write_recordings
from PIL import Image

from eke.config import parse
from eke.data.cache import build_cache
from eke.data.checks import check_images
from eke.data.decode import decode, fit
from eke.data.decoding import survey
from eke.data.images import content_id, frames_of
from eke.data.options import ClipOptions
from eke.data.sources import open_images, with_unlabeled
from eke.data.splits import DataOptions, make_split
from eke.errors import ConfigError, DataError

FOUR = ClipOptions(seconds=1, fps=4)
HALVES = ClipOptions(seconds=1, fps=4, stride=0.5)


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    return write_recordings(tmp_path / "recordings")


@pytest.mark.parametrize(("n_frames", "clip", "n"), [(4, FOUR, 1), (11, FOUR, 2), (11, HALVES, 4), (12, HALVES, 5)])
def test_windows_are_where_the_options_say(tmp_path, n_frames, clip, n):
    write_frames(tmp_path / "set" / "run" / "dash", range(n_frames), 80)
    images = open_images(tmp_path / "set", clip=clip)
    names = ["run/dash"] if n == 1 else [f"run/dash#{i}" for i in range(n)]
    assert list(images.paths) == names
    assert images.frames == 4
    assert images.groups == ("run/dash",) * n
    for row in range(n):
        shown = [decode(frame, channels=3) for frame in frames_of(images.read(row))]
        first = row * clip.step
        assert np.array_equal(shown, [frame_pixels(80, number) for number in range(first, first + 4)])


def test_options_of_clips_must_give_whole_frames():
    assert ClipOptions().frames == ClipOptions().step == 16
    assert ClipOptions(seconds=4, fps=4, stride=0.25).step == 1
    for wrong in ({"seconds": 1.1}, {"seconds": 0.25}, {"stride": 0.3}, {"stride": 0}, {"fps": -1}):
        with pytest.raises(ConfigError, match="clip"):
            parse(ClipOptions, wrong, "clip")


def test_classes_splits_and_unlabeled_recordings(tmp_path):
    root = write_recordings(tmp_path / "plain")
    images = open_images(root, clip=FOUR)
    assert images.classes == ("run", "walk")
    assert dict(zip(images.paths, images.labels.tolist(), strict=True))["unlabeled/new"] == -1
    assert images.split is None
    for part in ("train", "test"):
        write_frames(tmp_path / "parts" / part / "run" / f"{part}0", range(4), 7 if part == "train" else 9)
    write_frames(tmp_path / "parts" / "unlabeled" / "new", range(4), 100)
    images = open_images(tmp_path / "parts", clip=FOUR)
    found = {path: (part, group) for path, part, group in zip(images.paths, images.split, images.groups, strict=True)}
    assert found == {
        "train/run/train0": ("train", "run/train0"),
        "test/run/test0": ("test", "run/test0"),
        "unlabeled/new": ("unlabeled", "new"),
    }
    assert sorted(images.labels.tolist()) == [-1, 0, 0]


def test_a_recording_is_never_torn_by_a_split(tmp_path):
    root = write_recordings(tmp_path / "long", n=6, n_frames=12)
    images = open_images(root, clip=FOUR)
    assert len(images) == 3 * 13
    split = make_split(images, None, DataOptions(val_rate=0.34), 0)
    group = dict(zip(images.ids, images.groups, strict=True))
    sides = [{group[name] for name in part} for part in (split.labeled, split.validation)]
    assert all(sides)
    assert not sides[0] & sides[1]
    assert not {group[name] for name in split.unlabeled} & sides[1]


def test_ids_are_of_the_frames_and_equal_clips_count_once(tmp_path):
    write_frames(tmp_path / "set" / "run" / "a", range(4), 50)
    write_frames(tmp_path / "set" / "run" / "b", range(4), 50)
    write_frames(tmp_path / "set" / "run" / "c", range(1, 5), 50)
    images = open_images(tmp_path / "set", clip=FOUR)
    assert list(images.paths) == ["run/a", "run/c"]
    assert images.folded == {"run/b": "run/a"}
    assert images.ids[0] == content_id(images.read(0))
    files = tuple((tmp_path / "set" / "run" / "a" / f"frame_{i:03d}.png").read_bytes() for i in range(4))
    assert images.ids[0] == content_id(files)
    assert content_id(files) != content_id(files[::-1])


def test_an_id_changes_with_any_frame_and_with_the_options(tmp_path, monkeypatch):
    monkeypatch.setenv("EKE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("eke.data.identity.SETTLED_NS", -(10**18))  # files are new here
    write_frames(tmp_path / "set" / "run" / "a", range(8), 50)
    one = open_images(tmp_path / "set", clip=FOUR).ids
    assert open_images(tmp_path / "set", clip=FOUR).ids == one
    assert open_images(tmp_path / "set", clip=HALVES).ids[::2] == one
    Image.fromarray(frame_pixels(51, 6)).save(tmp_path / "set" / "run" / "a" / "frame_006.png")
    again = open_images(tmp_path / "set", clip=FOUR).ids
    assert again[0] == one[0]
    assert again[1] != one[1]
    file = tmp_path / "set" / "run" / "a" / "frame_001.png"
    Image.fromarray(frame_pixels(52, 1)).save(file)
    os.utime(file, (1, 1))  # an older file was put in its place
    assert open_images(tmp_path / "set", clip=FOUR).ids[0] != one[0]


@pytest.mark.parametrize("zipped", [False, True])
def test_bad_recordings_are_named_and_set_aside(recordings, tmp_path, zipped):
    write_frames(recordings / "run" / "gap", [0, 1, 4, 5, 6], 90)
    write_frames(recordings / "run" / "short", range(3), 91)
    write_frames(recordings / "walk" / "twice", range(4), 92)
    (recordings / "walk" / "twice" / "frame_2.png").write_bytes(b"")
    Image.fromarray(frame_pixels(3, 3)).save(recordings / "walk" / "cover.png")
    source = recordings
    if zipped:
        source = tmp_path / "recordings.zip"
        with zipfile.ZipFile(source, "w") as archive:
            for file in sorted(recordings.rglob("*.png")):
                archive.write(file, file.relative_to(recordings))
    images = open_images(source, clip=FOUR)
    assert len(images) == 7
    problems = {problem.path: problem for problem in images.problems}
    assert {path: problem.kind for path, problem in problems.items()} == {
        "run/gap": "missing frames",
        "run/short": "too short",
        "walk/twice": "two frames",
        "walk/cover.png": "ignored",
    }
    assert "2 missing between frame_001.png and frame_004.png" in problems["run/gap"].detail
    assert "3 frames, and a clip has 4" in problems["run/short"].detail
    assert all(problem.remedy for problem in images.problems)


def test_nothing_left_is_an_error_with_the_remedy(recordings):
    with pytest.raises(DataError, match=r"No recording of .* 4 frames, and a clip has 16 .*clip\.seconds"):
        open_images(recordings)


def test_a_bad_frame_sets_its_clip_aside_and_is_named(recordings, tmp_path):
    (recordings / "run" / "run0" / "frame_002.png").write_bytes(b"no picture")
    images = open_images(recordings, clip=FOUR)
    cache = build_cache(images, (12, 16), channels=3, fit="crop", folder=tmp_path / "cache")
    (problem,) = cache.problems
    assert (problem.path, problem.kind) == ("run/run0", "not an image")
    assert problem.detail.startswith("frame 2 of 4: ")
    checked = check_images(images)
    assert [each.path for each in checked.problems] == ["run/run0"]
    assert checked.problems[0].detail.startswith("frame 2 of 4: ")


@pytest.mark.parametrize("how", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_cache_equals_decoding_each_frame(recordings, tmp_path, how, channels):
    images = open_images(recordings, clip=FOUR)
    cache = build_cache(images, (8, 8), channels=channels, fit=how, folder=tmp_path / "cache")
    assert cache.shape == (channels, 4, 8, 8)
    order = [4, 0, 5]
    read = cache.read(order)
    resident = cache.resident(cache.device)
    assert resident.shape == cache.shape
    for place, row in enumerate(order):
        frames = frames_of(images.read(row))
        by_hand = np.stack([fit(decode(frame, channels=channels), (8, 8), how)[0] for frame in frames], 1)
        assert np.array_equal(read[place].numpy(), by_hand)
        assert np.array_equal(resident.read([row])[0].numpy(), by_hand)
        _, affine = fit(decode(frames[0], channels=channels), (8, 8), how)
        assert np.array_equal(cache.affine[row].numpy(), affine)
    assert build_cache(images, (8, 8), channels=channels, fit=how, folder=tmp_path / "cache").path == cache.path


def test_other_windows_of_the_same_frames_have_a_cache_of_their_own(tmp_path):
    write_frames(tmp_path / "set" / "run" / "a", range(4), 50)
    caches = [
        build_cache(open_images(tmp_path / "set", clip=clip), (8, 8), channels=3, fit="crop", folder=tmp_path / "cache")
        for clip in (FOUR, ClipOptions(seconds=2, fps=1))
    ]
    assert [cache.shape[1] for cache in caches] == [4, 2]


def test_the_working_form_is_that_of_frames(recordings):
    assert survey(open_images(recordings, clip=FOUR)) == ((12, 16), 1)  # grey tones


def test_frames_are_images_where_images_are_needed(recordings):
    grouped = open_images(recordings, group_level=True, clip=FOUR)
    assert len(grouped) == 28
    assert grouped.frames is None
    assert len(set(grouped.groups)) == 7
    single = open_images(recordings, clip=None)
    assert set(single.paths) == set(grouped.paths)
    assert single.frames is None


def test_clips_and_images_do_not_mix(recordings):
    clips, images = open_images(recordings, clip=FOUR), open_images(recordings, group_level=True)
    with pytest.raises(DataError, match=r"holds clips of 4 frames, and .* holds images"):
        with_unlabeled(clips, images)


def test_image_sets_of_clips_can_be_pickled(recordings):
    images = open_images(recordings, clip=FOUR)
    assert pickle.loads(pickle.dumps(images)).read(3) == images.read(3)


def test_real_clips(shared_data: Path) -> None:
    images = open_images(shared_data / "sign-clips.zip")
    assert len(images) == len(set(images.groups)) == 216
    assert images.frames == 16
    assert len(images.classes) == 6
    assert [images.split.count(part) for part in ("train", "test")] == [144, 72]
    assert images.paths[0] == "test/01_speed_limit_30/track_00002"
    assert not images.problems
