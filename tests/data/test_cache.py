"""The pixel cache: equal to direct decoding, built once, whole or not there, and small to read from."""

import errno
import io
import os
import signal
import subprocess
import sys
import textwrap
import time
from hashlib import blake2b

import numpy as np
import pytest
import torch
from PIL import Image

from eke.data import decoding
from eke.data.cache import ChosenPixels, PixelCache, ResidentPixels, build_cache
from eke.data.decode import decode, fit
from eke.data.decoding import survey
from eke.errors import DataError

OPTIONS = {"size": (12, 16), "channels": 3, "fit": "crop"}


class Photos:
    """An image set of encoded images in memory; None stands for a file that is gone."""

    frames = None

    def __init__(self, contents):
        self.contents = contents
        self.ids = [blake2b(content or b"gone", digest_size=8).hexdigest() for content in contents]
        self.paths = tuple(f"photos/{i}.png" for i in range(len(contents)))

    def __len__(self):
        return len(self.contents)

    def read(self, index):
        if self.contents[index] is None:
            raise FileNotFoundError(errno.ENOENT, "No such file", self.paths[index])
        return self.contents[index]


def png(height, width, seed, mode="RGB"):
    shape = (height, width, 3) if mode == "RGB" else (height, width)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def make_photos(n=20):
    return Photos([png(10 + i % 5, 14 + i % 7, i) for i in range(n)])


def direct(photos, row):
    return fit(decode(photos.read(row), channels=3), (12, 16), "crop")


@pytest.mark.parametrize("how", ["threads", "helpers"])
def test_cache_equals_direct_decoding(tmp_path, monkeypatch, how):
    photos = make_photos()
    monkeypatch.setattr(decoding, "CHUNK", 3 * 3 * 12 * 16)
    monkeypatch.setattr(decoding, "WORTH_SECONDS", 1e9 if how == "threads" else 0.0)
    done = []

    class Advance:
        def __init__(self, label, total):
            assert total == 20

        def __enter__(self):
            return done.append

        def __exit__(self, *error):
            done.append("closed")

    cache = build_cache(photos, **OPTIONS, folder=tmp_path, progress=Advance)
    assert sum(done[:-1]) == 20
    assert done[-1] == "closed"
    assert len(cache) == 20
    assert cache.shape == (3, 12, 16)
    assert cache.problems == []
    for row in range(20):
        pixels, affine = direct(photos, row)
        assert torch.equal(cache.read([row])[0], torch.as_tensor(pixels))
        assert torch.allclose(cache.affine[row], torch.as_tensor(affine, dtype=torch.float32))


def test_read_takes_any_order_and_fills_a_reused_buffer(tmp_path):
    cache = build_cache(make_photos(), **OPTIONS, folder=tmp_path)
    everything = cache.load()
    rows = torch.tensor([7, 0, 19, 7, 3])
    assert torch.equal(cache.read(rows), everything[rows])
    assert torch.equal(cache.load(rows), everything[rows])
    buffer = torch.empty((5, 3, 12, 16), dtype=torch.uint8)
    assert cache.read(rows.tolist(), out=buffer) is buffer
    assert torch.equal(buffer, everything[rows])
    assert cache.read([]).shape == (0, 3, 12, 16)


def test_small_cache_becomes_resident_and_a_large_one_stays_a_file(tmp_path, monkeypatch):
    cache = build_cache(make_photos(), **OPTIONS, folder=tmp_path)
    resident = cache.resident(torch.device("cpu"))
    assert isinstance(resident, ResidentPixels)
    assert (len(resident), resident.shape) == (20, (3, 12, 16))
    rows = torch.tensor([4, 4, 1])
    assert torch.equal(resident.read(rows), cache.read(rows))
    assert torch.equal(resident.read([4, 4, 1]), cache.read(rows))
    monkeypatch.setattr("eke.data.cache.SMALL", 1000)
    assert cache.resident(torch.device("cpu")) is cache


