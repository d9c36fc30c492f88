import itertools
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from eke.data.contents import ArrayContents
from eke.data.dividing import share_labels, take_rate
from eke.data.images import ImageSet, content_id
from eke.data.labels import apply_labels
from eke.data.sources import open_images
from eke.data.splits import DataOptions, Split, load_split, make_pool, make_split
from eke.errors import ConfigError, DataError


def image_set(
    labels: list[int],
    *,
    groups: list[str] | None = None,
    split: list[str] | None = None,
    n_classes: int | None = None,
    first: int = 0,
    source: str = "pets",
) -> ImageSet:
    """Images that need no pixels."""
    n = len(labels)
    return ImageSet(
        source=source,
        ids=tuple(content_id(str(first + row).encode()) for row in range(n)),
        paths=tuple(f"{row}.png" for row in range(n)),
        labels=np.array(labels, dtype=np.int64),
        classes=tuple("abcdefghijkl"[: n_classes or max(labels, default=0) + 1]),
        groups=tuple(groups) if groups else None,
        split=tuple(split) if split else None,
        problems=(),
        contents=ArrayContents(np.zeros((n, 2, 2), np.uint8)),
        rows=np.arange(n),
    )


def per_class(images: ImageSet, ids: tuple[str, ...]) -> list[int]:
    return np.bincount(images.labels[images.positions(ids)], minlength=len(images.classes)).tolist()


def split_of(images: ImageSet, test: ImageSet | None = None, seed: int = 0, **options: object) -> Split:
    return make_split(images, test, DataOptions.model_validate(options), seed)


def test_the_budget_is_train_plus_validation() -> None:
    images = image_set([label for label in range(3) for _ in range(100)] + [-1] * 50)
    split = split_of(images, labels_per_class=25)
    assert per_class(images, split.labeled) == [20, 20, 20]
    assert per_class(images, split.validation) == [5, 5, 5]
    assert split.budget == 75
    assert len(split.unlabeled) == 350 - 15
    assert set(split.labeled) <= set(split.unlabeled)
    assert not set(split.validation) & set(split.unlabeled)
    assert split.test == ()
    alone = split_of(images, labels_per_class=25, unlabeled_with_labeled=False)
    assert set(alone.unlabeled) == set(split.unlabeled) - set(split.labeled)
    assert split_of(images).budget == 300
    assert split_of(images, labels_per_class=25, seed=1).labeled != split.labeled


def test_so_many_unlabeled_images_beside_those_that_train() -> None:
    images = image_set([label for label in range(3) for _ in range(100)] + [-1] * 50)
    whole = split_of(images, labels_per_class=25)
    some, more = (split_of(images, labels_per_class=25, n_unlabeled=n) for n in (40, 120))
    assert (some.labeled, some.validation) == (whole.labeled, whole.validation)
    assert set(some.labeled) <= set(some.unlabeled) < set(more.unlabeled) < set(whole.unlabeled)
    assert [len(split.unlabeled) for split in (some, more)] == [40 + 60, 120 + 60]
    alone = split_of(images, labels_per_class=25, n_unlabeled=40, unlabeled_with_labeled=False)
    assert set(alone.unlabeled) == set(some.unlabeled) - set(some.labeled)
    assert split_of(images, labels_per_class=25, n_unlabeled=40, seed=1).unlabeled != some.unlabeled
    everything = split_of(images, labels_per_class=25, n_unlabeled=276)
    assert everything.unlabeled == whole.unlabeled
    assert everything.notes == (*whole.notes, "276 unlabeled images were asked for, but there are 275.")


def test_the_pool_may_be_given() -> None:
    images = image_set([label for label in range(3) for _ in range(100)] + [-1] * 50)
    whole = split_of(images, labels_per_class=25)
    pool = {*images.ids[300:], *whole.labeled[:7], *whole.validation[:2]}
    given = make_split(images, None, DataOptions(labels_per_class=25), 0, pool)
    assert (given.labeled, given.validation) == (whole.labeled, whole.validation)
    assert set(given.unlabeled) == {*images.ids[300:], *whole.labeled[:7]}, "what validates is in no pool"
    alone = make_split(images, None, DataOptions(labels_per_class=25, unlabeled_with_labeled=False), 0, pool)
    assert set(alone.unlabeled) == {*images.ids[300:]}
    some = make_pool(images, None, DataOptions(n_unlabeled=10), 0, "why", {*images.ids[300:]})
    assert len(some.unlabeled) == 10
    assert set(some.unlabeled) < {*images.ids[300:]}


