"""Curves of insertion and deletion, by hand where the model is a sum over pixels."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from eke.errors import ConfigError, DataError
from eke.explain.faithfulness import blurred, deletion, insertion
from eke.explain.places import random_maps, ranks


def linear(weights: Tensor) -> Callable[[Tensor], Tensor]:
    """A model whose answer is a weighted sum over pixels."""
    return lambda images: (images * weights).sum((1, 2, 3))


def test_exact_values_by_hand() -> None:
    images = torch.tensor([[[[0.1, 0.4], [0.3, 0.2]]]])
    maps = torch.tensor([[[1.0, 4.0], [2.0, 3.0]]])  # order of values: 0.4, 0.2, 0.3, 0.1
    removed = deletion(linear(torch.ones(1, 1, 1)), images, maps, torch.zeros(1), n_steps=4)
    assert removed.painted.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert removed.probs[0].tolist() == pytest.approx([1.0, 0.6, 0.4, 0.1, 0.0])
    assert removed.area.tolist() == pytest.approx([(0.5 + 0.6 + 0.4 + 0.1) / 4])
    given = insertion(linear(torch.ones(1, 1, 1)), images, maps, torch.zeros(1), n_steps=4)
    assert given.probs[0].tolist() == pytest.approx([0.0, 0.4, 0.6, 0.9, 1.0])
    assert given.area.tolist() == pytest.approx([(0.4 + 0.6 + 0.9 + 0.5) / 4])


@pytest.mark.parametrize("n_steps", [1, 5, 7, 100])
@pytest.mark.parametrize("mode", ["color", "images"])
def test_equal_to_the_pixel_loop(mode: str, n_steps: int) -> None:
    n, c, h, w = 3, 2, 5, 6
    images, maps, weights = torch.rand(n, c, h, w), torch.randn(n, 3, 2), torch.rand(c, h, w)
    fill = torch.rand(c) if mode == "color" else torch.rand(n, c, h, w)
    rank = ranks(maps, (h, w))
    for measure in (deletion, insertion):
        got = measure(linear(weights), images, maps, fill, n_steps)
        assert got.probs.shape == (n, n_steps + 1)
        for i in range(n):
            curve, shares = [], []
            for step in range(n_steps + 1):
                n_painted = step * h * w // n_steps
                score = 0.0
                for k, y, x in np.ndindex(c, h, w):
                    color = fill[k] if mode == "color" else fill[i, k, y, x]
                    hot = int(rank[i, y, x]) < n_painted
                    shown = hot if measure is insertion else not hot
                    score += float(weights[k, y, x] * (images[i, k, y, x] if shown else color))
                curve.append(score)
                shares.append(n_painted / (h * w))
            assert got.probs[i].tolist() == pytest.approx(curve, rel=1e-5)
            assert got.painted.tolist() == pytest.approx(shares)
            area = sum((shares[s + 1] - shares[s]) * (curve[s] + curve[s + 1]) / 2 for s in range(n_steps))
            assert float(got.area[i]) == pytest.approx(area, rel=1e-5)


def test_the_ends_are_the_image_and_the_fill() -> None:
    images, fill = torch.rand(2, 3, 8, 8), torch.tensor([0.1, 0.2, 0.3])
    seen: list[Tensor] = []

    def model(batch: Tensor) -> Tensor:
        seen.append(batch)
        return batch.mean((1, 2, 3))

    plain = fill[:, None, None].expand(2, 3, 8, 8)
    deletion(model, images, torch.randn(2, 4, 4), fill)
    assert len(seen) == 33
    assert torch.equal(seen[0], images)
    assert torch.equal(seen[-1], plain)
    seen.clear()
    insertion(model, images, torch.randn(2, 4, 4), fill)
    assert torch.equal(seen[0], plain)
    assert torch.equal(seen[-1], images)


def deciding(painted: str) -> tuple[Tensor, Tensor, Tensor, Callable[[Tensor], Tensor]]:
    """Images, maps of the patches that alone decide, what is painted, and a model: how much of the patch is there."""
    images = torch.rand(12, 3, 16, 16)
    marks = torch.zeros(12, 8, 8)
    for i in range(12):
        marks[i, i % 6 : i % 6 + 2, i // 2 : i // 2 + 2] = 1
    fill = blurred(images) if painted == "blurred" else torch.zeros(3)
    gone = fill if painted == "blurred" else torch.zeros_like(images)
    patch = marks.repeat_interleave(2, 1).repeat_interleave(2, 2)[:, None] * (images - gone).sign()
    whole = (patch * (images - gone)).sum((1, 2, 3))
    return images, marks, fill, lambda batch: (patch * (batch - gone)).sum((1, 2, 3)) / whole


@pytest.mark.parametrize("painted", ["color", "blurred"])
def test_a_map_that_marks_what_decides_beats_chance_and_its_opposite_does_not(painted: str) -> None:
    images, marks, fill, model = deciding(painted)
    chance = random_maps(12, (8, 8), seed=3)
    for measure, sign in ((insertion, 1), (deletion, -1)):
        right, random, wrong = (sign * measure(model, images, maps, fill).area for maps in (marks, chance, -marks))
        assert (right > random).all()
        assert (random > wrong).all()
        assert right.mean() > random.mean() + 0.3 > wrong.mean() + 0.6


def test_a_flat_map_is_worth_a_random_one() -> None:
    images, _, fill, model = deciding("color")
    flat = insertion(model, images, torch.full((12, 8, 8), 0.3), fill)
    random = insertion(model, images, random_maps(1, (8, 8), seed=0).expand(12, -1, -1), fill)
    assert torch.equal(flat.probs, random.probs)


def test_the_network_is_left_as_it_was_found() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    graphs: list[bool] = []

    def model(batch: Tensor) -> Tensor:
        logits = network(batch)
        graphs.append(logits.requires_grad)
        return logits.softmax(1)[:, 0]

    images, maps = torch.rand(2, 3, 8, 8, requires_grad=True), torch.randn(2, 4, 4, requires_grad=True)
    curve = deletion(model, images, maps, torch.zeros(3), n_steps=3)
    assert not any(graphs)
    assert not any(each.requires_grad for each in curve)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not network.training
    assert all(parameter.grad is None for parameter in network.parameters())
    assert images.grad is None


def test_half_precision_images_are_measured_in_double() -> None:
    curve = deletion(linear(torch.ones(1)), torch.rand(1, 1, 4, 4).half(), torch.randn(1, 2, 2), torch.zeros(1))
    assert {each.dtype for each in curve} == {torch.float64}


@pytest.mark.parametrize("size", [(2, 2), (5, 40), (64, 48)])
def test_blurring_keeps_the_mean_of_an_even_image_and_flattens_noise(size: tuple[int, int]) -> None:
    even = torch.full((1, 3, *size), 0.4)
    torch.testing.assert_close(blurred(even), even)
    noise = torch.rand(2, 3, *size)
    assert blurred(noise).shape == noise.shape
    assert min(size) < 40 or blurred(noise).std() < 0.5 * noise.std()


def test_a_blur_is_a_gaussian_of_five_pixels_in_224() -> None:
    image = torch.zeros(1, 1, 224, 300)
    image[0, 0, 112, 150] = 1
    spread = blurred(image)[0, 0].double()
    offset = torch.arange(224) - 112.0
    assert float(spread.sum()) == pytest.approx(1, abs=1e-4)
    assert float((spread.sum(1) * offset**2).sum().sqrt()) == pytest.approx(5, rel=0.03)


@pytest.mark.parametrize("measure", [deletion, insertion])
def test_what_does_not_belong_together_is_refused(measure) -> None:
    images, maps, fill, model = torch.rand(2, 3, 4, 4), torch.randn(2, 2, 2), torch.zeros(3), linear(torch.ones(1))
    with pytest.raises(ConfigError, match="n_steps is 0"):
        measure(model, images, maps, fill, n_steps=0)
    for other in (torch.randn(1, 2, 2), torch.randn(2, 1, 2, 2)):
        with pytest.raises(DataError, match="do not belong to 2 images"):
            measure(model, images, other, fill)
    for color in (torch.zeros(1), torch.zeros(1, 3, 4, 4), torch.zeros(3, 4)):
        with pytest.raises(DataError, match="a color of 3 channels or one image for each"):
            measure(model, images, maps, color)
    for wrong in (lambda batch: batch.mean((2, 3)), lambda batch: batch.mean()):
        with pytest.raises(ConfigError, match=r"must be \(2,\)"):
            measure(wrong, images, maps, fill)
