import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.preprocessing import StandardScaler

import eke.tasks.probe as module
from eke.data.images import ImageSet
from eke.data.sources import open_images
from eke.data.splits import Split, load_split, make_split
from eke.engine.model_files import CARD, load_model, new_network, save_model
from eke.engine.predict import Predictions
from eke.errors import CheckpointError, ConfigError, DataError
from eke.metrics.representation import effective_rank, embedding_std, knn_probs
from eke.models.network import Network
from eke.tasks.measure import difference, measure
from eke.tasks.options import FitOptions
from eke.tasks.probe import C_GRID, overlap_notes, probe, render, untrained

from .conftest import digit_options

CPU = torch.device("cpu")
DATA = {"labels_per_class": 6, "val_rate": 0.34, "holdout_rate": 0.2, "size": [8, 8], "channels": 1}


def probe_options(seed: int = 0, **data: Any) -> FitOptions:
    """The images, labels and split of `finished_run`, in its form; `data` replaces values."""
    kept = {name: value for name, value in {**DATA, **data}.items() if value is not None}
    return digit_options("supervised", data=kept, seed=seed)


@pytest.fixture(scope="module")
def probed(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return probe(finished_run, probe_options(), tmp_path_factory.mktemp("probes") / "first")


def embedded(network: Network, digits: ImageSet, ids: tuple[str, ...]) -> tuple[torch.Tensor, np.ndarray]:
    """The embeddings and classes of images, by one forward over all of them."""
    rows = digits.positions(ids)
    pixels = torch.stack([torch.from_numpy(np.asarray(digits.read(int(row))).reshape(1, 8, 8)) for row in rows])
    with torch.no_grad():
        return network.eval()(pixels.float() / 255).embedding, digits.labels[rows]


@pytest.mark.parametrize("weights", ["trained", "untrained"])
def test_both_probes_are_those_of_their_definition(weights: str, probed: dict[str, Any], finished_run: Path) -> None:
    network, card = load_model(finished_run / "model", CPU)
    network = network if weights == "trained" else new_network(card, seed=0)
    digits = open_images("digits")
    split = make_split(digits, None, probe_options().data, seed=0)
    (x, y), (v, v_y), (t, t_y) = (
        embedded(network, digits, ids) for ids in (split.labeled, split.validation, split.test)
    )

    scaler = StandardScaler().fit(x.double())
    losses = {}
    for C in C_GRID:
        model = LogisticRegression(C=C, max_iter=1000).fit(scaler.transform(x.double()), y)
        losses[C] = log_loss(v_y, model.predict_proba(scaler.transform(v.double())))
    best = min(losses, key=losses.__getitem__)
    assert probed["C_chosen"]
    assert probed["C"][weights] == best
    model = LogisticRegression(C=best, max_iter=1000).fit(scaler.transform(x.double()), y)
    linear = model.predict_proba(scaler.transform(t.double()))

    folder = Path(probed["out"]) / "predictions"
    saved = {kind: Predictions.load(folder / f"{weights}-{kind}.npz") for kind in ("linear", "knn")}
    order = {name: row for row, name in enumerate(split.test)}
    rows = [order[name] for name in saved["linear"].ids.tolist()]
    assert sorted(rows) == list(range(len(split.test)))
    np.testing.assert_allclose(saved["linear"].probs, linear[rows], atol=1e-3)
    np.testing.assert_allclose(saved["knn"].probs, knn_probs(t, x, torch.as_tensor(y), 10)[rows], atol=1e-5)
    for kind, predictions in saved.items():
        assert np.array_equal(predictions.labels, t_y[rows])
        assert probed["probes"][kind][weights] == measure(predictions, digits.classes)
    assert probed["embeddings"][weights]["std"] == pytest.approx(float(embedding_std(t)), rel=1e-4)
    assert probed["embeddings"][weights]["effective_rank"] == pytest.approx(float(effective_rank(t)), rel=1e-3)


@pytest.mark.parametrize("kind", ["linear", "knn"])
def test_differences_are_trained_less_untrained(kind: str, probed: dict[str, Any]) -> None:
    folder = Path(probed["out"]) / "predictions"
    trained, none = (Predictions.load(folder / f"{weights}-{kind}.npz") for weights in ("trained", "untrained"))
    assert probed["probes"][kind]["difference"] == difference(trained, none)
    assert not np.array_equal(trained.probs, none.probs)


def test_what_is_written_is_what_is_returned(probed: dict[str, Any], finished_run: Path) -> None:
    out = Path(probed["out"])
    assert json.loads((out / "probe.json").read_text()) | {"out": str(out)} == probed
    assert {path.name for path in out.iterdir()} == {"probe.json", "predictions"}
    assert (probed["part"], probed["n"], probed["neighbors"]) == ("test", 355, 20)
    assert (probed["model"], probed["embedding_width"]) == ("small", 128)
    assert probed["labels"] == {"train": 40, "validation": 20, "total": 60}
    assert probed["notes"] == [], "the same split: nothing measured was trained on"


def test_a_run_without_a_head_is_probed_by_its_embedding(
    probed: dict[str, Any], finished_run: Path, tmp_path: Path
) -> None:
    run = headless(finished_run, tmp_path / "pretrained")
    before = load_file(run / "model" / "weights.safetensors")
    result = probe(run, probe_options())
    assert result["out"] == str(run / "probe")
    for kind in ("linear", "knn"):
        assert result["probes"][kind]["trained"] == probed["probes"][kind]["trained"]
    after = load_file(run / "model" / "weights.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before), "the features are frozen"


def headless(run: Path, to: Path) -> Path:
    """Copy a run without its class head, as training without labels leaves it."""
    network, card = load_model(run / "model", CPU)
    card = card.model_copy(update={"classes": ()})
    network.head = torch.nn.Identity()
    save_model(to / "model", network, card)
    for name in ("config.json", "split.json"):
        (to / name).write_bytes((run / name).read_bytes())
    return to


def test_what_is_measured_never_chooses_the_strength(finished_run: Path, tmp_path: Path) -> None:
    result = probe(finished_run, probe_options(holdout_rate=None), tmp_path / "p")
    assert (result["part"], result["C_chosen"]) == ("validation", False)
    assert result["C"] == {"trained": 1.0, "untrained": 1.0}
    text = render(result)
    assert "the default, C = 1, since validation is what is measured" in text
    assert "No test images were named" in text


def test_without_validation_the_strength_is_the_default(finished_run: Path, tmp_path: Path) -> None:
    result = probe(finished_run, probe_options(val_rate=0), tmp_path / "p")
    assert (result["part"], result["labels"]["validation"]) == ("test", 0)
    assert result["C"] == {"trained": 1.0, "untrained": 1.0}
    text = render(result)
    assert "the default, C = 1, since there is no validation" in text
    assert "No test images were named" not in text


def test_named_test_images_are_measured(finished_run: Path, tmp_path: Path) -> None:
    digits = open_images("digits")
    rows = digits.positions(load_split(finished_run / "split.json").test)[:50]
    images = np.stack([np.asarray(digits.read(int(row))) for row in rows])
    np.savez(tmp_path / "test.npz", images=images, labels=digits.labels[rows])
    options = probe_options(holdout_rate=None).model_copy(update={"test": str(tmp_path / "test.npz")})
    result = probe(finished_run, options, tmp_path / "p")
    assert (result["part"], result["n"], result["C_chosen"]) == ("test", 50, True)
    saved = Predictions.load(tmp_path / "p" / "predictions" / "trained-linear.npz")
    assert set(saved.ids.tolist()) == {digits.ids[row] for row in rows}
    seen, labels = embedded(load_model(finished_run / "model", CPU)[0], digits, tuple(saved.ids.tolist()))
    assert saved.labels.tolist() == labels.tolist()
    assert result["embeddings"]["trained"]["std"] == pytest.approx(float(embedding_std(seen)), rel=1e-4)


def test_few_labels_are_all_neighbors(finished_run: Path, tmp_path: Path) -> None:
    result = probe(finished_run, probe_options(labels_per_class=1, val_rate=0), tmp_path / "p")
    assert result["neighbors"] == 10
    assert "10 neighbors, accuracy" in render(result)


def test_nothing_to_measure_on_is_refused(finished_run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"neither test nor validation.*--test"):
        probe(finished_run, probe_options(holdout_rate=None, val_rate=0), tmp_path / "p")
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"size": 16}, r"data.size is \[16, 16\], .* with \[8, 8\]. Set data.size=\[8, 8\]"),
        ({"size": None}, r"data.size is None"),
        ({"channels": 3}, r"data.channels is 3, .* with 1. Set data.channels=1"),
        ({"fit": "pad"}, r"data.fit is pad, .* with crop. Set data.fit=crop"),
    ],
)
def test_images_of_another_form_are_refused(finished_run: Path, data: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        probe(finished_run, probe_options(**data))


def test_what_exists_is_not_overwritten(finished_run: Path, tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    probe(finished_run, probe_options(val_rate=0), tmp_path / "p")
    written = (tmp_path / "p" / "probe.json").read_bytes()
    with pytest.raises(ConfigError, match=r"never overwritten.*--out"):
        probe(finished_run, probe_options(), tmp_path / "p")
    assert (tmp_path / "p" / "probe.json").read_bytes() == written
    with pytest.raises(ConfigError, match="never overwritten"):
        probe(finished_run, probe_options(), tmp_path / "p" / "probe.json")


def test_other_runs_and_images_are_refused_by_name(finished_run: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no run folder"):
        probe(tmp_path / "none", probe_options())
    with pytest.raises(DataError, match="no file or folder"):
        probe(finished_run, probe_options().model_copy(update={"source": "nothing"}), tmp_path / "p")


SPLIT = Split(("a", "b"), ("v",), ("a", "b", "c", "d"), ("t",), (), ())


def test_measured_images_that_trained_the_run_are_counted() -> None:
    def found(learns_labels: bool, *ids: str) -> list[str]:
        return overlap_notes(SPLIT, set(ids), learns_labels=learns_labels, measured="test")

    assert found(True, "t", "v", "x") == []
    learned, seen = found(True, "a", "c", "d", "t")
    assert learned.startswith("The run learned the labels of 1 of the 4 test images")
    assert "too high" in learned
    assert seen.startswith("2 of the 4 test images were in the run's unlabeled pool")
    (only_seen,) = found(False, "a", "c", "d", "t")
    assert only_seen.startswith("3 of the 4 test images were in the run's unlabeled pool")


def test_a_split_of_another_seed_is_found_out(finished_run: Path, tmp_path: Path) -> None:
    result = probe(finished_run, probe_options(seed=5, labels_per_class=None), tmp_path / "p")
    assert any("learned the labels of" in note and "too high" in note for note in result["notes"])
    assert "Note: The run learned" in render(result)


def test_untrained_weights_are_drawn_even_where_the_run_started_from_others(finished_run: Path, tmp_path: Path) -> None:
    card = load_model(finished_run / "model", CPU)[1]
    started = card.model_copy(update={"model": card.model.model_copy(update={"weights": tmp_path / "gone.pt"})})
    drawn, expected = untrained(started, seed=4), new_network(card, seed=4)
    for mine, theirs in zip(drawn.state_dict().values(), expected.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs)

    run = headless(finished_run, tmp_path / "run")
    values = json.loads((run / "model" / CARD).read_text())
    values["model"]["weights"] = str(tmp_path / "gone.pt")
    (run / "model" / CARD).write_text(json.dumps(values))
    (note,) = probe(run, probe_options(val_rate=0))["notes"]
    assert note.startswith("The run started from trained weights")


def test_a_run_that_started_from_another_says_so(finished_run: Path, tmp_path: Path) -> None:
    run = headless(finished_run, tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**config, "init": "runs/other"}))
    (note,) = probe(run, probe_options(val_rate=0))["notes"]
    assert note.startswith("The run started from trained weights")


def test_a_probe_that_did_not_converge_says_so(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_ITERATIONS", 2)
    (note,) = probe(finished_run, probe_options(val_rate=0), tmp_path / "p")["notes"]
    assert note.startswith("The linear probe of the trained and the untrained network was stopped after 2 iterations")


def test_the_text_gives_intervals_and_says_what_can_be_said(probed: dict[str, Any]) -> None:
    result = json.loads(json.dumps(probed))
    result["probes"]["linear"]["difference"]["accuracy"] = {
        "value": -0.02, "low": -0.05, "high": 0.01, "p": 0.3, "decided": False,
    }  # fmt: skip
    result["probes"]["knn"]["difference"]["accuracy"] = {
        "value": -0.1, "low": -0.15, "high": -0.05, "p": 0.001, "decided": True,
    }  # fmt: skip
    text = render(result)
    assert "60 labels = 40 train + 20 validation; frozen embedding of small, 128 dimensions" in text
    assert "test (355 images)" in text
    assert "-2.0 [-5.0, +1.0] %" in text
    accuracy = probed["probes"]["linear"]["untrained"]["accuracy"]
    assert "{:.1f} [{:.1f}, {:.1f}] %".format(*(100 * accuracy[end] for end in ("value", "low", "high"))) in text
    assert "Linear probe: cannot tell whether training helped" in text
    assert "Nearest neighbors: 10.0 points fewer of the test images right than with untrained weights" in text
    result["probes"]["knn"]["difference"]["accuracy"]["value"] = 0.1
    assert "10.0 points more of the test images" in render(result)
    assert f"C = {probed['C']['trained']:g} trained, {probed['C']['untrained']:g} untrained, chosen on 20 val" in text
    assert f"effective rank {probed['embeddings']['trained']['effective_rank']:.1f} of 128" in text
    assert render({**result, "problems": [{"path": "x"}]}).count("Set aside: 1 images") == 1