@pytest.mark.gpu
def test_resident_on_the_accelerator(tmp_path, monkeypatch):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    cache = build_cache(make_photos(), **OPTIONS, folder=tmp_path)
    monkeypatch.setattr("eke.data.cache.SMALL", 1000)
    device = torch.device("cuda")
    resident = cache.resident(device)
    assert resident.device.type == "cuda"
    assert torch.equal(resident.read([5, 2]).cpu(), cache.read([5, 2]))


def test_second_build_opens_the_first_and_every_argument_names_the_cache(tmp_path):
    photos = make_photos()
    paths = {build_cache(photos, **OPTIONS, folder=tmp_path).path for _ in range(2)}
    assert len(paths) == 1
    (path,) = paths
    written = path.stat().st_mtime_ns
    assert build_cache(photos, **OPTIONS, folder=tmp_path).path.stat().st_mtime_ns == written
    for change in ({"size": (16, 12)}, {"channels": 1}, {"fit": "pad"}):
        paths.add(build_cache(photos, **{**OPTIONS, **change}, folder=tmp_path).path)
    paths.add(build_cache(Photos(photos.contents[::-1]), **OPTIONS, folder=tmp_path).path)
    assert len(paths) == 5


def test_bad_images_are_named_and_set_aside(tmp_path, monkeypatch):
    monkeypatch.setattr(decoding, "CHUNK", 3 * 3 * 12 * 16)
    photos = make_photos()
    photos.contents[3] = b"this is a text file"
    photos.contents[5] = photos.contents[5][:60]
    photos.contents[8] = None
    photos.ids[3] = photos.ids[5] = photos.ids[8] = "changed"
    for _ in range(2):  # the second time from the index on disk
        cache = build_cache(photos, **OPTIONS, folder=tmp_path)
        assert [(p.row, p.path) for p in cache.problems] == [(i, f"photos/{i}.png") for i in (3, 5, 8)]
        assert [cache.problems[i].kind for i in (0, 2)] == ["not an image", "unreadable"]
        assert all(problem.detail and problem.remedy for problem in cache.problems)
        assert not cache.read([3, 5, 8]).any()
        assert torch.equal(cache.read([4])[0], torch.as_tensor(direct(photos, 4)[0]))


def test_no_usable_image_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no image"):
        build_cache(Photos([]), **OPTIONS, folder=tmp_path)
    with pytest.raises(DataError, match="None of 2 images"):
        build_cache(Photos([b"a", b"b"]), **OPTIONS, folder=tmp_path)


def test_damaged_cache_is_refused(tmp_path):
    photos = make_photos()
    path = build_cache(photos, **OPTIONS, folder=tmp_path).path
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(DataError, match="damaged"):
        PixelCache(path)
    (tmp_path / f"{path.stem}.index.npz").write_bytes(b"PK")
    with pytest.raises(DataError, match="damaged"):
        PixelCache(path)


BUILD = textwrap.dedent("""
    import importlib.util, sys, time
    from pathlib import Path
    import torch
    spec = importlib.util.spec_from_file_location("test_cache", sys.argv[1])
    tests = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tests)
    class Slow(tests.Photos):
        def read(self, index):
            with open(sys.argv[3], "a") as log:
                log.write("read\\n")
            time.sleep(float(sys.argv[4]))
            return super().read(index)
    tests.decoding.CHUNK = 2 * 3 * 12 * 16
    photos = Slow(tests.make_photos().contents)
    try:
        print(tests.build_cache(photos, **tests.OPTIONS, folder=Path(sys.argv[2])).load().sum().item())
    except tests.DataError as error:
        print("DataError:", error)
""")


def start_build(folder, log, seconds, preexec=None):
    command = [sys.executable, "-c", BUILD, __file__, str(folder), str(log), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=preexec)


def test_two_processes_at_once_build_once(tmp_path):
    log = tmp_path / "reads.log"
    builds = [start_build(tmp_path / "caches", log, 0.02) for _ in range(2)]
    sums = [build.communicate(timeout=60)[0] for build in builds]
    assert sums[0] == sums[1]
    assert int(sums[0]) == build_cache(make_photos(), **OPTIONS, folder=tmp_path / "other").load().sum()
    assert log.read_text().count("read") == 20


