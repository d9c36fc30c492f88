"""Attention on held-out images: agreement image by image, and a map against a box in the center."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from eke.engine.model_files import ModelCard
from eke.methods.terms import AttentionOptions
from eke.models.backbones import build_network
from eke.models.network import ModelOptions, Network
from eke.tasks.attention_maps import attention_maps
from eke.tasks.before_after import agreement, as_bytes, augmented_views, maps_of_views
from eke.tasks.held_out_attention import HeldOut, box_notes, consistency, keep_marked


def held_out(n: int, size: int = 16, channels: int = 3) -> HeldOut:
    pixels = torch.randint(0, 256, (n, channels, size, size), generator=torch.Generator().manual_seed(0))
    return HeldOut(pixels.byte(), [f"{i:032x}" for i in range(n)])


@pytest.fixture(scope="module")
def network() -> Network:
    mean, std = (0.5,) * 3, (0.2,) * 3
    made = build_network(ModelOptions(name="small"), n_classes=4, channels=3, size=(16, 16), mean=mean, std=std, seed=0)
    return made.requires_grad_(False).eval()  # as an averaged network is


def test_agreement_is_the_mean_over_images_and_layers(network: Network) -> None:
    images = held_out(19)  # more than one block
    options = AttentionOptions(weight=1, layer=("block2", "block4"))
    found = consistency(network, images, options)
    expected = []
    for layer in options.layer:
        for i in range(len(images.ids)):
            pixels, view = images.pixels[i : i + 1], augmented_views(images.pixels[i : i + 1], images.ids[i : i + 1])
            classes = network(pixels / 255).logits.argmax(1)
            (maps,) = maps_of_views(network, pixels, view, classes, "gradcam", (layer,)).values()
            expected.append(agreement(maps.target[0], maps.augmented[0], maps.valid[0]))
    assert found["attention_agreement"] == pytest.approx(np.mean(expected), abs=1e-5)
    assert found["attention_flat_rate"] == 0
    assert set(found) == {f"attention_{name}" for name in ("agreement", "entropy", "flat_rate", "spread")}


def test_maps_of_pixels_need_no_layer(network: Network) -> None:
    found = consistency(network, held_out(3), AttentionOptions(weight=1, map="saliency"))
    assert -1 <= found["attention_agreement"] <= 1


def test_the_view_is_explained_for_the_class_of_its_image(network: Network) -> None:
    images = held_out(8)
    view = augmented_views(images.pixels, images.ids)
    classes = torch.arange(8) % 4
    (maps,) = maps_of_views(network, images.pixels, view, classes, "gradcam", ("block3",)).values()
    own = attention_maps(network, as_bytes(view), classes, ("gradcam",), ("block3",))["gradcam@block3"]
    torch.testing.assert_close(maps.augmented, own)


class Bright(nn.Module):
    """A body whose map is the image, and whose embedding is its mean."""

    def __init__(self) -> None:
        super().__init__()
        self.same = nn.Conv2d(1, 1, 1, bias=False)
        nn.init.ones_(self.same.weight)

    def forward(self, images: Tensor) -> Tensor:
        return self.same(images)


def bright(weights: Sequence[float]) -> Network:
    head = nn.Linear(1, 2, bias=False)
    head.weight.data = torch.tensor(weights)[:, None]
    return Network(Bright(), head, width=1, mean=(0.0,), std=(1.0,)).eval()


CARD = ModelCard(
    model=ModelOptions(name="small"), classes=("bright", "dark"), channels=1, size=(16, 16), fit="crop",
    mean=(0.0,), std=(1.0,),
)  # fmt: skip


def corners(n: int) -> HeldOut:
    """Black images with a white square in one corner."""
    pixels = torch.zeros(n, 1, 16, 16, dtype=torch.uint8)
    for i in range(n):
        pixels[i, :, 8 * (i % 2) :, 8 * (i // 2 % 2) :][:, :8, :8] = 200 + i % 50
    return HeldOut(pixels, [f"{i:032x}" for i in range(n)])


OPTIONS = AttentionOptions(weight=1, layer=("same",))


def test_a_map_that_marks_what_counts_is_better_than_the_box() -> None:
    network, images = bright((40.0, -40.0)), corners(40)
    found = keep_marked(network, CARD, images, OPTIONS)["gradcam@same"]
    # the square is a quarter of the image, and nothing else counts
    assert found["marked"] == pytest.approx(found["whole"], abs=1e-6)
    quarter = images.pixels.float().div(255).clone()
    quarter[:, :, :4], quarter[:, :, 12:], quarter[..., :4], quarter[..., 12:] = 0, 0, 0, 0
    assert found["box"] == pytest.approx(float(network(quarter).logits.detach().softmax(1)[:, 0].mean()), abs=1e-6)
    assert found["difference"]["low"] > 0
    assert not found["collapsed"]
    assert box_notes({"part": "validation", "n": 40, "kept": {"gradcam@same": found}}) == []


def test_a_flat_map_is_as_good_as_the_box() -> None:
    found = keep_marked(bright((0.0, -40.0)), CARD, corners(40), OPTIONS)["gradcam@same"]
    assert found["difference"]["value"] == 0
    assert found["collapsed"]
    (note,) = box_notes({"part": "test", "n": 40, "kept": {"gradcam@same": found}})
    assert "gradcam@same have collapsed: they are not seen to be better than a box in the center. Of 40 test" in note


def test_a_few_images_cannot_tell() -> None:
    assert not keep_marked(bright((0.0, -40.0)), CARD, corners(29), OPTIONS)["gradcam@same"]["collapsed"]
