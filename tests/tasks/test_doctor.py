import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eke.data.duplicates import MAX_BITS, difference_hashes, near_duplicates
from eke.data.sources import open_images
from eke.engine.predict import Predictions
from eke.tasks.diagnosis import render
from eke.tasks.doctor import diagnose

from .photographs import write_photographs


def picture(seed: int, side: int = 48) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)


def save(path: Path, image: Image.Image, **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)


@pytest.fixture
def sick(tmp_path: Path) -> tuple[str, str]:
    """A training and a test folder with one of each illness."""
    train, test = tmp_path / "train", tmp_path / "held out"
    for seed in range(24):
        save(train / "cat" / f"{seed}.png", picture(seed))
    save(train / "dog" / "only.png", picture(100))
    (train / "bird").mkdir()
    save(train / "cat" / "small copy.jpg", picture(0).resize((36, 36)), quality=80)
    save(train / "dog" / "relabeled.jpg", picture(1), quality=85)
    save(train / "cat" / "tiny.png", picture(200, side=8))
    save(train / "cat" / "patient 7" / "scan.png", picture(201))
    (train / "cat" / "broken.jpg").write_bytes(b"no")
    (train / "cat" / "broken, too.jpg").write_bytes(b"nor this")
    save(test / "cat" / "same.png", picture(2))
    save(test / "cat" / "recompressed.jpg", picture(3), quality=80)
    save(test / "horse" / "new.png", picture(300))
    return str(train), str(test)


def test_every_illness_is_found(sick: tuple[str, str]) -> None:
    found = diagnose(*sick)
    assert found.n_images == {"train": 31, "test": 3}
    assert found.counts["train"] == {"bird": 0, "cat": 29, "dog": 2, "horse": 0}
    assert found.counts["test"] == {"bird": 0, "cat": 2, "dog": 0, "horse": 1}
    assert found.imbalance == 14.5
    assert found.pixels.small == ["cat/tiny.png"]
    assert found.pixels.smallest == "8x8"
    problems = [(problem["path"], problem["kind"]) for problem in found.problems]
    assert problems == [("cat/broken, too.jpg", "not an image"), ("cat/broken.jpg", "not an image")]
    assert set(found.leaks.near) == {("cat/0.png", "cat/small copy.jpg"), ("cat/1.png", "dog/relabeled.jpg")}
    assert found.leaks.near_conflicts == [("cat/1.png", "cat", "dog/relabeled.jpg", "dog")]
    assert found.leaks.shared == ["cat/2.png"]
    assert found.leaks.near_test == [("cat/3.png", "cat/recompressed.jpg")]
    text = "\n".join(found.warnings)
    for words in ("No label in bird", "14 times", "horse", "group_level", "byte by byte", "look like a test image"):
        assert words in text
    assert json.loads(json.dumps(asdict(found)))["leaks"]["shared"] == ["cat/2.png"]
    shown = render(found)
    for words in ("31 train, 3 test", "cat", "48x48", *found.warnings):
        assert words in shown


def test_a_healthy_set_says_so(tmp_path: Path) -> None:
    for seed in range(6):
        save(tmp_path / "ab"[seed % 2] / f"{seed}.png", picture(seed))
    found = diagnose(str(tmp_path))
    assert found.warnings == []
    assert "Nothing wrong" in render(found)


def test_groups_on_both_sides_are_named(tmp_path: Path) -> None:
    for seed, (part, patient) in enumerate([("train", "p1"), ("train", "p2"), ("test", "p2")]):
        for name in ("a", "b"):
            save(tmp_path / part / name / patient / "x.png", picture(10 * seed + len(name) * ord(name)))
    found = diagnose(str(tmp_path), group_level=True)
    assert found.n_groups == 2
    assert found.leaks.groups == ["p2"]
    assert found.n_images == {"train": 4, "test": 2}


