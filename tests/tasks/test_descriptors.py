"""Descriptors and attention against a loop over images and steps, and against captum."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from eke.errors import ConfigError
from eke.losses.kinds import YES_OR_NO
from eke.models.backbones import build_network
from eke.models.network import ModelOptions, Network
from eke.randomness import rng
from eke.tasks.descriptors import SCALES, describe, scale_layers

NAMES = SCALES["L90"]


def build_lenet(size: int) -> Network:
    options = ModelOptions(name="lenet")
    network = build_network(options, n_classes=10, channels=1, size=(size, size), mean=(0.3,), std=(0.2,), seed=1)
    return network.eval()


@pytest.fixture(scope="module")
def lenet() -> Network:
    return build_lenet(20)


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    return torch.randint(0, 256, (5, 1, 20, 20), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def look(network: Network, pixels: Tensor, form: str, **options: Any) -> Any:
    return describe(network, lambda rows: pixels[list(rows)], range(len(pixels)), NAMES, form, **options)


def points_of(form: str, image: Tensor, n_steps: int) -> list[Tensor]:
    """The normalized images at which the gradient is taken, one image (1, C, H, W)."""
    if form == "grad":
        return [image]
    if form == "ig":
        return [k * image / n_steps for k in range(1, n_steps + 1)]
    kept = [torch.rand(20, 20, generator=rng(0, k, "kept pixels")) < (k + 0.5) / n_steps for k in range(n_steps)]
    return [image * mask for mask in kept]


def attention_of(network: Network, image: Tensor, form: str, n_steps: int, y: int) -> list[float]:
    """Naive: one image, one point, one backward pass at a time; then the mean over places."""
    total = torch.zeros(90)
    points = points_of(form, (image[None] / 255 - 0.3) / 0.2, n_steps)
    for point in points:
        body: Any = network.body
        first = body.block1(point)
        second = body.block2(first)
        embedding = body.dense(second.flatten(1))
        logits = network.head(embedding)
        features = [first, second, embedding, logits]
        gradients = torch.autograd.grad(-F.log_softmax(logits, 1)[0, y], features)
        pooled = [g.mean((2, 3)) if g.ndim == 4 else g for g in gradients]
        total += torch.cat(pooled, 1)[0] / len(points)
    return total.tolist()


@pytest.mark.parametrize("form", ["grad", "ig", "random"])
@pytest.mark.parametrize("oracle", [False, True])
def test_attention_equals_the_naive_loop(lenet: Network, pixels: Tensor, form: str, oracle: bool) -> None:
    targets = torch.tensor([3, 1, 4, 1, 5]) if oracle else None
    found = look(lenet, pixels, form, n_steps=4, targets=targets)
    assert found.attention.shape == found.descriptors.shape == (5, 90)
    for n in range(5):
        y = int(targets[n]) if targets is not None else int(found.probs[n].argmax())
        expected = attention_of(lenet, pixels[n], form, 4, y)
        assert found.attention[n].tolist() == pytest.approx(expected, rel=1e-3, abs=1e-7)


def test_attention_equals_captum(lenet: Network, pixels: Tensor) -> None:
    from captum.attr import InternalInfluence

    images = (pixels.float() / 255 - 0.3) / 0.2
    y = lenet(pixels.float() / 255).logits.argmax(1)

    def losses(x: Tensor) -> Tensor:
        logits = lenet.head(lenet.body(x))
        return F.cross_entropy(logits, y.repeat(len(x) // len(y)), reduction="none")

    influence = InternalInfluence(losses, lenet.body.block2)
    expected = influence.attribute(images, n_steps=6, method="riemann_right").mean((2, 3))
    found = look(lenet, pixels, "ig", n_steps=6)
    torch.testing.assert_close(found.attention[:, 10:30], expected, rtol=1e-3, atol=1e-7)


def test_descriptors_are_means_over_places(lenet: Network, pixels: Tensor) -> None:
    found = look(lenet, pixels, "none")
    assert found.attention is None
    outputs = lenet(pixels.float() / 255, taps=["block1", "block2"])
    torch.testing.assert_close(found.descriptors[:, :10], outputs.features["block1"].mean((2, 3)))
    torch.testing.assert_close(found.descriptors[:, 30:80], outputs.embedding)
    torch.testing.assert_close(found.descriptors[:, 80:], outputs.logits)
    torch.testing.assert_close(found.probs, outputs.logits.softmax(1))


def test_an_image_does_not_depend_on_the_others(lenet: Network, pixels: Tensor) -> None:
    for form in ("ig", "random"):
        whole = look(lenet, pixels, form, n_steps=3).attention
        alone = look(lenet, pixels[2:3], form, n_steps=3).attention
        torch.testing.assert_close(alone[0], whole[2], rtol=1e-4, atol=1e-8)


def test_more_images_than_a_block(lenet: Network) -> None:
    many = torch.randint(0, 256, (150, 1, 20, 20), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    targets = torch.arange(150) % 10
    n_done = []
    whole = look(lenet, many, "grad", targets=targets, advance=n_done.append)
    last = look(lenet, many[140:], "grad", targets=targets[140:])
    torch.testing.assert_close(whole.attention[140:], last.attention, rtol=1e-4, atol=1e-8)
    assert sum(n_done) == 150


def test_no_weight_has_a_gradient_and_nothing_is_changed(lenet: Network, pixels: Tensor) -> None:
    before = {name: value.clone() for name, value in lenet.state_dict().items()}
    look(lenet, pixels, "ig", n_steps=2)
    assert all(weight.grad is None for weight in lenet.parameters())
    assert all(torch.equal(value, before[name]) for name, value in lenet.state_dict().items())
    assert not lenet.training


def test_several_labels(lenet: Network, pixels: Tensor) -> None:
    """The loss is the mean over classes of the cross entropy of its yes or no."""
    lenet.kind = YES_OR_NO
    try:
        found = look(lenet, pixels, "grad")
        logits = lenet(pixels.float() / 255).logits
        y = (logits >= 0).double()
        # d loss / d logits = (p - y) / K
        torch.testing.assert_close(found.attention[:, 80:], ((logits.sigmoid() - y) / 10).float(), rtol=1e-3, atol=1e-7)
    finally:
        del lenet.kind
        from eke.losses.kinds import ONE

        lenet.kind = ONE


def test_the_lengths_of_the_paper(lenet: Network) -> None:
    pixels = torch.zeros(2, 1, 20, 20, dtype=torch.uint8)

    def length(network: Network, images: Tensor, scale: str) -> int:
        names = scale_layers(network, scale, (images.shape[2], images.shape[3]))
        return describe(network, lambda rows: images[list(rows)], range(2), names, "none").descriptors.shape[1]

    assert [length(lenet, pixels, scale) for scale in ("L20", "L90", "block1,logits")] == [20, 90, 20]
    options = {"n_classes": 10, "channels": 3, "size": (32, 32), "mean": (0.5,) * 3, "std": (0.2,) * 3, "seed": 0}
    cnn8 = build_network(ModelOptions(name="cnn8"), **options).eval()
    images = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    assert [length(cnn8, images, scale) for scale in ("L256", "L384")] == [256, 384]
    assert scale_layers(cnn8, None, (32, 32)) == ("embedding",)


def test_what_cannot_be_described_is_refused(lenet: Network, pixels: Tensor) -> None:
    with pytest.raises(ConfigError, match="no layer 'block9'"):
        scale_layers(lenet, "block9", (20, 20))
    with pytest.raises(ConfigError, match="no layer 'block3'"):
        scale_layers(lenet, "L384", (20, 20))
    with pytest.raises(ConfigError, match="'block2' has no map of more than one place at 16 x 16 pixels"):
        scale_layers(build_lenet(16), "L90", (16, 16))
    with pytest.raises(ConfigError, match="no attention 'gradd'"):
        look(lenet, pixels, "gradd")
