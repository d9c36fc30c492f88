import csv
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from eke.acquire.cold_start import typiclust
from eke.acquire.sampling import seeded_order
from eke.acquire.scores import random_scores
from eke.data.label_events import Event
from eke.data.label_store import LabelStore
from eke.data.labels import apply_labels
from eke.data.sources import open_images
from eke.data.splits import load_split
from eke.engine.model_files import load_model, save_model
from eke.errors import CheckpointError, ConfigError, DataError
from eke.tasks.ask import ask as ask_task
from eke.tasks.ask import gives_label, pool_rows, render
from eke.tasks.asked_strategy import choose_by_regime
from eke.tasks.choosing import draw_control
from eke.tasks.evaluate import predict_source
from eke.tasks.fit import fit
from eke.tasks.options import resolve_pretrain
from eke.tasks.pretrain import pretrain

from .conftest import digit_options

CPU = torch.device("cpu")
N_IMAGES, N_LABELED = 200, 60


def ask(run: Path, source: str, n: int, strategy: str, out: Path, seed: int = 0, **options: Any) -> dict[str, Any]:
    """Ask without a control share and without a sheet, unless they are asked for."""
    return ask_task(run, source, n, strategy, out, seed, **{"control_rate": 0.0, "sheet": False, **options})


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_digits(path: Path, n_labeled: int, reverse: bool = False) -> Path:
    """The first 200 digits, the first 6 of each class labeled where `n_labeled` is 60, others -1."""
    digits = open_images("digits")
    images = np.stack([np.asarray(digits.read(row)) for row in range(N_IMAGES)])
    labels = np.full(N_IMAGES, -1)
    for k in range(10):
        rows = np.flatnonzero(digits.labels[:N_IMAGES] == k)[: n_labeled // 10]
        labels[rows] = k
    step = -1 if reverse else 1
    np.savez(path, images=images[::step], labels=labels[::step])
    return path


def truth() -> dict[str, str]:
    digits = open_images("digits")
    return {name: digits.classes[label] for name, label in zip(digits.ids, digits.labels.tolist(), strict=True)}


@pytest.fixture(scope="module")
def partly(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source of 200 digits, 60 of them labeled."""
    return write_digits(tmp_path_factory.mktemp("source") / "partly.npz", N_LABELED)


@pytest.fixture(scope="module")
def run(partly: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that spends 50 of the 60 labels: 40 train, 10 validation."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    fit(fit_options(partly, n_labels=50), folder)
    return folder


def fit_options(source: Path, labels: tuple[str, ...] = (), **data: Any) -> Any:
    return digit_options("supervised", source=str(source), labels=labels, data={"val_rate": 0.2, **data})


def test_the_least_decided_images_come_first(run: Path, partly: Path, tmp_path: Path) -> None:
    result = ask(run, str(partly), 30, "entropy", tmp_path / "ask.csv")
    predictions, images, _, _ = predict_source(run, str(partly))
    entropies = {}
    for name, probs in zip(predictions.ids.tolist(), predictions.probs.tolist(), strict=True):
        entropies[name] = -sum(p * math.log(p) for p in probs if p > 0)
    unlabeled = [name for name, label in zip(images.ids, images.labels, strict=True) if label < 0]
    rows = rows_of(tmp_path / "ask.csv")
    assert [row["id"] for row in rows] == sorted(unlabeled, key=lambda name: -entropies[name])[:30]
    assert list(rows[0]) == ["rank", "id", "path", "score", "reason", "control", "round", "label"]
    assert [row["rank"] for row in rows] == [str(rank) for rank in range(1, 31)]
    assert [float(row["score"]) for row in rows] == pytest.approx([entropies[row["id"]] for row in rows], abs=2e-6)
    path_of = dict(zip(images.ids, images.paths, strict=True))
    assert all(row["path"] == path_of[row["id"]] and row["label"] == "" for row in rows)
    assert (result["n"], result["n_pool"], result["n_images"]) == (30, N_IMAGES - N_LABELED, N_IMAGES)
    assert (result["labels_ignored"], result["notes"], result["out"]) == (False, [], str(tmp_path / "ask.csv"))
    json.dumps(result, allow_nan=False)


def test_random_images_depend_on_the_seed_alone(run: Path, partly: Path, tmp_path: Path) -> None:
    turned = write_digits(tmp_path / "turned.npz", N_LABELED, reverse=True)
    chosen = {}
    for name, source, seed in (("a", partly, 1), ("b", turned, 1), ("c", partly, 2)):
        ask(run, str(source), 140, "random", tmp_path / f"{name}.csv", seed)
        chosen[name] = [(row["id"], row["score"]) for row in rows_of(tmp_path / f"{name}.csv")]
    assert chosen["a"] == chosen["b"]
    assert chosen["a"] != chosen["c"]
    assert {name for name, _ in chosen["a"]} == {name for name, _ in chosen["c"]}
    scores = random_scores([name for name, _ in chosen["a"]], seed=1).tolist()
    assert [float(score) for _, score in chosen["a"]] == pytest.approx(scores, abs=1e-6)
    assert scores == sorted(scores, reverse=True)


def test_equal_scores_come_in_an_order_of_seed_and_image(run: Path, partly: Path, tmp_path: Path) -> None:
    undecided = tmp_path / "undecided"
    network, card = load_model(run / "model", CPU)
    torch.nn.init.zeros_(network.head.weight)
    torch.nn.init.zeros_(network.head.bias)
    save_model(undecided / "model", network, card)
    copy_records(run, undecided)
    turned = write_digits(tmp_path / "turned.npz", N_LABELED, reverse=True)
    chosen = {}
    for name, source, seed in (("a", partly, 1), ("b", turned, 1), ("c", partly, 2)):
        ask(undecided, str(source), 20, "entropy", tmp_path / f"{name}.csv", seed)
        rows = rows_of(tmp_path / f"{name}.csv")
        assert {row["score"] for row in rows} == {f"{math.log(10):.6f}"}
        chosen[name] = [row["id"] for row in rows]
    assert chosen["a"] == chosen["b"]
    assert set(chosen["a"]) != set(chosen["c"])
    unlabeled = [name for name, label in zip(*identities(partly), strict=True) if label < 0]
    assert chosen["a"] != unlabeled[:20]


def identities(source: Path) -> tuple[tuple[str, ...], list[int]]:
    images = open_images(source)
    return images.ids, images.labels.tolist()


def copy_records(run: Path, to: Path) -> None:
    for name in ("config.json", "split.json"):
        (to / name).write_bytes((run / name).read_bytes())


def test_where_every_image_is_labeled_labels_are_ignored_and_what_is_spent_is_not_asked(
    finished_run: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished_run, tmp_path / "run")  # scores are kept in a run's folder, and this one is of all tests
    result = ask(tmp_path / "run", "digits", 5000, "entropy", tmp_path / "ask.csv")
    split = load_split(finished_run / "split.json")
    spent = {*split.labeled, *split.validation, *split.test}
    asked = {row["id"] for row in rows_of(tmp_path / "ask.csv")}
    assert len(spent) == 40 + 20 + 355
    assert asked == set(open_images("digits").ids) - spent
    assert result["n"] == result["n_pool"] == 1797 - len(spent)
    assert result["labels_ignored"]
    ignored, fewer = result["notes"]
    assert ignored.startswith("digits labels every image already. Its labels are ignored")
    assert fewer == "5,000 images were asked for, but only 1,382 are left: all of them are listed."
    text = render(result)
    assert f"Note: {ignored}" in text
    assert f"Note: {fewer}" in text


def test_what_the_source_keeps_for_testing_is_not_asked_for(tmp_path: Path) -> None:
    pixels = np.arange(8 * 16, dtype=np.uint8).reshape(8, 4, 4)
    np.savez(
        tmp_path / "parts.npz",
        x_train=pixels[:3],
        y_train=[0, 1, -1],
        x_unlabeled=pixels[3:5],
        y_unlabeled=[0, 1],
        x_test=pixels[5:7],
        y_test=[0, -1],
        x_val=pixels[7:],
        y_val=[-1],
    )
    images = open_images(tmp_path / "parts.npz")

    def pool(spent: set[str], labels_ignored: bool = False, readable: range = range(8)) -> list[str]:
        rows = pool_rows(images, list(readable), spent, labels_ignored=labels_ignored)
        return [images.paths[row] for row in rows]

    assert pool(set()) == ["parts/train#2", "parts/unlabeled#0", "parts/unlabeled#1"]
    assert pool({images.ids[images.paths.index("parts/unlabeled#0")]}) == ["parts/train#2", "parts/unlabeled#1"]
    assert len(pool(set(), labels_ignored=True)) == 5
    assert pool(set(), readable=range(2)) == []
    hidden = [images.paths[row] for row in np.flatnonzero(~gives_label(images))]
    assert {"parts/unlabeled#0", "parts/unlabeled#1"} <= set(hidden), "their labels are not lent to a fit"


def test_dropped_images_are_not_asked_for(run: Path, partly: Path, tmp_path: Path) -> None:
    other = tmp_path / "run"
    other.mkdir()
    copy_records(run, other)
    network, card = load_model(run / "model", CPU)
    save_model(other / "model", network, card)
    first = ask(run, str(partly), 3, "entropy", tmp_path / "a.csv")
    dropped = [row["id"] for row in rows_of(tmp_path / "a.csv")]
    values = json.loads((run / "split.json").read_text())
    (other / "split.json").write_text(json.dumps({**values, "dropped": dropped}))
    second = ask(other, str(partly), 140, "entropy", tmp_path / "b.csv")
    assert second["n_pool"] == first["n_pool"] - 3
    assert not {row["id"] for row in rows_of(tmp_path / "b.csv")} & set(dropped)


def test_the_first_labels_are_asked_for_by_a_network_that_was_trained_without_any(tmp_path: Path) -> None:
    source = write_digits(tmp_path / "unlabeled.npz", 0)
    given = {
        "source": str(source),
        "steps": 6,
        "views": {"view_1": "simclr-noflip", "view_2": "simclr-noflip"},
        "model": {"name": "small"},
        "batch": {"size": 16},
    }
    bare = tmp_path / "bare"
    pretrain(resolve_pretrain("simclr", given), bare)
    with pytest.raises(ConfigError, match=r"entropy needs a classifier.*typiclust.*--init .*bare --labels .*ask.csv"):
        ask(bare, str(source), 5, "entropy", tmp_path / "ask.csv")
    assert not (tmp_path / "ask.csv").exists()
    for strategy in ("auto", "k_center", "k_means", "random"):
        result = ask(bare, str(source), 30, strategy, tmp_path / f"{strategy}.csv", control_rate=0.2)
        assert len(rows_of(tmp_path / f"{strategy}.csv")) == 30
        assert result["strategy"] == ("typiclust" if strategy == "auto" else strategy)
    assert f"--init {bare}" in render(result)
    images = open_images(source)
    network, _ = load_model(bare / "model", CPU)
    pixels = torch.stack([torch.from_numpy(np.asarray(images.read(i)))[None] for i in range(len(images))])
    with torch.no_grad():
        embeddings = network(pixels.float() / 255).embedding.half()
    rows, _, _ = typiclust(embeddings, embeddings[:0], 30, seeded_order(images.ids, 0), 0)
    ask(bare, str(source), 30, "typiclust", tmp_path / "all.csv")
    assert [row["id"] for row in rows_of(tmp_path / "all.csv")] == [images.ids[row] for row in rows.tolist()]
    fill(tmp_path / "auto.csv", empty=-1)
    answered = tmp_path / "answered"
    files = (str(tmp_path / "auto.csv"),)
    fit(digit_options("supervised", source=str(source), labels=files, init=str(bare), data={}), answered)
    split = load_split(answered / "split.json")
    assert (len(split.labeled), len(split.validation)) == (24, 6)


@pytest.mark.parametrize(
    ("n", "strategy", "message"),
    [
        (0, "entropy", "--n 0 asks for no image"),
        (-3, "random", "--n -3"),
        (5, "entropi", "Unknown strategy 'entropi'. Did you mean 'entropy'?"),
    ],
)
def test_questions_that_make_no_sense_are_refused(
    n: int, strategy: str, message: str, run: Path, partly: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as raised:
        ask(run, str(partly), n, strategy, tmp_path / "ask.csv")
    assert message in str(raised.value)


def test_a_file_that_may_hold_labels_is_never_overwritten(run: Path, partly: Path, tmp_path: Path) -> None:
    (tmp_path / "ask.csv").write_text("mine")
    with pytest.raises(ConfigError, match=r"ask.csv exists.*--out"):
        ask(run, str(partly), 5, "entropy", tmp_path / "ask.csv")
    assert (tmp_path / "ask.csv").read_text() == "mine"


def test_an_empty_pool_and_missing_runs_are_named(run: Path, partly: Path, tmp_path: Path) -> None:
    digits = open_images(partly)
    spent = digits.positions(load_split(run / "split.json").labeled)
    images = np.stack([np.asarray(digits.read(int(row))) for row in spent])
    np.savez(tmp_path / "spent.npz", images=images)
    with pytest.raises(DataError, match="No image of .*spent.npz is left to ask for: all 40"):
        ask(run, str(tmp_path / "spent.npz"), 5, "entropy", tmp_path / "ask.csv")
    with pytest.raises(CheckpointError, match="no run folder"):
        ask(tmp_path / "none", str(partly), 5, "entropy", tmp_path / "ask.csv")
    with pytest.raises(DataError, match="no file or folder"):
        ask(run, "nothing", 5, "entropy", tmp_path / "ask.csv")


def fill(path: Path, empty: int) -> list[str]:
    """Fill in true labels but for one row, as a person would; return the ids of the others."""
    known, rows = truth(), rows_of(path)
    for place, row in enumerate(rows):
        row["label"] = "" if place == empty else known[row["id"]]
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return [row["id"] for row in rows if row["label"]]


def test_labels_filled_in_count_in_the_next_run_and_are_not_asked_for_again(
    run: Path, partly: Path, tmp_path: Path
) -> None:
    first, second = tmp_path / "first.csv", tmp_path / "second.csv"
    ask(run, str(partly), 20, "entropy", first)
    assert apply_labels(open_images(partly), [first]).labels.tolist() == open_images(partly).labels.tolist()
    added = fill(first, empty=7)
    labeled = apply_labels(open_images(partly), [first])
    assert (labeled.labels >= 0).sum() == N_LABELED + 19
    assert not [problem for problem in labeled.problems if problem.kind in {"missing", "conflict"}]

    next_run = tmp_path / "next"
    results = fit(fit_options(partly, labels=(str(first),)), next_run)
    assert results is not None
    split = load_split(next_run / "split.json")
    assert results["labels"]["total"] == split.budget == N_LABELED + 19
    assert set(added) <= {*split.labeled, *split.validation}

    result = ask(next_run, str(partly), 1000, "random", second)
    asked = {row["id"] for row in rows_of(second)}
    assert result["n"] == len(asked) == N_IMAGES - N_LABELED - 19
    assert not asked & set(added)
    command = f"eke fit {partly} --labels {first} --labels {second}"
    assert result["label_files"] == [str(first), str(second)]
    assert render(result).endswith(command), "the labels of the first round go on to count"


# ------------------------------------------------------------------ control, provenance, sheet, strategies


def test_a_share_is_drawn_at_random_whatever_the_strategy(run: Path, partly: Path, tmp_path: Path) -> None:
    controls = {}
    for strategy in ("entropy", "margin"):
        result = ask(run, str(partly), 30, strategy, tmp_path / f"{strategy}.csv", seed=4, control_rate=0.2)
        rows = rows_of(tmp_path / f"{strategy}.csv")
        controls[strategy] = {row["id"] for row in rows if row["control"] == "1"}
        assert result["n_control"] == len(controls[strategy]) == 6
        assert len({row["id"] for row in rows}) == result["n"] == 30
        assert all(row["reason"].startswith("control") for row in rows if row["control"] == "1")
    assert controls["entropy"] == controls["margin"], "what is drawn does not depend on the strategy"
    ask(run, str(partly), 30, "entropy", tmp_path / "other.csv", seed=5, control_rate=0.2)
    other = {row["id"] for row in rows_of(tmp_path / "other.csv") if row["control"] == "1"}
    assert other == controls["entropy"], "nor on the seed: campaigns share their control"


def test_the_control_is_set_apart_for_all_rounds() -> None:
    """A strategy that takes the hardest images first leaves easier ones: the control must not be drawn from those."""
    ids = [f"{i:032x}" for i in range(2000)]
    left, drawn = list(ids), []
    for _ in range(9):
        control = draw_control(left, 200, 0.1)
        assert len(control.drawn) == 20
        names = {left[pick.row] for pick in control.drawn}
        assert names <= control.apart
        chosen = [name for name in left if name not in control.apart][:180]  # those with the lowest number are hardest
        assert len(chosen) == 180
        drawn += names
        left = [name for name in left if name not in {*names, *chosen}]
    places = np.array([int(name, 16) for name in drawn]) / len(ids)
    assert len(set(drawn)) == 180
    assert abs(places.mean() - 0.5) < 3 * math.sqrt(1 / 12 / 180), "hard and easy ones as often as in the pool"


def test_a_pool_that_is_nearly_used_up_is_asked_to_the_last_image() -> None:
    ids = [f"{i:032x}" for i in range(40)]
    control = draw_control(ids, 40, 0.5)
    assert len(control.drawn) == len(control.apart) == 20
    everything = draw_control(ids, 40, 1.0)
    assert len(everything.drawn) == 40
    assert draw_control(ids, 10, 0.0) == ([], set())


def test_answers_train_and_the_control_validates(run: Path, partly: Path, tmp_path: Path) -> None:
    file = tmp_path / "ask.csv"
    ask(run, str(partly), 20, "entropy", file, control_rate=0.25)
    added = fill(file, empty=0)
    rows = {row["id"]: row["control"] for row in rows_of(file)}
    results = fit(fit_options(partly, labels=(str(file),)), tmp_path / "next")
    assert results is not None
    split = load_split(tmp_path / "next" / "split.json")
    assert {name for name in added if rows[name] == "1"} <= set(split.validation)
    assert {name for name in added if rows[name] == "0"} <= set(split.labeled)
    second = ask(tmp_path / "next", str(partly), 5, "entropy", tmp_path / "second.csv")
    assert second["round"] == 2
    assert {row["round"] for row in rows_of(tmp_path / "second.csv")} == {"2"}


def test_the_choice_can_be_repeated_from_its_record(run: Path, partly: Path, tmp_path: Path) -> None:
    ask(run, str(partly), 12, "power_margin", tmp_path / "ask.csv", seed=7, control_rate=0.25)
    record = json.loads((tmp_path / "ask.json").read_text(encoding="utf-8"))
    ask(
        Path(record["run"]),
        record["source"],
        record["n"],
        record["strategy"],
        tmp_path / "again.csv",
        record["seed"],
        control_rate=record["control_rate"],
        n_passes=record["n_passes"],
    )
    assert rows_of(tmp_path / "again.csv") == rows_of(tmp_path / "ask.csv")
    again = json.loads((tmp_path / "again.json").read_text(encoding="utf-8"))
    for name in ("weights", "pool", "picks"):
        assert again[name] == record[name]


@pytest.mark.parametrize(
    "strategy",
    [
        *("auto", "badge", "typiclust", "prob_cover", "k_center", "k_means", "cluster_margin", "balanced_margin"),
        *("eba:none", "eba:grad@block2", "eba:ig@block1,block2,logits", "eba:random@embedding"),
    ],
)
def test_every_strategy_asks(run: Path, partly: Path, tmp_path: Path, strategy: str) -> None:
    result = ask(run, str(partly), 10, strategy, tmp_path / "ask.csv", n_passes=2, control_rate=0.1, sheet=True)
    rows = rows_of(tmp_path / "ask.csv")
    unlabeled = {name for name, label in zip(*identities(partly), strict=True) if label < 0}
    assert {row["id"] for row in rows} <= unlabeled
    assert len({row["id"] for row in rows}) == 10
    assert all(row["reason"] for row in rows)
    page = Path(result["sheet"]).read_text(encoding="utf-8")
    assert rows[0]["reason"].split(":")[0] in page
    assert ("Beside the mistakes" in page) == strategy.startswith("eba")
    if strategy == "auto":
        assert "auto chose badge" in result["notes"][0]


def test_passes_with_dropout_need_dropout(run: Path, partly: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="without dropout"):
        ask(run, str(partly), 5, "bald", tmp_path / "ask.csv")
    model = {"name": "small", "dropout": 0.5}
    fit(digit_options("supervised", source=str(partly), data={"val_rate": 0.2}, model=model), tmp_path / "dropout")
    first = ask(tmp_path / "dropout", str(partly), 5, "bald", tmp_path / "bald.csv", n_passes=4)
    assert first["n"] == 5
    scores = [float(row["score"]) for row in rows_of(tmp_path / "bald.csv")]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] > 0, "passes differ"


@pytest.fixture(scope="module")
def others(partly: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs like `run`, of other seeds; they spend other labels of the same 60."""
    folders = [tmp_path_factory.mktemp("others") / f"run-{seed}" for seed in (1, 2)]
    for seed, folder in enumerate(folders, 1):
        fit(fit_options(partly, n_labels=50).model_copy(update={"seed": seed}), folder)
    return folders


def test_an_ensemble_is_asked_what_it_disagrees_on(run: Path, others: list[Path], partly: Path, tmp_path: Path) -> None:
    images = open_images(partly)
    pixels = torch.stack([torch.from_numpy(np.asarray(images.read(i)))[None] for i in range(len(images))]).float() / 255
    with torch.no_grad():
        draws = torch.stack(
            [load_model(each / "model", CPU)[0](pixels).logits.softmax(1) for each in (run, *others)], 1
        )
    result = ask(run, str(partly), 10, "bald", tmp_path / "bald.csv", ensemble=others)
    mean = draws.mean(1)
    entropies = -(draws * draws.log()).sum(2).mean(1)
    bald = -(mean * mean.log()).sum(1) - entropies
    found = rows_of(tmp_path / "bald.csv")
    pool = [row for row in range(len(images)) if images.labels[row] < 0]
    assert [float(row["score"]) for row in found] == pytest.approx(
        sorted((float(bald[row]) for row in pool), reverse=True)[:10], abs=1e-4
    )
    assert result["ensemble"] == [str(each) for each in others]
    assert len(json.loads((tmp_path / "bald.json").read_text())["weights"]) == 3
    ask(run, str(partly), 10, "batch_bald", tmp_path / "batch.csv", ensemble=others)
    batch = rows_of(tmp_path / "batch.csv")
    assert batch[0]["id"] == found[0]["id"], "the first of a batch is the one with the largest BALD"
    assert len({row["id"] for row in batch}) == 10


def test_an_ensemble_of_what_does_not_fit_is_refused(
    run: Path, others: list[Path], partly: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="named twice"):
        ask(run, str(partly), 5, "bald", tmp_path / "a.csv", ensemble=[others[0], run])
    larger = tmp_path / "larger"
    fit(fit_options(partly, n_labels=50, size="12").model_copy(update={"steps": 1}), larger)
    with pytest.raises(ConfigError, match=r"larger has size \(12, 12\) and .*run \(8, 8\)"):
        ask(run, str(partly), 5, "bald", tmp_path / "a.csv", ensemble=[larger])
    with pytest.raises(ConfigError, match="--ensemble"):
        ask(run, str(partly), 5, "batch_bald", tmp_path / "a.csv")
    spent = {name for each in (run, *others) for name in load_split(each / "split.json").labeled}
    wholly = write_digits(tmp_path / "wholly.npz", 0)
    ask(run, str(wholly), 500, "random", tmp_path / "all.csv", ensemble=others)
    asked = {row["id"] for row in rows_of(tmp_path / "all.csv")}
    assert not asked & spent
    assert spent > set(load_split(run / "split.json").labeled)


def test_only_mistakes_are_resembled(run: Path, partly: Path, tmp_path: Path) -> None:
    """The pick of each mistake's nearest image, by descriptors alone, is found by brute force."""
    result = ask(run, str(partly), 1, "eba:none", tmp_path / "ask.csv")
    network, _ = load_model(run / "model", CPU)
    images = open_images(partly)
    split = load_split(run / "split.json")
    pixels = torch.stack([torch.from_numpy(np.asarray(images.read(i)))[None] for i in range(len(images))])
    with torch.no_grad():
        outputs = network(pixels.float() / 255)
    wrong = [
        row
        for row in images.positions(split.validation).tolist()
        if int(outputs.logits[row].argmax()) != images.labels[row]
    ]
    unit = torch.nn.functional.normalize(outputs.embedding, dim=1)
    pool = [row for row in range(len(images)) if images.labels[row] < 0]
    assert wrong, "the run gets some validation images wrong"
    best = {row: float((unit[wrong] @ unit[row]).max()) for row in pool}
    (picked,) = rows_of(tmp_path / "ask.csv")
    assert float(picked["score"]) == pytest.approx(best[images.ids.index(picked["id"])], abs=1e-4)
    center, place = unit[wrong].mean(0), images.ids.index(picked["id"])
    assert result["discrepancy"]["picked"] == pytest.approx(float((unit[place] - center).square().sum()), abs=1e-4)
    assert result["discrepancy"]["pool"] == pytest.approx(float((unit[pool].mean(0) - center).square().sum()), abs=1e-4)
    assert "Discrepancy (MMD²)" in render(result)
    for how, reduce in (("sum", torch.sum), ("max", torch.amax)):
        ask(run, str(partly), 12, f"eba:none/{how}", tmp_path / f"{how}.csv")
        totals = reduce(unit[wrong] @ unit[pool].T, 0)
        expected = sorted(totals.tolist(), reverse=True)[:12]
        found = [float(row["score"]) for row in rows_of(tmp_path / f"{how}.csv")]
        assert found == pytest.approx(expected, abs=2e-4)


@pytest.mark.parametrize("strategy", ["eba:ig", "eba:none/sum"])
def test_a_run_without_mistakes_is_asked_at_random_and_says_so(partly: Path, tmp_path: Path, strategy: str) -> None:
    bare = tmp_path / "bare"
    fit(fit_options(partly, n_labels=50, val_rate=0.0), bare)
    result = ask(bare, str(partly), 12, strategy, tmp_path / "ask.csv", control_rate=0.25, sheet=True)
    rows = rows_of(tmp_path / "ask.csv")
    assert [row["reason"] for row in rows[:9]] == ["no validation mistakes: drawn at random"] * 9
    assert [row["control"] for row in rows] == ["0"] * 9 + ["1"] * 3
    assert result["discrepancy"] is None
    assert "no validation image that it gets wrong" in render(result)
    assert "nothing to resemble" in (tmp_path / "ask.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("strategy", "why"),
    [
        ("entrpy", "Did you mean 'entropy'"),
        ("eba:igg", "no attention 'igg'"),
        ("eba:ig@block7", "no layer 'block7'"),
        ("batch_bald", "several networks"),
        ("eba:ig@block2/oracle", "true class"),
    ],
)
def test_a_strategy_that_there_is_not(run: Path, partly: Path, tmp_path: Path, strategy: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        ask(run, str(partly), 5, strategy, tmp_path / "ask.csv")
    assert not (tmp_path / "ask.csv").exists()


def test_the_regime_chooses() -> None:
    assert choose_by_regime(0, 0, 10, several=False)[0].name == "typiclust"
    chosen = {
        regime: choose_by_regime(*regime, several=False)[0].name
        for regime in ((50, 10, 100), (199, 10, 5000), (500, 10, 100))
    }
    assert list(chosen.values()) == ["badge", "power_margin", "cluster_margin"]
    assert choose_by_regime(50, 10, 100, several=True)[0].name == "power_entropy"


def test_a_store_remembers_what_was_asked_answered_and_skipped(run: Path, partly: Path, tmp_path: Path) -> None:
    store = tmp_path / "labels.db"
    ask(run, str(partly), 10, "entropy", tmp_path / "a.csv", store=store, control_rate=0.2)
    first = rows_of(tmp_path / "a.csv")
    kept = LabelStore(store)
    assert kept.waiting() == kept.asked() == {row["id"] for row in first}
    assert kept.control() == {row["id"] for row in first if row["control"] == "1"}
    ((event,), (batch,)) = kept.history(first[0]["id"]), kept.batches()
    assert (event.event.reason, event.event.round) == (first[0]["reason"], 1)
    assert (batch.strategy, batch.seed, batch.model) == ("entropy", 0, str(run))
    kept.append([Event("me", first[0]["id"], "skip"), Event("me", first[1]["id"], "label", "3")])
    ask(run, str(partly), 10, "entropy", tmp_path / "b.csv", store=store)
    second = rows_of(tmp_path / "b.csv")
    assert not {row["id"] for row in first} & {row["id"] for row in second}
    assert len(kept.batches()) == 2
