"""Bad input through the whole command: bad files are named and set aside, the rest ends in one clear message."""

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from eke.data.splits import load_split

FAST = ("--steps", "2", "--model", "small", "--baseline", "none", "--set", "batch.labeled=4", "--set", "batch.mu=1")


class Done(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def results(self) -> dict[str, Any]:
        assert self.code == 0, self.err
        return json.loads(self.out)

    def refusal(self) -> str:
        """Return the one message of a command that refused."""
        messages = [line for line in self.err.splitlines() if line.startswith("eke: ")]
        assert len(messages) == 1, self.err
        assert self.err.rstrip().endswith(messages[0]), "the message is the last thing said"
        assert "Traceback" not in self.err
        assert self.out == ""
        return messages[0]


@pytest.fixture
def eke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """The command line in this process, in a folder of its own."""
    from eke.cli import main

    monkeypatch.setenv("EKE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "1000")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def run(*words: str | Path) -> Done:
        monkeypatch.setattr(sys, "argv", ["eke", *map(str, words)])
        capsys.readouterr()
        try:
            main()
            code = 0
        except SystemExit as exit_:
            code = int(exit_.code or 0)
        return Done(code, *capsys.readouterr())

    return run


def noise(seed: int, shape: tuple[int, ...] = (12, 10, 3)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def write(path: Path, seed: int, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(seed)).save(path, **options)
    return path


def class_folders(root: Path, counts: dict[str, int]) -> Path:
    names = [(name, place) for name, n in counts.items() for place in range(n)]
    for seed, (name, place) in enumerate(names):
        write(root / name / f"{place}.png", seed)
    for name in counts:
        (root / name).mkdir(parents=True, exist_ok=True)
    return root


GOOD = {"cmyk.jpg", "sixteen bits.png", "palette.gif", "animated.gif", "rotated é.jpg", "日本 語.png"}
BAD = {
    "truncated.jpg": "truncated",
    "zero byte.jpg": "empty",
    "text.jpg": "not an image",
    "bomb.png": "too large",
    "smaller bomb.png": "too large",
}


@pytest.fixture
def menagerie(tmp_path: Path) -> Path:
    """Two classes of 4 good images; below `cat`, strange but good ones (GOOD) and those of no use (BAD)."""
    root = class_folders(tmp_path / "images with ünïcode", {"cat": 4, "dog": 4})
    cat = root / "cat"
    whole = write(tmp_path / "whole.jpg", 50).read_bytes()
    (cat / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (cat / "zero byte.jpg").write_bytes(b"")
    (cat / "text.jpg").write_text("I am no picture.\n")
    Image.new("1", (20_000, 20_000)).save(cat / "bomb.png")
    Image.new("1", (10_000, 10_000)).save(cat / "smaller bomb.png")
    Image.fromarray(noise(51)).convert("CMYK").save(cat / "cmyk.jpg")
    Image.fromarray(noise(52, (12, 10)).astype(np.uint16) * 256).save(cat / "sixteen bits.png")
    Image.fromarray(noise(53)).quantize(8).save(cat / "palette.gif")
    frames = [Image.fromarray(noise(seed)) for seed in (54, 55)]
    frames[0].save(cat / "animated.gif", save_all=True, append_images=frames[1:])
    exif = Image.Exif()
    exif[0x0112] = 6
    write(cat / "rotated é.jpg", 56, exif=exif)
    write(cat / "日本 語.png", 57)
    return root


def test_bad_images_are_named_and_the_good_ones_are_used(menagerie: Path, tmp_path: Path) -> None:
    """In a process of its own, since what other libraries say on standard error counts too."""
    words = [*FAST, "--set", "data.val_rate=0.25", "--out", "run", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "eke", "fit", menagerie, *words],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"EKE_CACHE": str(tmp_path / "cache"), "COLUMNS": "1000"},
    )
    results = Done(done.returncode, done.stdout, done.stderr).results
    assert "Traceback" not in done.stderr
    assert "Warning" not in done.stderr
    assert {Path(problem["path"]).name: problem["kind"] for problem in results["problems"]} == BAD
    assert all(problem["detail"] and problem["remedy"] for problem in results["problems"])
    assert results["n_unlabeled"] + results["labels"]["validation"] == 8 + len(GOOD)
    assert results["labels"]["total"] == 8 + len(GOOD)
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert all(name in page for name in BAD)
    predicted = subprocess.run(
        [sys.executable, "-m", "eke", "predict", "run", menagerie, "--out", "p.csv", "--json"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"EKE_CACHE": str(tmp_path / "cache")},
    )
    assert predicted.returncode == 0, predicted.stderr
    listed = (tmp_path / "p.csv").read_text(encoding="utf-8")
    assert all(name in listed for name in GOOD)
    assert not any(name in listed for name in BAD)


def test_labels_for_missing_images_and_twice_labeled_ones(eke: Callable[..., Done], tmp_path: Path) -> None:
    root = class_folders(tmp_path / "pets", {"cat": 6, "dog": 6, "unlabeled": 3})
    table = tmp_path / "mine.csv"
    table.write_text("path,label\nnowhere.png,cat\nunlabeled/0.png,dog\ndog/5.png,cat\ndog/5.png,dog\n")
    results = eke("fit", root, "--labels", table, *FAST, "--out", "run", "--json").results
    problems = {problem["path"]: problem["kind"] for problem in results["problems"]}
    assert problems == {"nowhere.png": "missing", "dog/5.png": "conflict"}
    assert results["labels"] == {"train": 10, "validation": 2, "total": 12}  # 12 + 1 given - 1 in conflict
    assert results["n_unlabeled"] == 15 - 2


def test_labels_of_an_unknown_class_are_refused(eke: Callable[..., Done], tmp_path: Path) -> None:
    root = class_folders(tmp_path / "pets", {"cat": 3, "dog": 3, "unlabeled": 1})
    (tmp_path / "mine.csv").write_text("path,label\nunlabeled/0.png,dgo\n")
    done = eke("fit", root, "--labels", tmp_path / "mine.csv", *FAST)
    assert done.code == 3
    assert "'dgo'. Did you mean 'dog'?" in done.refusal()
    assert list(Path.cwd().iterdir()) == []


def test_a_class_with_one_image_trains_and_the_report_says_so(eke: Callable[..., Done], tmp_path: Path) -> None:
    root = class_folders(tmp_path / "pets", {"cat": 5, "dog": 5, "yak": 1})
    results = eke("fit", root, *FAST, "--out", "run", "--json").results
    assert results["labels"] == {"train": 9, "validation": 2, "total": 11}
    assert any("'yak'" in note and "no validation image" in note for note in results["notes"])
    assert results["classes"] == ["cat", "dog", "yak"]


def test_a_binary_task(eke: Callable[..., Done], tmp_path: Path) -> None:
    root = class_folders(tmp_path / "pets", {"no": 8, "yes": 8})
    results = eke("fit", root, *FAST, "--set", "data.holdout_rate=0.25", "--out", "run", "--json").results
    assert results["evaluations"]["test"]["n"] == 4
    assert len(results["evaluations"]["test"]["accuracy"]) >= 3
    split = load_split(Path("run/split.json"))
    assert not set(split.test) & {*split.labeled, *split.validation, *split.unlabeled}


@pytest.mark.parametrize(
    ("counts", "words", "code", "message"),
    [
        ({"unlabeled": 4}, (), 3, "no labeled image to train on. Give labels by --labels FILE"),
        ({"cat": 4}, (), 3, "one class only ('cat')"),
        ({"cat": 4, "dog": 4, "yak": 0}, (), 3, "no label to train on for 'yak'"),
        ({"cat": 4, "dog": 4, "yak": 4}, ("--set", "data.n_labels=2"), 2, "n_labels=2 is less than the 3 classes"),
        ({"cat": 2, "dog": 2}, (), 2, "Validation would be empty"),
        ({"cat": 4, "dog": 4}, ("--set", "data.holdout_rate=0.1"), 2, "holds out no image"),
        ({"cat": 4, "dog": 4}, ("--labels", "missing.csv"), 3, "Cannot read the label file missing.csv"),
        ({"cat": 4, "dog": 4}, ("--test", "nowhere"), 3, "no file or folder nowhere"),
        ({}, (), 3, "holds no image"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_is_written(
    counts: dict[str, int],
    words: tuple[str, ...],
    code: int,
    message: str,
    eke: Callable[..., Done],
    tmp_path: Path,
) -> None:
    (tmp_path / "pets").mkdir()
    done = eke("fit", class_folders(tmp_path / "pets", counts), *FAST, *words)
    assert done.code == code, done
    assert message in done.refusal()
    assert list(Path.cwd().iterdir()) == [], "no run folder is left behind"


def digits_of(tmp_path: Path, n: int) -> Path:
    """Write n real digits, five of each class labeled."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    labels = np.full(n, -1)
    for label in range(10):
        labels[np.flatnonzero(digits.target[:n] == label)[:5]] = label
    np.savez(tmp_path / "digits.npz", images=digits.images[:n].astype(np.uint8) * 15, labels=labels)
    return tmp_path / "digits.npz"


def test_a_memory_below_the_batch_is_refused(eke: Callable[..., Done], tmp_path: Path) -> None:
    done = eke("fit", digits_of(tmp_path, 200), "--method", "comatch", *FAST, "--set", "method.memory_size=7")
    assert done.code == 2
    assert "method.memory_size = 7 is less than the 8 rows" in done.refusal()


def test_a_memory_above_the_pool_and_a_batch_above_it_are_allowed(eke: Callable[..., Done], tmp_path: Path) -> None:
    words = ("--method", "comatch", *FAST[:-1], "batch.mu=60", "--set", "method.memory_size=2000", "--json")
    results = eke("fit", digits_of(tmp_path, 200), *words).results
    assert results["n_unlabeled"] < 4 * 60 < 2000


def test_pretraining_on_fewer_images_than_a_batch_is_refused(eke: Callable[..., Done], tmp_path: Path) -> None:
    done = eke("pretrain", digits_of(tmp_path, 200), "--method", "simclr", "--steps", "1", "--model", "small")
    assert done.code == 2
    assert "batch.size = 512 is more than the" in done.refusal()
    assert "Set batch.size=" in done.refusal()


def test_asking_a_run_without_a_class_head_is_refused(eke: Callable[..., Done], tmp_path: Path) -> None:
    words = ("--method", "autoencoder", "--steps", "1", "--model", "small", "--set", "batch.size=8", "--out", "run")
    assert eke("pretrain", digits_of(tmp_path, 200), *words).code == 0
    done = eke("ask", "run", tmp_path / "digits.npz", "--n", "3", "--strategy", "margin")
    assert done.code == 2
    assert "trained without labels" in done.refusal()
    assert "eke fit" in done.refusal()


def test_an_unknown_table_and_a_paper_scale_without_images(eke: Callable[..., Done]) -> None:
    done = eke("reproduce", "comatch-table")
    assert done.code == 2
    assert "Did you mean 'comatch-table2'" in done.refusal()
    done = eke("reproduce", "comatch-table2", "--scale", "paper")
    assert done.code == 2
    assert "--data FOLDER" in done.refusal()


def test_only_bad_images_are_refused(eke: Callable[..., Done], tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        for place in range(3):
            path = tmp_path / "pets" / name / f"{place}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{name} {place}")
    done = eke("fit", tmp_path / "pets", *FAST, "--set", "data.val_rate=0")
    assert done.code == 3
    assert "can be decoded" in done.refusal()


def test_every_label_of_a_class_on_a_bad_image(eke: Callable[..., Done], tmp_path: Path) -> None:
    """A class whose labeled images all turn out to be unreadable must not silently vanish."""
    root = class_folders(tmp_path / "pets", {"cat": 4, "dog": 4, "yak": 0})
    (root / "yak" / "0.jpg").write_text("no picture")
    done = eke("fit", root, *FAST, "--set", "data.val_rate=0")
    assert done.code == 3
    assert "'yak'" in done.refusal()
    assert "yak/0.jpg, not an image" in done.refusal()


def test_labels_on_bad_images_are_not_spent(eke: Callable[..., Done], tmp_path: Path) -> None:
    root = class_folders(tmp_path / "pets", {"cat": 5, "dog": 5})
    for place in range(3):
        (root / "cat" / f"bad {place}.jpg").write_text(f"no picture {place}")
    results = eke("fit", root, *FAST, "--labels-per-class", "5", "--out", "run", "--json").results
    assert results["labels"] == {"train": 8, "validation": 2, "total": 10}
    assert len(results["problems"]) == 3


@pytest.mark.parametrize("member", ["../outside.png", "/etc/outside.png", "pets\\..\\..\\outside.png"])
def test_a_zip_that_points_outside_is_refused(member: str, eke: Callable[..., Done], tmp_path: Path) -> None:
    root = class_folders(tmp_path / "pets", {"cat": 3, "dog": 3})
    with zipfile.ZipFile(tmp_path / "pets.zip", "w") as archive:
        for path in sorted(root.rglob("*.png")):
            archive.write(path, path.relative_to(root).as_posix())
        archive.writestr(member, (root / "cat" / "0.png").read_bytes())
    done = eke("fit", tmp_path / "pets.zip", *FAST)
    assert done.code == 3
    assert "points outside the zip" in done.refusal()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here", "pets", "pets.zip"]


def test_a_run_folder_that_exists_is_refused_and_kept(eke: Callable[..., Done], tmp_path: Path) -> None:
    root = class_folders(tmp_path / "pets", {"cat": 5, "dog": 5})
    assert eke("fit", root, *FAST, "--out", "run", "--json").code == 0
    before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    done = eke("fit", root, *FAST, "--out", "run", "--json")
    assert done.code == 2
    assert "holds a run already. Add --resume" in done.refusal()
    other = eke("fit", root, *FAST, "--out", "run", "--resume", "--seed", "7")
    assert other.code == 4
    assert "begun with other options: seed is 0 there, 7 here" in other.refusal()
    Path("thesis").mkdir()
    Path("thesis/thesis.tex").write_text("precious")
    foreign = eke("fit", root, *FAST, "--out", "thesis", "--resume")
    assert foreign.code == 2
    assert "is not a run of eke" in foreign.refusal()
    assert {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()} == before
    assert [path.name for path in Path("thesis").iterdir()] == ["thesis.tex"]
