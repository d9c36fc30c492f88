"""`eke harmonize` end to end: the run's own images or others, what is compared, and what is refused."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from eke.config import parse
from eke.engine.journal import RunFolder
from eke.engine.model_files import load_classifier
from eke.errors import CheckpointError, ConfigError
from eke.explain.harmony import harmony
from eke.losses.correlation import pearson
from eke.models.network import layers
from eke.progress import silent
from eke.tasks.agreement_gain import Agreements
from eke.tasks.harmonize import harmonize, harmonize_options
from eke.tasks.options import FitOptions, resolve_pretrain
from eke.tasks.prepare import prepare
from eke.tasks.pretrain import pretrain

FLAGS = {"steps": 12}
WORDS = ("evaluate.every_steps=4", "evaluate.log_every_steps=4")


@pytest.fixture(scope="module")
def harmonized(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("harmonized") / "run"
    harmonize(finished_run, out=out, stop="agreement", flags=FLAGS, assignments=WORDS)
    return out


def test_it_is_the_runs_own_problem_and_the_run_is_what_it_is_compared_with(
    harmonized: Path, finished_run: Path
) -> None:
    assert (harmonized / "split.json").read_text() == (finished_run / "split.json").read_text()
    folder = RunFolder(harmonized)
    results = folder.read(folder.results)
    assert results["baseline"]["run"] == str(finished_run)
    assert results["difference"]["test"]["accuracy"]["low"] <= results["difference"]["test"]["accuracy"]["high"]
    assert "class head included" in results["notes"][0]
    evaluations = [line for line in folder.lines() if "evaluation" in line]
    best = max(evaluations, key=lambda line: line["attention_agreement"])
    assert results["kept"]["step"] == best["step"]
    assert all("loss_x" not in line for line in folder.lines())


def test_the_report_shows_both_explanations_before_and_after(harmonized: Path, finished_run: Path) -> None:
    page = (harmonized / "report.html").read_text()
    assert "Where it looks" in page
    assert page.count(f"before: fixmatch ({finished_run})") == page.count("after: harmonize") >= 6
    assert page.count("guided of input") == 6  # three images, before and after
    assert "Attention maps of harmonize" in page


def test_agreement_is_measured_image_by_image_before_and_after(harmonized: Path, finished_run: Path) -> None:
    """Slow reference: one image at a time, with the loss's own function, on the images that validate."""
    folder = RunFolder(harmonized)
    found = folder.read(folder.results)["agreement_by_image"]
    ids = set(folder.read(folder.split)["validation"])
    assert found["part"] == "validation"
    assert found["n"] + found["n_flat"] == len(ids)
    assert found["gain"]["low"] <= found["gain"]["value"] <= found["gain"]["high"]
    material = prepare(parse(FitOptions, folder.read(folder.config)), torch.device("cpu"), silent)
    part = material.part("validation")
    for model, got in zip((finished_run, harmonized), Agreements.load(folder.agreements), strict=True):
        network, card = load_classifier(model / "model", torch.device("cpu"))
        expected = []
        for row in part.rows:
            image = part.pixels.read([row]).float() / 255
            one = harmony(network, image, layers(network, card.size)[-1], correlation=pearson)
            expected.append(math.nan if one.flat else one.similarity.item())
        np.testing.assert_allclose(got, expected, atol=1e-4)
    means = [np.nanmean(each) for each in Agreements.load(folder.agreements).known()]
    assert found["gain"]["value"] == pytest.approx(means[1] - means[0])
    page = (harmonized / "report.html").read_text()
    assert "Gain in agreement against agreement before" in page
    assert "Beware of regression to the mean" in page
    assert len(found["quarters"]) == 4
    before = RunFolder(finished_run)
    assert before.read(before.results)["agreement_by_image"] is None


def test_on_images_from_elsewhere(finished_run: Path, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 17, (30, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "other.npz", images=images)
    results = harmonize(
        finished_run, str(tmp_path / "other.npz"), tmp_path / "run", stop="last", flags={"steps": 4}, assignments=WORDS
    )
    assert results is not None
    assert results["n_unlabeled"] == 30
    assert results["kept"] is None
    its = json.loads((finished_run / "split.json").read_text())
    split = json.loads((tmp_path / "run" / "split.json").read_text())
    assert (split["labeled"], split["validation"], split["test"]) == (its["labeled"], its["validation"], its["test"])
    assert not set(split["unlabeled"]) & {*its["unlabeled"], *its["labeled"]}


def test_strategies_and_stops(finished_run: Path, tmp_path: Path) -> None:
    flags = {"steps": 4, "method": {"strategy": "alternated"}}
    words = ("evaluate.every_steps=2", "evaluate.log_every_steps=2")
    results = harmonize(finished_run, out=tmp_path / "run", stop="labels", flags=flags, assignments=words)
    assert results is not None
    lines = [line for line in RunFolder(tmp_path / "run").lines() if "loss" in line]
    assert all({"loss_x", "loss_attention"} <= set(line) for line in lines)
    options = harmonize_options(finished_run, None, "labels", {}, ())
    assert (options.evaluate.keep, options.evaluate.patience) == ("labels", 3)
    assert harmonize_options(finished_run, None, "agreement", {}, ()).evaluate.keep == "attention"
    assert harmonize_options(finished_run, None, "last", {}, ("evaluate.patience=null",)).evaluate.keep == "last"


def test_what_cannot_be_harmonized_is_refused(finished_run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Unknown --stop 'label'. Did you mean 'labels'"):
        harmonize(finished_run, stop="label")
    with pytest.raises(CheckpointError, match="not a finished run"):
        harmonize(tmp_path)
    with pytest.raises(ConfigError, match="compute.compile=false"):
        harmonize(finished_run, out=tmp_path / "compiled", flags=FLAGS, assignments=("compute.compile=true",))
    flags = {"source": "digits", "steps": 2, "model": {"name": "small"}, "batch": {"size": 8}}
    pretrain(resolve_pretrain("simclr", flags), tmp_path / "headless")
    with pytest.raises(ConfigError, match="was trained without labels and decides nothing"):
        harmonize(tmp_path / "headless")
