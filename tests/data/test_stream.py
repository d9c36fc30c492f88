"""The stream: batches are a pure function of (seed, step), shared among processes, fair to every image."""

from collections import Counter

import pytest
import torch

from eke import collectives
from eke.augment.presets import PRESETS
from eke.data.cache import ResidentPixels
from eke.data.stream import Stream, ViewPlan
from eke.errors import ConfigError, DataError

CPU = torch.device("cpu")
FIXMATCH = ViewPlan({"weak": "weak"}, {"weak": "weak", "strong": "randaugment/google"})
PLAIN = ViewPlan({"weak": "none"}, {"weak": "none"})


def make_stream(plan=FIXMATCH, n_labeled=10, n_unlabeled=50, batch_size=4, mu=2, seed=0, device=CPU):
    """Rows below n_labeled are labeled, and rows from 5 on unlabeled: the pools overlap."""
    pixels = torch.randint(
        0, 256, (5 + n_unlabeled + n_labeled, 3, 8, 10), dtype=torch.uint8, generator=torch.Generator()
    )
    rows = range(n_labeled)
    labels = [row % 3 for row in rows]
    unlabeled = range(5, 5 + n_unlabeled)
    return Stream(
        ResidentPixels(pixels),
        rows,
        labels,
        unlabeled,
        plan,
        n_labeled=batch_size,
        n_unlabeled=mu * batch_size,
        seed=seed,
        device=device,
    )


def assert_equal(a, b):
    """Compare two batches bit by bit, geometry and masks included."""
    assert a.step == b.step
    for name in ("y", "x_index", "u_index"):
        assert torch.equal(getattr(a, name), getattr(b, name)), name
    for side in ("x", "u"):
        assert list(getattr(a, side)) == list(getattr(b, side))
        for name, view in getattr(a, side).items():
            other = getattr(b, side)[name]
            assert torch.equal(view.pixels, other.pixels), (side, name)
            assert torch.equal(view.geometry.matrix, other.geometry.matrix), (side, name)
            assert torch.equal(view.valid, other.valid), (side, name)


def test_batch_has_the_declared_views_and_shapes():
    batch = make_stream().batch(3)
    assert list(batch.x) == ["weak"]
    assert list(batch.u) == ["weak", "strong"]
    assert batch.x["weak"].pixels.shape == (4, 3, 8, 10)
    assert batch.u["strong"].pixels.shape == (8, 3, 8, 10)
    assert batch.u["strong"].pixels.dtype == torch.float32
    assert batch.y.dtype == batch.x_index.dtype == batch.u_index.dtype == torch.int64
    assert batch.step == 3


def test_views_show_the_images_that_the_indices_name():
    stream = make_stream(PLAIN)
    batch = stream.batch(6)
    pixels = stream._pixels.pixels.float() / 255
    assert torch.equal(batch.x["weak"].pixels, pixels[batch.x_index])
    assert torch.equal(batch.u["weak"].pixels, pixels[5 + batch.u_index])
    assert torch.equal(batch.y, batch.x_index % 3)


def test_batch_is_the_same_whatever_was_asked_before():
    fresh = make_stream().batch(41)
    stream = make_stream()
    for step in (0, 60, 7, 41):
        last = stream.batch(step)
    assert_equal(fresh, last)
    torch.manual_seed(5)
    torch.rand(3)
    assert_equal(fresh, stream.batch(41))


def test_resumed_run_sees_the_rest_of_the_uninterrupted_one():
    whole = [make_stream().batch(step) for step in range(12)]
    resumed = make_stream()
    for step in range(8, 12):
        assert_equal(whole[step], resumed.batch(step))


@pytest.mark.parametrize(("n_at_once", "n_labeled"), [(3, 10), (16, 3)])
def test_views_of_several_steps_made_at_once_are_those_of_single_steps(n_at_once, n_labeled):
    """An accelerator makes them so; rounds may begin anywhere, as after a resume."""
    stream = make_stream(n_labeled=n_labeled)
    stream.n_at_once = n_at_once
    for step in (0, 1, 2, 3, 9, 8, 8):
        assert_equal(make_stream(n_labeled=n_labeled).batch(step), stream.batch(step))


def test_slices_of_several_steps_made_at_once(monkeypatch):
    monkeypatch.setattr(collectives, "world_size", lambda: 2)
    monkeypatch.setattr(collectives, "rank", lambda: 1)
    stream = make_stream()
    stream.n_at_once = 4
    for step in range(5):
        assert_equal(make_stream().batch(step), stream.batch(step))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(("side", "n_at_once"), [(32, 16), (384, 1), (96, 13)])
def test_an_accelerator_makes_as_many_steps_at_once_as_fit(side, n_at_once):
    stream = Stream(
        ResidentPixels(torch.zeros(4, 3, side, side, dtype=torch.uint8)),
        *(range(4), [0, 1, 0, 1], range(4), FIXMATCH),
        n_labeled=16, n_unlabeled=80, seed=0, device=torch.device("cuda"),
    )  # fmt: skip
    assert stream.n_at_once == n_at_once


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_an_accelerator_is_not_waited_for():
    stream = make_stream(device=torch.device("cuda"))
    stream.batch(0)  # tables that are made once
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        batch = stream.batch(100)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    levels = [(each.u["strong"].pixels.cpu() * 255).round() for each in (batch, make_stream().batch(100))]
    assert torch.equal(*levels)  # an accelerator's division by 255 may differ in the last bit


