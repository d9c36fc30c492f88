"""`eke compare`: tests on the same images and on others, Holm over all that is shown, and what gets a star."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eke.engine.journal import RunFolder
from eke.engine.predict import Predictions
from eke.errors import ConfigError, DataError
from eke.metrics.multilabel import average_precision
from eke.metrics.statistics import holm
from eke.tasks.compare import compare, on_images_of_their_own, render


@pytest.fixture
def runs(finished_run: Path, tmp_path: Path) -> list[Path]:
    """Return three copies of a run without its baseline, right on 80 %, 60 % and 58 % of 200 test images."""
    return [made(finished_run, tmp_path / f"run-{rate}", rate) for rate in (80, 60, 58)]


def made(run: Path, copy: Path, percent_right: int, name: str = "") -> Path:
    shutil.copytree(run, copy)
    folder = RunFolder(copy)
    results = folder.read(folder.results)
    results.pop("baseline")
    folder.results.write_text(json.dumps(results), encoding="utf-8")
    labels = np.zeros(200, dtype=np.int64)
    probs = np.tile([0.1, 0.9], (200, 1)).astype(np.float32)
    probs[: 2 * percent_right] = [0.9, 0.1]
    Predictions(np.array([f"{name}{i}" for i in range(200)]), labels, probs).save(folder.predictions("test"))
    return copy


def found(compared: dict[str, Any]) -> list[tuple[int, bool]]:
    return [(round(100 * each["value"]), each["survives"]) for each in compared["differences"]]


def test_what_survives_holms_correction_gets_a_star(runs: list[Path], tmp_path: Path) -> None:
    compared = compare(runs, tmp_path / "c.html")
    assert found(compared) == [(20, True), (22, True), (2, False)]
    differences = compared["differences"]
    np.testing.assert_allclose([each["p_holm"] for each in differences], holm([each["p"] for each in differences]))
    text = render(compared)
    assert text.count("  better *\n") == 2
    assert text.count("  cannot tell\n") == 1
    assert "* survives Holm's correction for 3 comparisons: the corrected p is at most 0.05" in text
    page = (tmp_path / "c.html").read_text(encoding="utf-8")
    assert page.count("better *") == 2
    assert "survives Holm" in page
    assert "2 differences of 3 can be told from chance, 1 cannot." in page


def test_a_difference_that_is_sure_alone_may_not_survive_the_correction(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [made(finished_run, tmp_path / f"run-{i}", 60) for i in range(3)]
    p = iter([0.02, 0.03, 0.9])
    monkeypatch.setattr(
        "eke.tasks.compare.difference",
        lambda a, b: {"accuracy": {"value": 0.1, "low": 0.01, "high": 0.19, "p": next(p)}},
    )
    compared = compare(folders, tmp_path / "c.html")
    assert [each["p_holm"] for each in compared["differences"]] == pytest.approx([0.06, 0.06, 0.9])
    assert not any(each["survives"] for each in compared["differences"])
    assert "better" not in render(compared)


def test_unpaired_takes_other_images_which_paired_refuses(finished_run: Path, runs: list[Path], tmp_path: Path) -> None:
    other = made(finished_run, tmp_path / "elsewhere", 60, name="other-")
    with pytest.raises(DataError, match="different images.*--test unpaired"):
        compare([runs[0], other], tmp_path / "c.html")
    compared = compare([runs[0], other], tmp_path / "c.html", test="unpaired")
    assert compared["test"] == "unpaired"
    assert found(compared) == [(20, True)]
    # binomial, by the central limit theorem
    expected = 1.96 * math.sqrt(0.8 * 0.2 / 200 + 0.6 * 0.4 / 200)
    assert compared["differences"][0]["high"] == pytest.approx(0.2 + expected, abs=0.01)
    page = (tmp_path / "c.html").read_text(encoding="utf-8")
    assert "Unpaired differences" in page
    assert "--test unpaired" in page
    assert "each run on images of its own" in render(compared)


def test_on_the_same_images_the_paired_test_sees_more(runs: list[Path], tmp_path: Path) -> None:
    widths = [
        difference["high"] - difference["low"]
        for test in ("paired", "unpaired")
        for difference in compare(runs[:2], tmp_path / f"{test}.html", test=test)["differences"]
    ]
    assert widths[0] < 0.8 * widths[1]


def test_an_unknown_test_is_refused(runs: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Unknown --test 'pared'. Did you mean 'paired'"):
        compare(runs, tmp_path / "c.html", test="pared")


def test_runs_with_several_labels_are_compared_by_map_on_images_of_their_own() -> None:
    generator = np.random.default_rng(0)

    def predicted(n: int, noise: float) -> Predictions:
        labels = generator.integers(0, 2, (n, 3))
        probs = np.clip(0.25 + 0.5 * labels + noise * generator.normal(size=(n, 3)), 0, 1).astype(np.float32)
        return Predictions(np.array([f"{noise}-{i}" for i in range(n)]), labels, probs, np.full(3, 0.5))

    good, bad = predicted(60, 0.1), predicted(40, 0.6)
    found = on_images_of_their_own(good, bad, "mean_average_precision")
    means = [average_precision(each.probs, each.labels).mean for each in (good, bad)]
    assert found.interval.value == pytest.approx(means[0] - means[1])
    assert found.decided
    assert found.p < 0.01
    one_label = Predictions(good.ids, np.zeros(60, dtype=np.int64), good.probs)
    with pytest.raises(DataError, match="labels of one kind"):
        on_images_of_their_own(one_label, bad, "accuracy")
