"""Which pairs a report shows beside their boxes, and how figures of results become those of the page."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from eke.data.cache import ResidentPixels
from eke.data.images import Box
from eke.engine.journal import RunFolder
from eke.models.backbones import from_module
from eke.report.boxes import draw_boxes
from eke.report.page import Picture
from eke.report.pictures import picture_of
from eke.tasks import box_report as module
from eke.tasks.attention_maps import attention_maps
from eke.tasks.box_report import N_CHANGED, N_DRAWN, box_report
from eke.tasks.localize import Located
from eke.tasks.prepare import Part
from eke.tasks.side_by_side import heat

CLASSES = ("cat", "dog")
N = 40


def save(folder: Path, overlap: np.ndarray) -> tuple[str, Path]:
    """Save the overlaps of pairs: image i has class 0 where i is even, both where i is a multiple of 4."""
    pairs = [(i, k) for i in range(N) for k in (0, 1) if k == i % 2 or i % 4 == 0][: len(overlap)]
    figures = np.zeros((3, 3, len(overlap)))
    figures[0, 0] = overlap
    found = Located(
        np.array([f"id{i}" for i in range(N)]),
        np.array(pairs),
        np.ones(len(pairs), bool),
        figures,
        np.zeros((len(pairs), 101)),
    )
    (folder / "predictions").mkdir(parents=True)
    found.save(RunFolder(folder).boxes("test"))
    return folder.name, folder


def ends(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.1, "high": value + 0.1}


def measured(start: float, missed: bool = True) -> dict[str, Any]:
    def group(value: float) -> dict[str, Any]:
        figures = ("overlap", "pointing", "energy")
        marks = {"map": value, "center": value + 0.01, "random": value + 0.02}
        return {
            "n_pairs": 50,
            **{who: {name: ends(at + i / 1000) for i, name in enumerate(figures)} for who, at in marks.items()},
        }

    empty = {"n_pairs": 0, "n_images": 0}
    return {
        "map": "gradcam@layer4",
        "true_positives": {**group(start), "n_pairs": 30},
        "missed": group(start + 0.2) if missed else empty,
        "labeled": group(start + 0.1),
    }


@pytest.fixture
def material() -> Any:
    images = SimpleNamespace(
        paths=[f"{row}.jpg" for row in range(100)], label_words=lambda row: f"labels of {row}", boxes=None
    )
    part = SimpleNamespace(images=images, rows=[2 * i for i in range(N)])
    return SimpleNamespace(part=lambda split: part, pools=SimpleNamespace(card=SimpleNamespace(classes=CLASSES)))


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Note what pictures are asked for; each is called by its run, row, class and overlap."""
    calls: list[tuple[Any, ...]] = []

    def pictures(run: Path, part: Any, rows: Any, labels: Any, layer: str, overlaps: Any) -> list[list[Picture]]:
        calls.append((run.name, list(rows), list(labels), layer, overlaps.tolist()))
        lines = zip(rows, labels, overlaps, strict=True)
        return [[Picture(np.zeros((2, 2), np.uint8), (f"{run.name} {r} {k} {o}",), "")] for r, k, o in lines]

    monkeypatch.setattr(module, "_pictures", pictures)
    return calls