def test_seeds_and_steps_give_different_batches():
    a, b, c = make_stream().batch(0), make_stream(seed=1).batch(0), make_stream().batch(1)
    assert not torch.equal(a.u_index, b.u_index)
    assert not torch.equal(a.u_index, c.u_index)
    assert not torch.equal(a.u["strong"].geometry.matrix, c.u["strong"].geometry.matrix)


def test_every_epoch_visits_every_image_once():
    stream = make_stream(PLAIN, n_labeled=10, n_unlabeled=48)
    x = torch.cat([stream.batch(step).x_index for step in range(10)])
    u = torch.cat([stream.batch(step).u_index for step in range(18)])
    for index, n in ((x, 10), (u, 48)):
        epochs = index.view(-1, n)
        assert torch.equal(epochs.sort(1).values, torch.arange(n).expand_as(epochs))
        assert not torch.equal(epochs[0], epochs[1])


@pytest.mark.parametrize("n", [1, 3, 4, 5])
def test_pool_smaller_than_the_batch_wraps_across_epochs(n):
    stream = make_stream(PLAIN, n_labeled=n, batch_size=8)
    x = torch.cat([stream.batch(step).x_index for step in range(5)])
    assert len(x) == 40
    epochs = x[: 40 // n * n].view(-1, n)
    assert torch.equal(epochs.sort(1).values, torch.arange(n).expand_as(epochs))


def test_order_is_uniform():
    stream = make_stream(PLAIN, n_labeled=4, batch_size=4, mu=1, n_unlabeled=4)
    pairs = Counter((int(b.x_index[0]), int(b.u_index[0])) for b in map(stream.batch, range(1600)))
    assert len(pairs) == 16
    chi_squared = sum((n - 100) ** 2 / 100 for n in pairs.values())
    assert chi_squared < 37.7  # 0.999 quantile at 15 degrees of freedom: places are fair, and x does not follow u


@pytest.mark.parametrize("world", [2, 4])
def test_slices_of_all_processes_make_the_global_batch(world, monkeypatch):
    whole = make_stream().batch(9)
    monkeypatch.setattr(collectives, "world_size", lambda: world)
    parts = []
    for number in range(world):
        monkeypatch.setattr(collectives, "rank", lambda number=number: number)
        parts.append(make_stream().batch(9))
    joined = whole._replace(
        y=torch.cat([p.y for p in parts]),
        x_index=torch.cat([p.x_index for p in parts]),
        u_index=torch.cat([p.u_index for p in parts]),
        x={name: _join([p.x[name] for p in parts]) for name in whole.x},
        u={name: _join([p.u[name] for p in parts]) for name in whole.u},
    )
    assert_equal(whole, joined)
    assert len(parts[0].y) == 4 // world


def _join(views):
    geometry = views[0].geometry._replace(matrix=torch.cat([v.geometry.matrix for v in views]))
    return views[0]._replace(
        pixels=torch.cat([v.pixels for v in views]),
        geometry=geometry,
        valid=torch.cat([v.valid for v in views]),
    )


def test_another_view_does_not_change_the_others():
    a = make_stream(FIXMATCH).batch(2)
    b = make_stream(FIXMATCH._replace(unlabeled={"strong_2": "simclr", **FIXMATCH.unlabeled})).batch(2)
    assert torch.equal(a.u["strong"].pixels, b.u["strong"].pixels)
    assert torch.equal(a.u["weak"].pixels, b.u["weak"].pixels)
    assert torch.equal(a.x["weak"].pixels, b.x["weak"].pixels)


def test_two_views_of_one_preset_are_drawn_apart():
    plan = ViewPlan({"weak": "weak"}, {"strong_1": "randaugment/google", "strong_2": "randaugment/google"})
    u = make_stream(plan).batch(0).u
    assert not torch.equal(u["strong_1"].pixels, u["strong_2"].pixels)


def test_method_without_unlabeled_views_reads_none():
    plan = ViewPlan({"weak": "weak"}, {})
    supervised = make_stream(plan, n_unlabeled=0).batch(0)
    assert supervised.u == {}
    assert supervised.u_index.shape == (0,)
    assert torch.equal(supervised.x["weak"].pixels, make_stream(plan, mu=7, n_unlabeled=0).batch(0).x["weak"].pixels)


def test_errors_say_what_to_do(monkeypatch):
    with pytest.raises(ConfigError, match="Did you mean 'weak'"):
        make_stream(ViewPlan({"weak": "weka"}, {}))
    with pytest.raises(DataError, match="no labeled image"):
        make_stream(n_labeled=0)
    with pytest.raises(DataError, match="--method supervised"):
        make_stream(n_unlabeled=0)
    with pytest.raises(DataError, match="2 labeled images have 1 labels"):
        Stream(make_stream()._pixels, [0, 1], [0], [2], PLAIN, n_labeled=1, n_unlabeled=1, seed=0, device=CPU)
    monkeypatch.setattr(collectives, "world_size", lambda: 3)
    with pytest.raises(ConfigError, match=r"4 labeled images .* 3 processes.*batch\.labeled"):
        make_stream()


def test_every_preset_streams():
    for name in PRESETS:
        view = make_stream(ViewPlan({"x": name}, {})).batch(0).x["x"]
        assert view.pixels.shape == (4, 3, 8, 10)
        assert view.pixels.min() >= 0
        assert view.pixels.max() <= 1