def test_a_run_finds_the_labels_that_were_swapped() -> None:
    digits = open_images("digits")
    rng = np.random.default_rng(0)
    probs = rng.dirichlet([0.3] * 10, len(digits)) * 0.2
    probs[np.arange(len(digits)), digits.labels] += 0.8
    wrong = {5: 0.91, 50: 0.97, 500: 0.94}
    for row, prob in wrong.items():
        probs[row] = (1 - prob) / 9
        probs[row, (digits.labels[row] + 1) % 10] = prob
    predictions = Predictions(np.array(digits.ids), np.full(len(digits), -1), probs.astype(np.float32))
    found = diagnose("digits", predictions=predictions)
    assert [doubt.path for doubt in found.doubts] == ["digits#50", "digits#500", "digits#5"]
    assert found.doubts[0].predicted == str((int(found.doubts[0].label) + 1) % 10)
    assert any("look wrong" in warning for warning in found.warnings)


def test_near_duplicates_equal_the_search_over_all_pairs() -> None:
    """Against every pair, with bits flipped one by one: the pigeonhole argument must not lose any."""
    rng = np.random.default_rng(0)
    base = rng.integers(0, 250, (60, 16, 18), dtype=np.uint8)
    shaken = np.clip(base.astype(int) + rng.integers(-9, 10, base.shape), 0, 255).astype(np.uint8)
    copies = np.repeat(base[:1], 12, axis=0) + rng.integers(0, 2, (12, 16, 18), dtype=np.uint8)
    thumbnails = np.concatenate([base, shaken, base // 2, copies])
    hashes = difference_hashes(thumbnails)
    expected = []
    for a in range(len(hashes)):
        for b in range(a + 1, len(hashes)):
            bits = int(hashes[a] ^ hashes[b]).bit_count()
            rms = np.sqrt(((thumbnails[a].astype(float) - thumbnails[b]) ** 2).mean())
            if bits <= MAX_BITS and rms <= 10:
                expected.append([a, b])
    assert len(expected) > 40 + 12 * 11 / 2
    assert near_duplicates(thumbnails).tolist() == expected


def test_a_hash_has_one_bit_for_each_darker_cell() -> None:
    ramp = np.repeat(np.arange(18, dtype=np.uint8)[None, None] * 10, 16, axis=1)
    assert difference_hashes(ramp).tolist() == [2**64 - 1]
    assert difference_hashes(ramp[:, :, ::-1]).tolist() == [0]


def test_real_images_take_well_under_a_minute(shared_data: Path) -> None:
    found = diagnose(str(shared_data / "cifar10-test.parquet"))
    assert found.n_images == {"train": 10_000}
    assert found.pixels.sizes == {"32x32": 10_000}
    assert found.problems == []
    assert found.imbalance == 1


def test_array_modes_are_their_types() -> None:
    assert diagnose("digits").pixels.modes == {"uint8": 1797}


def test_several_labels_and_boxes_are_counted_and_none_of_the_classes_is_no_class(tmp_path: Path) -> None:
    source = str(write_photographs(tmp_path / "photographs"))
    images = open_images(source)
    predictions = Predictions(np.array(images.ids), images.labels, np.full((64, 3), 0.5, np.float32), np.full(3, 0.5))
    found = diagnose(source, predictions=predictions)
    assert found.warnings == []
    assert found.doubts == []
    train = np.array(images.split) == "train"
    counts = images.labels[train].sum(0)
    assert found.counts["train"]["none of the classes"] == (images.labels[train] == 0).all(1).sum() < counts.min()
    assert found.imbalance == counts.max() / counts.min()
    shown = render(found)
    assert f"several {found.n_several} images have more than one label" in shown
    assert f"boxes   {found.n_boxes}" in shown
    assert found.n_several > 0


def test_unlabeled_images_are_those_of_training_and_those_that_are_called_so(tmp_path: Path) -> None:
    parts = [("a", "train"), ("b", "train"), ("a", "unlabeled"), ("", "train"), ("", "test"), ("b", "test")]
    for seed in range(len(parts)):
        save(tmp_path / f"{seed}.png", picture(seed))
    rows = [f"{seed}.png,{label},{part}" for seed, (label, part) in enumerate(parts)]
    (tmp_path / "labels.csv").write_text("\n".join(["path,label,split", *rows]))
    found = diagnose(str(tmp_path))
    assert found.n_images == {"train": 4, "test": 2}
    assert found.n_unlabeled == 2
    assert found.counts == {"train": {"a": 1, "b": 1}, "test": {"a": 0, "b": 1}}
    assert (found.n_several, found.n_boxes) == (0, None)
    assert "boxes " not in render(found)