def shown_of(calls: list[tuple[Any, ...]]) -> list[tuple[int, int]]:
    """Image and class of each pair that is shown, the same for all runs."""
    assert all(call[1:4] == calls[0][1:4] for call in calls)
    return [(row // 2, label) for row, label in zip(calls[0][1], calls[0][2], strict=True)]


@pytest.mark.parametrize("seed", range(3))
def test_some_are_drawn_and_then_those_that_changed_the_most(
    tmp_path: Path, material: Any, drawn: list[Any], seed: int
) -> None:
    before, after = np.random.default_rng(seed).random((2, 50))
    runs = [save(tmp_path / "before", before), save(tmp_path / "after", after)]
    results = {"boxes": {"test": measured(0.3)}, "baseline": {"boxes": {"test": measured(0.2)}}}
    report = box_report(results, runs, material, "test")
    assert report is not None
    shown = shown_of(drawn)
    assert len(set(shown)) == len(shown) == N_DRAWN + N_CHANGED, "none twice"
    pairs = [tuple(pair) for pair in Located.load(RunFolder(runs[0][1]).boxes("test")).pairs.tolist()]
    places = [pairs.index(pair) for pair in shown]
    change = np.abs(after - before)
    others = sorted({*range(50)} - {*places[:N_DRAWN]}, key=lambda i: -change[i])
    assert places[N_DRAWN:] == others[:N_CHANGED]
    assert [call[4] for call in drawn] == [before[places].tolist(), after[places].tolist()]
    assert [call[3] for call in drawn] == ["layer4", "layer4"]
    for sheet, (image, label), place in zip(report.sheets, shown, places, strict=True):
        said = "drawn at random" if place in places[:N_DRAWN] else "among the largest changes"
        row = 2 * image
        assert sheet.caption == f"{said}: {row}.jpg, labeled labels of {row}; maps of {CLASSES[label]}"
        lines = [(name, pictures[0].lines[0]) for name, pictures in sheet.rows]
        each = zip(("before", "after"), (before[place], after[place]), strict=True)
        assert lines == [(name, f"{name} {row} {label} {overlap}") for name, overlap in each]


def test_those_that_are_drawn_do_not_depend_on_what_was_measured(
    tmp_path: Path, material: Any, drawn: list[Any]
) -> None:
    results = {"boxes": {"test": measured(0.3)}}
    chosen = []
    for i in range(2):
        run = save(tmp_path / f"run{i}", np.sort(np.random.default_rng(i).random(50)))
        box_report(results, [("other", tmp_path / "nowhere"), run], material, "test")
        chosen.append(shown_of(drawn[i:]))
    assert chosen[0] == chosen[1]
    assert len(set(chosen[0])) == N_DRAWN, "without another run nothing changes"
    first = Located.load(RunFolder(run[1]).boxes("test")).pairs[:N_DRAWN].tolist()
    assert [list(pair) for pair in chosen[0]] != first


def test_few_pairs_are_all_shown(tmp_path: Path, material: Any, drawn: list[Any]) -> None:
    runs = [save(tmp_path / name, np.array([0.1, 0.2]) * k) for k, name in enumerate(("before", "after"))]
    results = {"boxes": {"test": measured(0.3)}, "baseline": {"boxes": {"test": measured(0.2)}}}
    report = box_report(results, runs, material, "test")
    assert report is not None
    assert [sheet.caption.split(":")[0] for sheet in report.sheets] == ["drawn at random"] * 2


def test_figures_come_from_the_run_that_they_are_called_by(tmp_path: Path, material: Any, drawn: list[Any]) -> None:
    runs = [save(tmp_path / name, np.zeros(50)) for name in ("before", "after")]
    difference = {"value": 0.1, "low": None, "high": None, "p": 0.02, "n_pairs": [31, 30]}
    results = {
        "boxes": {"test": measured(0.3)},
        "baseline": {"boxes": {"test": measured(0.2)}},
        "boxes_difference": {"test": {"true_positives": difference}},
    }
    report = box_report(results, runs, material, "test")
    assert report is not None
    assert (report.map, report.n_pairs, report.n_recognized) == ("gradcam@layer4", 50, 30)
    assert report.missed == pytest.approx((0.5, 0.4, 0.6))
    values = {row.name: [each.value for pair in row[2:] for each in pair if each] for row in report.rows}
    assert values["before"] == pytest.approx([0.2, 0.3, 0.201, 0.301, 0.202, 0.302])
    assert values["after"] == pytest.approx([0.3, 0.4, 0.301, 0.401, 0.302, 0.402])
    assert values["box in the center"][:2] == pytest.approx([0.31, 0.41])
    assert values["random maps"][:2] == pytest.approx([0.32, 0.42])
    ((ground, paired, n),) = report.differences
    assert (ground, paired.interval.value, paired.p, n) == ("recognized by each", 0.1, 0.02, 30)
    assert math.isnan(paired.interval.low)


def test_without_boxes_there_is_no_report_and_without_missed_pairs_no_figure(
    tmp_path: Path, material: Any, drawn: list[Any]
) -> None:
    run = save(tmp_path / "run", np.zeros(50))
    assert box_report({"boxes": {"validation": measured(0.3)}}, [run], material, "test") is None
    assert box_report({}, [run], material, "test") is None
    report = box_report({"boxes": {"test": measured(0.3, missed=False)}, "baseline": None}, [run], material, "test")
    assert report is not None
    assert report.missed is None


def test_each_picture_has_the_boxes_of_its_own_class_where_the_image_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    body = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, 2, 1), torch.nn.ReLU())
    network = from_module(body, 2, size=(24, 24)).eval()
    card = SimpleNamespace(classes=CLASSES)
    monkeypatch.setattr(module, "load_classifier", lambda path, device: (network, card))
    pixels = torch.randint(0, 200, (2, 3, 24, 24), dtype=torch.uint8)
    boxes = ((Box("cat", 1, 2, 9, 12), Box("dog", 10, 10, 20, 22)), (Box("dog", 3, 3, 7, 8),))
    images: Any = SimpleNamespace(paths=["a.jpg", "b.jpg"], boxes=boxes)
    affine = torch.tensor([[1.0, 0, 2], [0, 1, -1]]).repeat(2, 1, 1)  # two to the right, one up
    part = Part(images, ResidentPixels(pixels), [0, 1], affine)
    pairs = [(0, 1, (12, 9, 22, 21)), (1, 1, (5, 2, 9, 7)), (0, 0, (3, 1, 11, 11))]
    rows, labels = [row for row, _, _ in pairs], [label for _, label, _ in pairs]
    shown = module._pictures(Path("run"), part, rows, labels, "0", np.array([0.25, 0.5, 0.75]))
    probs = network(pixels.float() / 255).logits.softmax(1).detach()
    maps = attention_maps(network, pixels[rows], torch.tensor(labels), ("gradcam", "guided"), ("0",)).values()
    for i, ((row, label, box), pictures) in enumerate(zip(pairs, shown, strict=True)):
        plain = [picture_of(pixels[row]), *(heat(pixels[row], each[i]) for each in maps)]
        assert [picture.image.shape[0] for picture in pictures] == [24, 144, 144]
        for picture, image in zip(pictures, plain, strict=True):
            assert (picture.image == draw_boxes(image, [box], len(image) // 24)).all()
        first, second, third = (picture.lines for picture in pictures)
        assert first == (f"{CLASSES[label]}: {100 * float(probs[row, label]):.1f} %",)
        assert second == ("gradcam", f"overlap {25 * (i + 1)}.0 %")
        assert third == ("guided",)
