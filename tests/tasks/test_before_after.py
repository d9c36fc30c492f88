"""Before and after: the same view for every run, the map cut as the view was cut, and how far the two agree."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from eke.engine.model_files import ModelCard, new_network, save_model
from eke.errors import ConfigError
from eke.explain.cam import grad_cam
from eke.models.network import ModelOptions, Network
from eke.tasks.before_after import Contender, agreement, as_bytes, augmented_views, before_after_kind
from eke.tasks.explain import explain
from eke.tasks.explanation import Subject

CLASSES = ("cat", "dog", "frog")


def card_of(size=(16, 16), name="small", fit="crop"):
    half = (0.5,) * 3
    return ModelCard(
        model=ModelOptions(name=name), classes=CLASSES, channels=3, size=size, fit=fit, mean=half, std=half
    )


def contender(run, seed, **changes):
    card = card_of(**changes)
    return Contender(Path(run), new_network(card, seed).eval(), card)


@pytest.fixture
def pixels():
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(3, 3, 4, 4, generator=generator)
    return (nn.functional.interpolate(coarse, (16, 16), mode="bilinear") * 255).to(torch.uint8)


@pytest.fixture
def subjects():
    return [Subject(f"{i:032x}", f"{i}.png", None) for i in range(3)]


def cut(map_, matrix, size):
    """Cut a map (h, w) of an image of `size` (H, W) as `matrix` cuts the image, point by point."""
    h, w = map_.shape
    result = np.zeros((h, w))
    for row in range(h):
        for column in range(w):
            point = np.array([(column + 0.5) * size[1] / w, (row + 0.5) * size[0] / h, 1.0])
            x, y = matrix @ point
            x = min(max(x * w / size[1] - 0.5, 0), w - 1)
            y = min(max(y * h / size[0] - 0.5, 0), h - 1)
            left, top = int(x), int(y)
            right, bottom = min(left + 1, w - 1), min(top + 1, h - 1)
            upper = map_[top, left] * (1 - x + left) + map_[top, right] * (x - left)
            lower = map_[bottom, left] * (1 - x + left) + map_[bottom, right] * (x - left)
            result[row, column] = upper * (1 - y + top) + lower * (y - top)
    return result


def test_each_run_is_laid_out_with_maps_of_its_own(pixels, subjects):
    runs = [contender("runs/a", 0), contender("runs/b", 1)]
    kind = before_after_kind(runs, "gradcam", ("block2",), "predicted")
    view = augmented_views(pixels, [each.id for each in subjects])
    for i, explanation in enumerate(kind.explain(pixels, subjects)):
        for number, (_, network, card) in enumerate(runs, 1):
            both = torch.stack([pixels[i], as_bytes(view)[i]]).float() / 255
            k = int(network(both[:1]).logits.argmax())
            outputs = network(both, taps=("block2",))
            original, augmented = grad_cam(outputs.logits[:, k], outputs.features["block2"])
            maps = {name: explanation.maps[f"{name}-{number}"] for name in ("original", "augmented", "target", "valid")}
            tolerance = {"rtol": 1e-3, "atol": 1e-4 * float(original.abs().max())}
            torch.testing.assert_close(maps["original"], original, **tolerance)
            torch.testing.assert_close(maps["augmented"], augmented, **tolerance)
            target = cut(maps["original"].double().numpy(), view.geometry.matrix[i].double().numpy(), (16, 16))
            np.testing.assert_allclose(maps["target"].numpy(), target, **tolerance)
            assert maps["valid"].all()  # crops inside the image and quarter turns show nothing else

            facts = explanation.facts["runs"][number - 1]
            assert facts["run"] == str(runs[number - 1].run)
            assert facts["predicted"] == facts["explained"] == card.classes[k]
            assert facts["map"] == "gradcam@block2"
            correlation = np.corrcoef(target.ravel(), augmented.numpy().ravel())[0, 1]
            assert facts["agreement"] == pytest.approx(correlation, abs=1e-3)
        assert len(explanation.maps) == 8


def test_every_run_sees_the_same_view_whatever_else_is_shown(pixels, subjects):
    view = augmented_views(pixels, [each.id for each in subjects])
    alone = augmented_views(pixels[2:], [subjects[2].id])
    assert torch.equal(view.pixels[2:], alone.pixels)
    assert torch.equal(view.geometry.matrix[2:], alone.geometry.matrix)
    assert not torch.equal(view.geometry.matrix[0], view.geometry.matrix[1])
    torch.testing.assert_close(as_bytes(view).float() / 255, view.pixels, rtol=0, atol=1e-6)
    kind = before_after_kind([contender("a", 0), contender("b", 1)], "gradcam", (), "predicted")
    (_, above), (_, below) = kind.explain(pixels, subjects)[0].block.rows
    np.testing.assert_array_equal(above[2].image, below[2].image)
    np.testing.assert_array_equal(above[2].image, as_bytes(view)[0].permute(1, 2, 0).numpy())
    np.testing.assert_array_equal(above[0].image, pixels[0].permute(1, 2, 0).numpy())


def test_rows_say_run_class_and_agreement(pixels, subjects):
    kind = before_after_kind([contender("runs/{a}", 0), contender("runs/{b}", 1)], "layercam", (), "dog")
    assert kind.title.format(source="{s}", run="r") == "Where r looks in {s}, and after it runs/{b}"
    assert kind.layers == ("block4",)
    explanation = kind.explain(pixels, subjects)[0]
    sheet = explanation.block
    assert sheet.caption == "0.png"
    assert [name for name, _ in sheet.rows] == ["before: runs/{a}", "after: runs/{b}"]
    for (_, pictures), facts in zip(sheet.rows, explanation.facts["runs"], strict=True):
        assert len(pictures) == len(sheet.columns) == 5
        assert pictures[0].lines[0].startswith(f"taken for {facts['predicted']} (")
        assert pictures[0].lines[1].startswith("explained: dog")
        assert pictures[1].lines[0] == "layercam@block4"
        assert pictures[4].lines[0] == f"agreement {facts['agreement']:.2f}".replace("-", "\N{MINUS SIGN}")


def test_agreement_counts_valid_places_only():
    a, b = torch.randn(2, 5, 5, generator=torch.Generator().manual_seed(0))
    valid = torch.ones(5, 5, dtype=torch.bool)
    assert agreement(a, a * 3 + 2, valid) == pytest.approx(1)
    assert agreement(a, -a, valid) == pytest.approx(-1)
    assert agreement(a * 1e-15, b, valid) == pytest.approx(np.corrcoef(a.flatten(), b.flatten())[0, 1], abs=1e-5)
    valid[:2] = False
    spoiled = torch.where(valid, a, 1e3)
    assert agreement(a, spoiled, valid) == pytest.approx(1)
    assert agreement(torch.ones(5, 5), b, valid) is None
    assert agreement(a, torch.where(valid, 2.0, a), valid) is None


def test_flat_maps_have_no_agreement(pixels, subjects):
    run = contender("a", 0)
    silent = Network(run.network.body, nn.Linear(run.network.width, 3), width=run.network.width).eval()
    with torch.no_grad():
        silent.head.weight.zero_()
    kind = before_after_kind([run, run._replace(network=silent)], "gradcam", ("block3",), "predicted")
    explanation = kind.explain(pixels, subjects)[0]
    _, facts = explanation.facts["runs"]
    assert facts["agreement"] is None
    assert facts["flat"] == {"original": True, "augmented": True}
    (_, first), (_, second) = explanation.block.rows
    assert "flat" not in str([picture.lines for picture in first])
    assert second[4].lines == ("agreement none: a map is flat", "flat: no place stands out")


def test_what_cannot_be_compared_is_refused(pixels, subjects):
    small = contender("runs/small", 0)
    with pytest.raises(ConfigError, match=r"runs/large reads 32x32 pixels.*runs/small 16x16"):
        before_after_kind([small, contender("runs/large", 0, size=(32, 32))], "gradcam", (), "predicted")
    with pytest.raises(ConfigError, match=r"fit pad.*fit crop"):
        before_after_kind([small, contender("runs/pad", 0, fit="pad")], "gradcam", (), "predicted")
    with pytest.raises(ConfigError, match="read no layer"):
        before_after_kind([small, small], "saliency", ("block2",), "predicted")
    with pytest.raises(ConfigError, match="no class 'dgo'"):
        before_after_kind([small, small], "gradcam", (), "dgo")
    other = contender("runs/resnet", 0, name="resnet20")
    kind = before_after_kind([small, other], "gradcam", ("block2",), "predicted")
    with pytest.raises(ConfigError, match=r"runs/resnet: The network has no layer 'block2'"):
        kind.explain(pixels, subjects)


def test_before_and_after_of_two_run_folders(pixels, tmp_path):
    for name, seed in (("first", 0), ("second", 1)):
        save_model(tmp_path / name / "model", new_network(card_of(), seed), card_of())
    (tmp_path / "images" / "cat").mkdir(parents=True)
    for i, image in enumerate(pixels):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / "images" / "cat" / f"{i}.png")
    out, second = tmp_path / "out", tmp_path / "second"
    explained = explain(tmp_path / "first", str(tmp_path / "images"), out, against=(second, second), n_images=2)
    assert explained["map"] == "gradcam"
    assert explained["layers"] == ["block4"]
    for image in explained["images"]:
        assert image["label"] == "cat"
        assert [row["run"] for row in image["runs"]] == [str(tmp_path / name) for name in ("first", "second", "second")]
        assert image["runs"][1] == image["runs"][2]
        assert image["runs"][0]["agreement"] != image["runs"][1]["agreement"]
        with np.load(image["maps"]) as maps:
            assert len(maps) == 12
            np.testing.assert_array_equal(maps["target-2"], maps["target-3"])
        with Image.open(image["picture"]) as picture:
            assert picture.format == "PNG"
    assert (out / "index.html").read_text().count("<img") == 2 * 3 * 5
