"""The gain in agreement by agreement before: against slow loops, and what noise alone does to it."""

import math
from pathlib import Path

import numpy as np
import pytest

from eke.errors import CheckpointError
from eke.metrics.statistics import bootstrap, per_image_mean
from eke.tasks.agreement_gain import Agreements, gain_by_quarter


def some(n: int = 50, seed: int = 0) -> Agreements:
    generator = np.random.default_rng(seed)
    before = generator.uniform(-1, 1, n)
    return Agreements(before, np.clip(before + generator.normal(0.1, 0.2, n), -1, 1))


def test_quarters_are_those_of_a_slow_loop() -> None:
    given = some(50)
    found = gain_by_quarter(given)
    assert found is not None
    pairs = sorted(zip(given.before, given.after, strict=True))
    sizes = [quarter["n"] for quarter in found["quarters"]]
    assert sizes == [13, 13, 12, 12]
    start = 0
    for quarter, n in zip(found["quarters"], sizes, strict=True):
        its = pairs[start : start + n]
        start += n
        gains = [after - before for before, after in its]
        assert (quarter["low"], quarter["high"]) == (its[0][0], its[-1][0])
        assert quarter["before"] == pytest.approx(sum(before for before, _ in its) / n)
        assert quarter["after"] == pytest.approx(sum(after for _, after in its) / n)
        assert quarter["gain"]["value"] == pytest.approx(sum(gains) / n)
        assert quarter["gain"] == pytest.approx(bootstrap(per_image_mean(gains))._asdict())
    gains = [after - before for before, after in pairs]
    assert found["gain"]["value"] == pytest.approx(sum(gains) / 50)
    assert found["gain"]["low"] < found["gain"]["value"] < found["gain"]["high"]
    assert found["gained_rate"] == sum(gain > 0 for gain in gains) / 50
    assert (found["n"], found["n_flat"]) == (50, 0)


def test_flat_maps_are_left_out_on_either_side() -> None:
    whole = some(40)
    before, after = (np.append(each, [0.5, 0.5]) for each in whole)
    before[-1], after[-2] = math.nan, math.nan
    found = gain_by_quarter(Agreements(before, after))
    assert found == {**(gain_by_quarter(whole) or {}), "n_flat": 2}


def test_a_few_images_have_no_quarters() -> None:
    assert gain_by_quarter(some(15)) is None
    assert gain_by_quarter(some(16)) is not None
    assert gain_by_quarter(Agreements(np.full(99, math.nan), np.zeros(99))) is None


def test_noise_alone_lets_the_lowest_quarter_gain() -> None:
    """Why the report warns: nothing was learned here, each look is one truth per image and noise."""
    generator = np.random.default_rng(0)
    truth = generator.normal(0, 0.2, 400)
    first, second = (truth + generator.normal(0, 0.2, 400) for _ in range(2))
    found = gain_by_quarter(Agreements(first, second))
    assert found is not None
    assert found["gain"]["low"] < 0 < found["gain"]["high"]
    assert found["quarters"][0]["gain"]["low"] > 0
    assert found["quarters"][3]["gain"]["high"] < 0


def test_what_is_saved_is_read(tmp_path: Path) -> None:
    given = some(20)
    given.save(tmp_path / "a.npz")
    for mine, theirs in zip(Agreements.load(tmp_path / "a.npz"), given, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    (tmp_path / "a.npz").write_bytes(b"PK damaged")
    with pytest.raises(CheckpointError, match="Harmonize the run again"):
        Agreements.load(tmp_path / "a.npz")
