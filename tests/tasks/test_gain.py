"""What the whole is for: on real digits with 40 labels, unlabeled images help."""

from pathlib import Path

import pytest

from eke.metrics.statistics import paired_t
from eke.tasks.demo import demo_options
from eke.tasks.fit import fit


@pytest.mark.slow
def test_fixmatch_beats_supervised_on_digits_with_40_labels(tmp_path: Path) -> None:
    method, baseline = [], []
    for seed in range(5):
        results = fit(demo_options(seed), tmp_path / str(seed))
        assert results["labels"]["total"] == 40
        method.append(results["evaluations"]["test"]["accuracy"]["value"])
        baseline.append(results["baseline"]["evaluations"]["test"]["accuracy"]["value"])
    compared = paired_t(method, baseline)
    print(f"fixmatch {method}\nsupervised {baseline}\ndifference {compared}")
    assert compared.interval.low > 0