@pytest.mark.parametrize(("n", "rate", "train"), [(5, 0.2, 4), (4, 0.25, 3), (9, 0.2, 8), (10, 0.3, 7), (3, 0.9, 1)])
def test_rounding_is_down_so_that_one_image_trains(n: int, rate: float, train: int) -> None:
    images = image_set([0] * 50 + [1] * 50)
    split = split_of(images, labels_per_class=n, val_rate=rate)
    assert per_class(images, split.labeled) == [train, train]
    assert per_class(images, split.validation) == [n - train, n - train]


def test_rates_are_not_misled_by_binary_fractions() -> None:
    for n, percent in itertools.product(range(1, 120), range(0, 91)):
        chosen = take_rate([np.arange(n)], percent / 100)
        assert len(chosen) == n * percent // 100
        assert 0 not in chosen


@pytest.mark.parametrize(
    "options", [{}, {"labels_per_class": 7}, {"n_labels": 31, "n_unlabeled": 20}, {"holdout_rate": 0.3}]
)
@pytest.mark.parametrize("grouped", [False, True])
def test_the_order_of_rows_does_not_matter(options: dict[str, object], grouped: bool) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(-1, 3, 200).tolist()
    groups = [f"g{group}" for group in rng.integers(0, 60, 200)] if grouped else None
    images = image_set(labels, groups=groups)
    expected = split_of(images, **options)
    for seed in range(3):
        shuffled = images.select(np.random.default_rng(seed).permutation(200))
        assert split_of(shuffled, **options) == expected


def test_more_labels_are_a_superset() -> None:
    rng = np.random.default_rng(1)
    images = image_set(rng.choice(4, 400, p=[0.6, 0.2, 0.15, 0.05]).tolist())
    for name, sizes in (("labels_per_class", range(5, 40)), ("n_labels", range(20, 300, 7))):
        splits = [split_of(images, **{name: n}) for n in sizes]
        for small, large in itertools.pairwise(splits):
            assert set(small.labeled) <= set(large.labeled)
            assert set(small.validation) <= set(large.validation)
            assert small.budget < large.budget
    fixed = [split_of(images, labels_per_class=n, val_per_class=3) for n in range(1, 20)]
    for small, large in itertools.pairwise(fixed):
        assert set(small.labeled) <= set(large.labeled)
        assert small.validation == large.validation
        assert len(large.validation) == 12
    assert fixed[4].labeled == split_of(images, labels_per_class=5, val_rate=0).labeled


def test_labels_are_shared_in_proportion_one_each_at_least() -> None:
    assert share_labels(np.array([60, 30, 10]), 10).tolist() == [6, 3, 1]
    assert share_labels(np.array([98, 1, 1]), 3).tolist() == [1, 1, 1]
    assert share_labels(np.array([5, 2]), 100).tolist() == [5, 2]
    images = image_set([0] * 90 + [1] * 9 + [2])
    split = split_of(images, n_labels=40, val_rate=0.5)
    assert split.budget == 40
    assert per_class(images, split.labeled)[2] == 1
    assert any("'c'" in note and "validation" in note for note in split.notes)


def test_groups_never_cross() -> None:
    rng = np.random.default_rng(2)
    labels = rng.integers(-1, 3, 600).tolist()
    groups = [f"patient {group}" for group in rng.integers(0, 100, 600)]
    images = image_set(labels, groups=groups)
    for options in (
        {},
        {"labels_per_class": 20},
        {"holdout_rate": 0.25},
        {"n_labels": 90, "holdout_rate": 0.2},
    ):
        split = split_of(images, **options)
        of = dict(zip(images.ids, groups, strict=True))
        parts = [{of[name] for name in ids} for ids in (split.unlabeled, split.validation, split.test)]
        for a, b in itertools.combinations(parts, 2):
            assert not a & b
        assert set(split.labeled) <= set(split.unlabeled)
        everywhere = [*split.unlabeled, *split.validation, *split.test, *split.dropped]
        assert sorted(everywhere) == sorted(images.ids)
        if not options:
            train, validation = per_class(images, split.labeled), per_class(images, split.validation)
            for n_train, n_val in zip(train, validation, strict=True):
                assert 0.1 < n_val / (n_train + n_val) < 0.3