def test_killed_build_leaves_nothing_that_counts(tmp_path):
    log = tmp_path / "reads.log"
    build = start_build(tmp_path / "caches", log, 0.1)
    while not log.exists() or log.read_text().count("read") < 5:
        assert build.poll() is None
        time.sleep(0.02)
    build.send_signal(signal.SIGKILL)
    build.communicate()
    assert not list((tmp_path / "caches").glob("*.pixels"))
    cache = build_cache(make_photos(), **OPTIONS, folder=tmp_path / "caches")
    assert torch.equal(cache.load(), build_cache(make_photos(), **OPTIONS, folder=tmp_path / "other").load())
    assert not list((tmp_path / "caches").glob("*.part"))


def test_full_disk_is_said_before_decoding_and_leaves_nothing(tmp_path):
    import resource

    log = tmp_path / "reads.log"
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))  # noqa: E731
    output, _ = start_build(tmp_path / "caches", log, 0, preexec=limit).communicate(timeout=60)
    assert "DataError: The pixel cache needs 0.00 GB" in output
    assert "Free some space" in output
    assert not log.exists()
    assert [path.suffix for path in (tmp_path / "caches").iterdir()] == [".lock"]


@pytest.mark.parametrize("when", ["pixels", "index"])
def test_disk_that_fills_up_on_the_way_leaves_nothing(tmp_path, monkeypatch, when):
    def fail(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(decoding, "decode_chunk", fail) if when == "pixels" else monkeypatch.setattr(np, "savez", fail)
    with pytest.raises(DataError, match="Free some space"):
        build_cache(make_photos(), **OPTIONS, folder=tmp_path)
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]


def test_folder_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="Cannot write the pixel cache"):
        build_cache(make_photos(), **OPTIONS, folder=tmp_path / "file")


def test_helper_that_dies_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(decoding, "CHUNK", 3 * 3 * 12 * 16)
    monkeypatch.setattr(decoding, "WORTH_SECONDS", 0.0)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(DataError, match=r"A helper .* died at photos/\d+\.png to photos/\d+\.png"):
        build_cache(make_photos(), **OPTIONS, folder=tmp_path)
    assert not list(tmp_path.glob("*.part"))


def test_survey_takes_the_median_size_and_counts_channels():
    assert survey(Photos([png(30, 40, i) for i in range(5)])) == ((30, 40), 3)
    assert survey(Photos([png(8, 8, i, "L") for i in range(3)])) == ((8, 8), 1)
    assert survey(Photos([png(8, 8, 0, "L"), png(8, 8, 1), png(8, 8, 2, "L")])) == ((8, 8), 3)
    assert survey(Photos([png(20, 50, 0), png(30, 40, 1), png(31, 60, 2), b"bad", None])) == ((30, 50), 3)
    large = Photos([png(300, 448, 0)])
    assert survey(large) == ((150, 224), 3)
    with pytest.raises(DataError, match="No image can be decoded"):
        survey(Photos([b"bad"]))


def test_survey_looks_at_a_bounded_even_sample():
    class Counted(Photos):
        reads = 0

        def read(self, index):
            self.reads += 1
            return super().read(index)

    photos = Counted([png(8, 8, 0)] * 1000)
    survey(photos)
    assert photos.reads == decoding.SAMPLED


def test_chosen_pixels_are_counted_anew():
    pixels = torch.arange(6 * 3 * 2 * 2, dtype=torch.uint8).reshape(6, 3, 2, 2)
    chosen = ChosenPixels(ResidentPixels(pixels), [4, 0, 5])
    assert (len(chosen), chosen.shape, chosen.device) == (3, (3, 2, 2), pixels.device)
    assert torch.equal(chosen.read([2, 0]), pixels[[5, 4]])
    out = torch.empty(1, 3, 2, 2, dtype=torch.uint8)
    chosen.read(torch.tensor([1]), out)
    assert torch.equal(out, pixels[:1])
