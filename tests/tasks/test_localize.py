"""Maps beside boxes: pairs, groups, crops, chance, what is saved, and differences of two runs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from eke.data.cache import ResidentPixels
from eke.data.images import Box
from eke.data.sources import open_images
from eke.engine.predict import Predictions
from eke.errors import CheckpointError
from eke.explain.boxes import box_mask, center_figures, figures
from eke.models.backbones import from_module
from eke.progress import silent
from eke.tasks.attention_maps import attention_maps
from eke.tasks.localize import Located, box_lines, boxes_seen, difference_of_boxes, locate, summarize
from eke.tasks.prepare import Part, open_cache

from .photographs import SIZE, write_photographs

CLASSES = ("blue", "green", "red")
LAYER = "3"


@pytest.fixture(scope="module")
def part(tmp_path_factory: pytest.TempPathFactory) -> Part:
    images = open_images(write_photographs(tmp_path_factory.mktemp("voc") / "set", 20, 4))
    cache = open_cache(images, (24, 24), 3, "crop", silent)
    return Part(images, ResidentPixels(cache.load()), list(range(len(images))), cache.affine)


@pytest.fixture(scope="module")
def network() -> Any:
    torch.manual_seed(0)
    body = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, 2, 1), torch.nn.ReLU(), torch.nn.Conv2d(8, 8, 3, 2, 1), torch.nn.ReLU()
    )
    return from_module(body, 3, size=(24, 24)).eval()


def said(part: Part, probs: np.ndarray) -> Predictions:
    return Predictions(np.array(part.images.ids), part.images.labels, probs.astype(np.float32), np.full(3, 0.5))


@pytest.fixture(scope="module")
def located(part: Part, network: Any) -> Located:
    probs = np.random.default_rng(0).random((len(part.rows), 3))
    found = locate(network, part, said(part, probs), CLASSES, LAYER)
    assert found is not None
    return found


def test_boxes_move_with_the_crop(part: Part) -> None:
    """24 x 36 cut to the middle 24 x 24: six columns are lost on either side."""
    for row in part.rows:
        for name in CLASSES:
            wanted = [
                [max(0, box.left - 6), box.top, min(24, box.right - 6), box.bottom]
                for box in part.images.boxes[row]
                if box.name == name and box.right > 6 and box.left < 30
            ]
            assert boxes_seen(part, row, name, (24, 24)).tolist() == wanted
    assert SIZE == (24, 36)


def test_the_pixels_below_a_box_have_its_color(part: Part) -> None:
    channel = {"red": 0, "green": 1, "blue": 2}
    n = 0
    for row in part.rows:
        image = part.pixels.read([row])[0].float()
        for name in CLASSES:
            mask = box_mask(boxes_seen(part, row, name, (24, 24)), (24, 24))
            if mask.any():
                n += 1
                assert image[:, mask].mean(1).argmax() == channel[name]
    assert n > 20


def test_every_pair_has_its_figures(part: Part, network: Any, located: Located) -> None:
    """One pair at a time, its map explaining its own class."""
    for place, (position, label) in enumerate(located.pairs.tolist()):
        mask = box_mask(boxes_seen(part, position, CLASSES[label], (24, 24)), (24, 24))
        image = part.pixels.read([position])
        (cam,) = attention_maps(network, image, torch.tensor([label]), ("gradcam",), (LAYER,)).values()
        alone = figures(cam, mask[None], tolerance=15 / 224 * 24)
        assert located.figures[0, :, place] == pytest.approx([float(each[0]) for each in alone], abs=1e-6)
        assert located.sweep[place, 50] == pytest.approx(float(alone.overlap[0]), abs=1e-6)
    expected = [
        [row, label]
        for row in part.rows
        for label, name in enumerate(CLASSES)
        if part.images.labels[row, label] == 1 and len(boxes_seen(part, row, name, (24, 24)))
    ]
    assert located.pairs.tolist() == expected


def test_groups(part: Part, located: Located) -> None:
    found = summarize(located, LAYER)
    n = {name: found[name]["n_pairs"] for name in ("true_positives", "missed", "labeled")}
    assert n["true_positives"] + n["missed"] == n["labeled"] == len(located.pairs)
    assert 0 < n["missed"] < n["labeled"]
    for name, chosen in (("true_positives", located.predicted), ("missed", ~located.predicted)):
        value = found[name]["map"]["overlap"]
        assert value["value"] == pytest.approx(located.figures[0, 0, chosen].mean())
        assert value["low"] <= value["value"] <= value["high"]
    assert found["labeled"]["center"]["overlap"]["value"] == pytest.approx(located.figures[1, 0].mean())
    assert found["labeled"]["random"]["energy"]["value"] == pytest.approx(located.figures[2, 2].mean())
    assert "at_threshold" not in found["labeled"]
    swept = summarize(located, LAYER, 0.31)["labeled"]["at_threshold"]
    assert swept["overlap"]["value"] == pytest.approx(located.sweep[:, 31].mean())


def test_nobody_recognized(part: Part, network: Any) -> None:
    found = locate(network, part, said(part, np.zeros((len(part.rows), 3))), CLASSES, LAYER)
    assert found is not None
    summary = summarize(found, LAYER)
    assert summary["true_positives"] == {"n_pairs": 0, "n_images": 0}


def test_without_boxes_there_is_nothing(part: Part, network: Any) -> None:
    from dataclasses import replace

    bare = replace(part, images=replace(part.images, boxes=None))
    assert locate(network, bare, said(part, np.ones((len(part.rows), 3))), CLASSES, LAYER) is None
    outside = tuple((Box("red", 0, 0, 2, 2),) for _ in part.rows)  # cut off with the six columns
    cut = replace(part, images=replace(part.images, boxes=outside))
    assert locate(network, cut, said(part, np.ones((len(part.rows), 3))), CLASSES, LAYER) is None


def test_images_with_one_label(part: Part, network: Any) -> None:
    from dataclasses import replace

    labels = np.where(part.images.labels.any(1), part.images.labels.argmax(1), -1)
    one = replace(part, images=replace(part.images, labels=labels))
    probs = np.random.default_rng(1).dirichlet(np.ones(3), len(part.rows)).astype(np.float32)
    found = locate(network, one, Predictions(np.array(one.images.ids), labels, probs), CLASSES, LAYER)
    assert found is not None
    assert (labels[found.pairs[:, 0]] == found.pairs[:, 1]).all()
    assert (found.predicted == (probs.argmax(1)[found.pairs[:, 0]] == found.pairs[:, 1])).all()


def test_saved_and_read_again(located: Located, tmp_path: Path) -> None:
    located.save(tmp_path / "boxes.npz")
    again = Located.load(tmp_path / "boxes.npz")
    for mine, theirs in zip(located, again, strict=True):
        assert mine.tolist() == theirs.tolist()
    (tmp_path / "boxes.npz").write_bytes(b"no")
    with pytest.raises(CheckpointError, match="cannot be read"):
        Located.load(tmp_path / "boxes.npz")


def test_differences(located: Located) -> None:
    other = located._replace(
        figures=np.clip(located.figures - 0.1, 0, 1), predicted=np.roll(located.predicted, 1), ids=located.ids
    )
    found = difference_of_boxes(located, other)
    mine, theirs = located.figures[0, 0], other.figures[0, 0]
    assert found["labeled"]["value"] == pytest.approx((mine - theirs).mean())
    both = located.predicted & other.predicted
    assert found["common_true_positives"]["value"] == pytest.approx((mine - theirs)[both].mean())
    assert found["common_true_positives"]["n_pairs"] == [int(both.sum())] * 2
    each = mine[located.predicted].mean() - theirs[other.predicted].mean()
    assert found["true_positives"]["value"] == pytest.approx(each)
    assert difference_of_boxes(located, other._replace(ids=other.ids[::-1])) == {}
    nothing = other._replace(predicted=np.zeros_like(other.predicted))
    assert set(difference_of_boxes(located, nothing)) == {"labeled"}


def test_the_box_in_the_center_is_as_large_as_boxes_are_on_average(part: Part, located: Located) -> None:
    masks = torch.stack(
        [box_mask(boxes_seen(part, row, CLASSES[label], (24, 24)), (24, 24)) for row, label in located.pairs.tolist()]
    )
    expected = center_figures(masks, float(masks.double().mean()), 15 / 224 * 24)
    for mine, theirs in zip(located.figures[1], expected, strict=True):
        assert mine == pytest.approx(theirs.numpy())


def test_images_and_classes_are_counted_over_pairs(located: Located) -> None:
    found = summarize(located, LAYER)["labeled"]
    assert found["n_images"] == len({image for image, _ in located.pairs.tolist()}) < len(located.ids)
    by_class = [located.figures[0, 0, located.pairs[:, 1] == k].mean() for k in range(3)]
    assert found["map"]["overlap_over_classes"] == pytest.approx(np.mean(by_class))
    assert np.mean(by_class) != pytest.approx(located.figures[0, 0].mean())


def test_a_box_whose_label_was_taken_away_is_no_pair(part: Part, network: Any, located: Located) -> None:
    from dataclasses import replace

    labels = part.images.labels.copy()
    labels[:6] = -1
    labels[6:, 0] = 0
    bare = replace(part, images=replace(part.images, labels=labels))
    found = locate(network, bare, said(bare, np.ones((len(part.rows), 3))), CLASSES, LAYER)
    assert found is not None
    assert found.pairs.tolist() == [[i, k] for i, k in located.pairs.tolist() if i >= 6 and k > 0]


def test_the_text_has_recognized_pairs_before_all(located: Located) -> None:
    found = summarize(located, LAYER)
    lines = box_lines({"method": "fixmatch", "boxes": {"test": found}}, "test")
    assert f"test ({len(located.pairs)} pairs)" in lines[1]
    for line, who in zip(lines[3:], ("map", "center", "random"), strict=True):
        values = [f" {100 * found[group][who]['overlap']['value']:.1f} [" for group in ("true_positives", "labeled")]
        assert 0 < line.index(values[0]) < line.rindex(values[1])
    assert lines[3].startswith(f"  fixmatch, gradcam@{LAYER} ")