def test_test_images_come_from_the_test_source_and_leave_training() -> None:
    train = image_set([0, 1] * 20)
    tests = image_set([0, 1, 0, -1], first=38, source="held out")
    split = split_of(train, tests)
    assert set(split.test) == set(tests.ids[:3])
    assert set(split.dropped) == set(train.ids[38:])
    assert not {*split.labeled, *split.validation, *split.unlabeled} & set(tests.ids)
    assert any("2 images are also in the test set held out" in note for note in split.notes)
    grouped = image_set([0, 1] * 20, groups=[f"g{row // 2}" for row in range(40)])
    other = image_set([0, 1], first=100, groups=["g3", "new"])
    assert set(split_of(grouped, other).dropped) >= {grouped.ids[6], grouped.ids[7]}
    with pytest.raises(DataError, match="no labeled image"):
        split_of(train, image_set([-1, -1], first=100, n_classes=2))


def test_declared_splits_are_kept() -> None:
    parts = ["train"] * 20 + ["val"] * 6 + ["test"] * 8 + ["unlabeled"] * 4 + [""] * 2
    images = image_set([0, 1] * 20, split=parts)
    split = split_of(images, labels_per_class=5)
    assert set(split.validation) == set(images.ids[20:26])
    assert set(split.test) == set(images.ids[26:34])
    assert per_class(images, split.labeled) == [5, 5]
    assert set(split.unlabeled) == set(images.ids[:20]) | set(images.ids[34:])
    assert not set(split.labeled) & set(images.ids[34:38]), "unlabeled rows lend no label"
    assert split.budget == 16
    other = image_set([0, 1], first=100, source="other")
    named = split_of(images, other)
    assert set(named.test) == set(other.ids)
    assert set(named.dropped) == set(images.ids[26:34])


def test_a_hold_out_is_stated_and_stratified() -> None:
    images = image_set([0] * 40 + [1] * 20)
    split = split_of(images, holdout_rate=0.25, labels_per_class=5)
    assert per_class(images, split.test) == [10, 5]
    assert split.test == split_of(images, holdout_rate=0.25).test
    assert not set(split.test) & {*split.labeled, *split.validation, *split.unlabeled}
    with pytest.raises(ConfigError, match="held out is the test set"):
        split_of(images, image_set([0, 1], first=99, source="held out"), holdout_rate=0.25)
    with pytest.raises(ConfigError, match="holds out no image"):
        split_of(images, holdout_rate=0.01)


def test_validation_that_would_be_empty_names_the_remedy() -> None:
    images = image_set([0] * 40 + [1] * 20)
    with pytest.raises(ConfigError, match=r"data.val_rate=0 ") as caught:
        split_of(images, labels_per_class=4)
    assert "Give 5 labels per class" in str(caught.value)
    assert "data.val_rate=0.25" in str(caught.value)
    without = split_of(images, labels_per_class=4, val_rate=0)
    assert without.validation == ()
    assert without.budget == 8
    assert split_of(images, labels_per_class=4, val_rate=0.25).budget == 8


def test_labels_that_cannot_train_are_refused() -> None:
    with pytest.raises(DataError, match="no labeled image"):
        split_of(image_set([-1] * 5, n_classes=2))
    with pytest.raises(DataError, match="one class only"):
        split_of(image_set([0] * 5))
    with pytest.raises(DataError, match="'b', 'c'"):
        split_of(image_set([0, 0, 3, 3], n_classes=4))
    with pytest.raises(ConfigError, match="n_labels=2 is less than the 3 classes"):
        split_of(image_set([0, 1, 2] * 5), n_labels=2)
    with pytest.raises(DataError, match="to train on for 'b'"):
        split_of(image_set([0, 0, 1], split=["train", "train", "test"]))
    with pytest.raises(ConfigError, match="was not joined"):
        split_of(image_set([0, 1] * 5), val_source="elsewhere")
    with pytest.raises(ConfigError, match="groups whole"):
        split_of(image_set([0, 1] * 5, groups=list("aabbccddee")), val_per_class=1)


def test_a_class_with_one_image_trains_and_is_noted() -> None:
    images = image_set([0] * 10 + [1])
    split = split_of(images, labels_per_class=5)
    assert per_class(images, split.labeled) == [4, 1]
    assert per_class(images, split.validation) == [1, 0]
    assert [note.split(":")[0] for note in split.notes] == ["'b'", "'b'"]


def test_options_that_contradict_each_other() -> None:
    for options in (
        {"labels_per_class": 1, "n_labels": 2},
        {"val_per_class": 1, "val_source": "x"},
        {"val_rate": 1.0},
    ):
        with pytest.raises(ValidationError):
            DataOptions.model_validate(options)
    assert DataOptions(size=32).working_size() == (32, 32)
    assert DataOptions(size=(24, 32)).working_size() == (24, 32)
    assert DataOptions().working_size() is None


def test_a_split_is_saved_and_loaded(tmp_path: Path) -> None:
    split = split_of(image_set([0] * 10 + [1]), labels_per_class=5)
    split.save(tmp_path / "split.json")
    assert load_split(tmp_path / "split.json") == split
    for text in ("{}", "[1]", '{"labeled": 3'):
        (tmp_path / "split.json").write_text(text)
        with pytest.raises(DataError, match="not a split"):
            load_split(tmp_path / "split.json")


def test_no_image_is_in_two_parts_whatever_the_source() -> None:
    rng = np.random.default_rng(3)
    for trial in range(30):
        n = 120
        images = image_set(
            rng.integers(-1, 3, n).tolist(),
            groups=[f"g{group}" for group in rng.integers(0, 40, n)] if trial % 2 else None,
            split=rng.choice(["train", "val", "test", "unlabeled", ""], n).tolist() if trial % 3 else None,
        )
        images = replace(images, labels=np.where(np.arange(n) < 6, np.arange(n) % 3, images.labels))
        try:
            split = split_of(images, seed=trial)
        except DataError:
            assert trial % 2, "groups may leave a class without images to train on; nothing else may"
            continue
        counts = Counter([*split.unlabeled, *split.validation, *split.test, *split.dropped])
        assert max(counts.values()) == 1
        assert all(
            images.labels[images.positions(ids)].min() >= 0
            for ids in (split.labeled, split.validation, split.test)
            if ids
        )


def test_a_class_short_of_labels_beside_its_validation_is_noted() -> None:
    split = split_of(image_set([0] * 20 + [1] * 4), labels_per_class=5, val_per_class=1)
    assert split.notes == ("'b': less than the 5 labels asked for.",)


# ------------------------------------------------------------------ what was asked for


def asked_for(tmp_path: Path, options: DataOptions) -> tuple[Split, ImageSet, set[str], set[str]]:
    """60 images of two classes: 30 labeled by the source, 20 by a file of `eke ask`, 6 of these as a control."""
    pixels = np.random.default_rng(0).integers(0, 256, (60, 4, 4), dtype=np.uint8)
    words = ["cat" if i % 2 else "dog" for i in range(60)]
    images = open_images((pixels, [word if i < 30 else "" for i, word in enumerate(words)]))
    file = tmp_path / "ask.csv"
    rows = [f"{images.ids[i]},{int(i >= 44)},{words[i] if i < 50 else ''}" for i in range(30, 55)]
    file.write_text("\n".join(["id,control,label", *rows]), encoding="utf-8")
    laid = apply_labels(images, [file])
    split = make_split(laid, None, options, seed=1)
    return split, laid, set(images.ids[30:44]), set(images.ids[44:50])


@pytest.mark.parametrize("options", [{"val_rate": 0.2}, {"val_per_class": 2}, {"val_rate": 0.0}])
def test_what_a_strategy_asked_for_only_trains_and_its_control_only_validates(
    tmp_path: Path, options: dict[str, float]
) -> None:
    split, _, asked, control = asked_for(tmp_path, DataOptions(**options))
    assert asked <= set(split.labeled)
    assert control <= set(split.validation)
    assert not control & set(split.labeled)
    assert len(split.labeled) + len(split.validation) == 50, "all of them count"
    assert len(split.validation) == 6 + {0.2: 6, 0.0: 0}.get(options.get("val_rate", -1), 4)
    assert any("6 images that were drawn at random as a control" in note for note in split.notes)


def test_an_unanswered_question_is_neither(tmp_path: Path) -> None:
    _, laid, asked, control = asked_for(tmp_path, DataOptions())
    words = dict(zip(laid.ids, laid.asked or (), strict=True))
    assert {name for name, word in words.items() if word == "asked"} == asked
    assert {name for name, word in words.items() if word == "control"} == control
    assert laid.select(range(44, 60)).asked == ("control",) * 6 + ("",) * 10
