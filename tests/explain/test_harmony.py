"""Grad-CAM against guided backpropagation, beside the paper's algorithm written out layer by layer, image by image."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from eke.errors import ConfigError
from eke.explain.cam import class_activation, grad_cam
from eke.explain.guided import guided_relus
from eke.explain.harmony import MATCHINGS, all_cells, harmony, mean_correlation, soft_mask, with_noise
from eke.losses.correlation import CORRELATIONS, cross_correlation, pearson, squashed
from eke.models.backbones import build_network
from eke.models.network import ModelOptions, Network
from eke.models.norm import frozen_statistics, running_statistics

COLORS = {"mean": (0.4, 0.5, 0.3), "std": (0.2, 0.25, 0.5)}
SIGMAS = ["std", "variance", "authors"]
SIZES = {2: (8, 12), 3: (4, 8, 8)}
EARLY, LATE = "1", "3"
"""Layers of `chain`: after its first and its second ReLU."""


def chain(n_axes=2, channels=3):
    """Convolution with stride, ReLU, convolution, ReLU, average pooling, linear: all written out below."""
    conv, pool = (nn.Conv2d, nn.AvgPool2d) if n_axes == 2 else (nn.Conv3d, nn.AvgPool3d)
    body = nn.Sequential(conv(channels, 5, 3, 2, 1), nn.ReLU(), conv(5, 6, 3, 1, 1), nn.ReLU(), pool(2), nn.Flatten())
    width = 6 * math.prod(side // 4 for side in SIZES[n_axes])
    network = Network(
        body, nn.Linear(width, 4), width=width, mean=COLORS["mean"][:channels], std=COLORS["std"][:channels]
    )
    for parameter in network.parameters():
        parameter.data.mul_(3)
    return network.double(), torch.rand(3, channels, *SIZES[n_axes]).double()


def convolve(x, layer):
    return (F.conv2d if x.ndim == 4 else F.conv3d)(x, layer.weight, layer.bias, layer.stride, 1)


def unconvolve(g, layer):
    """The transposed convolution, by which a gradient goes down."""
    transposed = F.conv_transpose2d if g.ndim == 4 else F.conv_transpose3d
    return transposed(g, layer.weight, None, layer.stride, 1, output_padding=[s - 1 for s in layer.stride])


def written_out(network, x, label=None):
    """One normalized image forward, and its class's logit backward: plainly to both layers, guided to the image."""
    conv1, _, conv2 = network.body[:3]
    x = x[None]
    a1 = convolve(x, conv1)
    f1 = a1 * (a1 > 0)
    a2 = convolve(f1, conv2)
    f2 = a2 * (a2 > 0)
    axes = range(2, x.ndim)
    pooled = f2
    for axis in axes:
        pooled = pooled.unflatten(axis, (-1, 2)).mean(axis + 1)
    logits = network.head.weight @ pooled.flatten() + network.head.bias
    label = int(logits.argmax()) if label is None else label
    g2 = network.head.weight[label].view_as(pooled)
    for axis in axes:
        g2 = g2.repeat_interleave(2, axis) / 2
    g1 = unconvolve(g2 * (a2 > 0), conv2)
    r1 = unconvolve(g2 * (a2 > 0) * (g2 > 0), conv2)
    r0 = unconvolve(r1 * (a1 > 0) * (r1 > 0), conv1)
    maps = {EARLY: slow_cam(f1[0], g1[0]), LATE: slow_cam(f2[0], g2[0])}
    return {"logits": logits, "label": label, "guided": r0[0], **maps}


def slow_cam(features, gradient):
    """Eq. 3 and 4."""
    return sum(g.sum() / g.numel() * f for f, g in zip(features, gradient, strict=True))


def slow_logistic(evidence, sigma, steepness):
    """Eq. 6."""
    n = evidence.numel()
    mu = evidence.sum() / n
    variance = ((evidence - mu) ** 2).sum() / n
    if sigma == "authors":
        return 1 / (1 + torch.exp(-steepness * (evidence - (mu + variance**0.5 / 2))))
    z = (evidence - mu) / (variance if sigma == "variance" else variance**0.5)
    return 1 / (1 + torch.exp(-z.clamp(min=-600)))


def slow_enlarged(map_, size):
    """Linear between the centers of pixels, one axis after the other."""
    for axis, (n, big) in enumerate(zip(map_.shape, size, strict=True)):
        weights = torch.zeros(big, n, dtype=map_.dtype)
        for i in range(big):
            place = min(max((i + 0.5) * n / big - 0.5, 0), n - 1)
            low = min(int(place), n - 2) if n > 1 else 0
            weights[i, low] += 1 - (place - low)
            if n > 1:
                weights[i, low + 1] += place - low
        map_ = torch.tensordot(weights, map_, ([1], [axis])).movedim(0, axis)
    return map_


def slow_pooled(map_, grid):
    steps = [big // n for big, n in zip(map_.shape, grid, strict=True)]
    cells = []
    for place in itertools.product(*(range(n) for n in grid)):
        cells.append(map_[tuple(slice(i * s, (i + 1) * s) for i, s in zip(place, steps, strict=True))].max())
    return torch.stack(cells).view(*grid)


def slow_maps(network, image, layer, matching, sigma="std", mask=None, noise=lambda map_: map_):
    """Algorithm 1 and section 5 for one image: (first, second, mask); a given `mask` is a constant."""
    axes = [1] * (image.ndim - 1)
    x = (image - network.mean.view(-1, *axes)) / network.std.view(-1, *axes)
    one = written_out(network, x)
    cam, magnitude = one[layer], one["guided"].abs().sum(0)
    if matching == "gradcam_upsampled":
        return noise(slow_enlarged(cam, magnitude.shape)), noise(magnitude), None
    if matching == "guided_pooled":
        return noise(cam), noise(slow_pooled(magnitude, cam.shape)), None
    if matching == "guided_mask":
        mask = slow_logistic(noise(magnitude), sigma, 8) if mask is None else mask
        return cam, written_out(network, mask * x, one["label"])[layer], mask
    mask = slow_logistic(noise(slow_enlarged(cam, magnitude.shape)), sigma, 32) if mask is None else mask
    return magnitude, written_out(network, mask * x, one["label"])["guided"].abs().sum(0), mask


def slow_pearson(a, b):
    a, b = a - a.sum() / a.numel(), b - b.sum() / b.numel()
    return (a * b).sum() / ((a * a).sum() * (b * b).sum()) ** 0.5


def slow_loss(network, images, layer, matching, masks=(None, None, None)):
    pairs = [slow_maps(network, x, layer, matching, mask=m)[:2] for x, m in zip(images, masks, strict=True)]
    return -torch.stack([slow_pearson(a, b) for a, b in pairs]).mean()


def loss_of(network, images, layer=LATE, **options):
    return -harmony(network, images, layer, correlation=pearson, **options).similarity.mean()


# Values


@pytest.mark.parametrize("matching", MATCHINGS)
@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize("layer", [EARLY, LATE])
@pytest.mark.parametrize("n_axes", [2, 3])
def test_maps_are_those_of_the_paper_written_out(matching, sigma, layer, n_axes):
    network, images = chain(n_axes)
    got = harmony(network, images, layer, correlation=pearson, matching=matching, sigma=sigma)
    for n, image in enumerate(images):
        first, second, _ = slow_maps(network, image, layer, matching, sigma)
        torch.testing.assert_close(got.first[n], first, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(got.second[n], second, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(got.similarity[n], slow_pearson(first, second), rtol=1e-9, atol=1e-12)
    assert torch.equal(got.logits, network(images).logits)
    assert not got.flat.any()
    fine = matching in {"gradcam_mask", "gradcam_upsampled"}
    grid = SIZES[n_axes] if fine else [side // 2 for side in SIZES[n_axes]]
    assert got.first.shape == got.second.shape == (3, *grid)


def test_masked_images_are_asked_about_the_class_of_the_originals():
    network, images = chain()
    network.head.bias.data.zero_()
    changed = False
    for seed in range(10):
        torch.manual_seed(seed)
        images = torch.rand(3, 3, 8, 12).double()
        got = harmony(network, images, LATE, correlation=pearson)
        for n, image in enumerate(images):
            _, second, mask = slow_maps(network, image, LATE, "guided_mask")
            torch.testing.assert_close(got.second[n], second, rtol=1e-9, atol=1e-12)
            x = (image - network.mean.view(-1, 1, 1)) / network.std.view(-1, 1, 1)
            changed |= written_out(network, mask * x)["label"] != written_out(network, x)["label"]
    assert changed  # otherwise nothing was shown


def test_the_body_reads_the_product_of_mask_and_normalized_image():
    network, images = chain()
    read = []
    network.body.register_forward_pre_hook(lambda module, args: read.append(args[0].detach()))
    harmony(network, images, LATE, correlation=pearson)
    assert len(read) == 2
    masks = torch.stack([slow_maps(network, image, LATE, "guided_mask")[2] for image in images]).detach()
    torch.testing.assert_close(read[1], masks[:, None] * read[0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("mask_gradient", [True, False])
@pytest.mark.parametrize("images_gradient", [True, False])
def test_masked_images_are_differentiated_only_where_it_leads_somewhere(mask_gradient, images_gradient):
    network, images = chain()
    read = []
    network.body.register_forward_pre_hook(lambda module, args: read.append(args[0].requires_grad))
    images.requires_grad_(images_gradient)
    harmony(network, images, LATE, correlation=pearson, mask_gradient=mask_gradient)
    assert read == [True, mask_gradient or images_gradient]
    assert images.requires_grad == images_gradient


@pytest.mark.parametrize("matching", MATCHINGS)
def test_an_image_is_compared_as_if_it_were_alone(matching):
    network, images = chain()
    together = harmony(network, images, LATE, correlation=pearson, matching=matching)
    for n in range(3):
        alone = harmony(network, images[n : n + 1], LATE, correlation=pearson, matching=matching)
        torch.testing.assert_close(alone.similarity[0], together.similarity[n], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("matching", MATCHINGS)
def test_grey_images_are_so_many_equal_channels(matching):
    network, images = chain()
    grey = images[:, :1]
    got, expected = (
        harmony(network, each, LATE, correlation=pearson, matching=matching) for each in (grey, grey.repeat(1, 3, 1, 1))
    )
    assert torch.equal(got.similarity, expected.similarity)
    assert torch.equal(got.second, expected.second)
    (-got.similarity.mean()).backward()
    assert grey.grad is None
    assert not grey.requires_grad


def test_grey_images_get_their_gradient():
    network, images = chain()
    grey = images[:, :1].clone().requires_grad_()
    got = differentiated(loss_of(network, grey), [grey])
    assert got[0].any()
    assert_slopes(got, lambda: loss_of(network, grey), [grey])


def test_networks_of_one_channel_are_explained():
    network, images = chain(channels=1)
    got = harmony(network, images, LATE, correlation=pearson)
    for n, image in enumerate(images):
        torch.testing.assert_close(got.second[n], slow_maps(network, image, LATE, "guided_mask")[1])
    with pytest.raises(ConfigError, match="1 channels"):
        harmony(network, images.repeat(1, 3, 1, 1), LATE, correlation=pearson)


# Gradients


def assert_slopes(grads, loss, tensors, step=1e-6):
    """Compare gradients of each tensor by itself with central differences of `loss()`, in three directions."""
    for grad, tensor in zip(grads, tensors, strict=True):
        got, expected = [], []
        for _ in range(3):
            direction, start, values = torch.randn_like(tensor), tensor.detach().clone(), []
            for sign in (1, -1):
                tensor.data.copy_(start + sign * step * direction)
                values.append(loss().item())
            tensor.data.copy_(start)
            expected.append((values[0] - values[1]) / (2 * step))
            got.append(float((grad * direction).sum()))
        assert got == pytest.approx(expected, rel=1e-5, abs=1e-5 * max(map(abs, expected)) + 1e-10)


def differentiated(loss, tensors):
    """Return gradients; zeros where there is none, as of a bias that maps depend on only through who is active."""
    return torch.autograd.grad(loss, tensors, materialize_grads=True)


def weights_of(network):
    """All parameters that maps depend on: not the head's bias."""
    return [parameter for name, parameter in network.named_parameters() if name != "head.bias"]


@pytest.mark.parametrize("matching", MATCHINGS)
@pytest.mark.parametrize("layer", [EARLY, LATE])
def test_the_gradient_of_weights_and_images_is_that_of_finite_differences(matching, layer):
    network, images = chain()
    images.requires_grad_()
    wanted = [*weights_of(network), images]

    def loss():
        return loss_of(network, images, layer, matching=matching)

    got = differentiated(loss(), wanted)
    assert_slopes(got, loss, wanted)
    assert all(grad.any() for grad, tensor in zip(got, weights_of(network), strict=False) if tensor.ndim > 1)
    # guided gradients depend on the image through who is active only, and gradcam_mask compares two of them
    assert bool(got[-1].any()) == (matching != "gradcam_mask")


@pytest.mark.parametrize("matching", ["guided_mask", "gradcam_mask"])
@pytest.mark.parametrize("layer", [EARLY, LATE])
def test_without_its_gradient_the_mask_is_a_constant(matching, layer):
    network, images = chain()
    images.requires_grad_()
    wanted = [*weights_of(network), images]
    masks = [slow_maps(network, image, layer, matching)[2].detach() for image in images]

    def constant():
        return slow_loss(network, images, layer, matching, masks)

    loss = loss_of(network, images, layer, matching=matching, mask_gradient=False)
    through = loss_of(network, images, layer, matching=matching)
    assert loss.item() == pytest.approx(through.item(), rel=1e-12)
    got, full, expected = (differentiated(each, wanted) for each in (loss, through, constant()))
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-11)
    assert_slopes(got, constant, wanted)
    reached = (got[0] - full[0]).abs().max() > 1e-3 * full[0].abs().max()
    assert reached == (matching == "guided_mask")


class Gate(nn.Module):
    """What is between 0 and 1 for a place, by its own values: gradients depend on the image continuously."""

    def forward(self, x):
        return x * torch.sigmoid(x - x.mean(1, keepdim=True))


@pytest.mark.parametrize("matching", MATCHINGS)
def test_with_gates_every_map_depends_on_the_image_and_on_the_mask(matching):
    network, images = chain()
    network.body.insert(1, Gate())
    images.requires_grad_()
    wanted = [*weights_of(network), images]

    def loss():
        return loss_of(network, images, "4", matching=matching)

    got = differentiated(loss(), wanted)
    assert_slopes(got, loss, wanted)
    constant = differentiated(loss_of(network, images, "4", matching=matching, mask_gradient=False), wanted)
    for a, b in zip(got, constant, strict=True):
        assert a.any()
        if a.ndim > 1:
            reached = (a - b).abs().max() > 1e-3 * a.abs().max()
            assert reached == matching.endswith("mask")


@pytest.mark.parametrize("sigma", SIGMAS)
def test_the_gradient_flows_through_every_mask(sigma):
    network, images = chain()
    wanted = [network.body[0].weight, network.head.weight]
    if sigma == "variance":  # else the mask is 0 or 1, and has no slope to speak of
        for parameter in network.parameters():
            parameter.data.mul_(3)

    def loss():
        return loss_of(network, images, sigma=sigma)

    assert_slopes(differentiated(loss(), wanted), loss, wanted)


def test_the_gradient_flows_through_other_measures_and_clips():
    network, images = chain(3)
    wanted = [network.body[0].bias, network.head.weight]
    for measure in CORRELATIONS.values():

        def loss(measure=measure):
            def h(a, b):
                return measure(squashed(a, "sigmoid_z"), squashed(b, "sigmoid_z"))

            return -harmony(network, images, LATE, correlation=h).similarity.mean()

        assert_slopes(differentiated(loss(), wanted), loss, wanted)


def test_logits_are_of_the_same_forward_and_can_be_trained_on():
    network, images = chain()
    labels = torch.tensor([0, 1, 2])
    got = harmony(network, images, LATE, correlation=pearson)
    F.cross_entropy(got.logits, labels).backward()
    taken = [parameter.grad.clone() for parameter in network.parameters()]
    network.zero_grad()
    F.cross_entropy(network(images).logits, labels).backward()
    for a, b in zip(taken, network.parameters(), strict=True):
        torch.testing.assert_close(a, b.grad)


# One forward in the place of two


def resnet20():
    return eke("resnet20", 16), "layer3", (16, 16)


def resnet20_early():
    return eke("resnet20", 16), "layer2", (16, 16)


def small():
    return eke("small", 16), "block4", (16, 16)


def eke(name, side):
    network = build_network(ModelOptions(name=name), n_classes=4, channels=3, size=(side, side), seed=1, **COLORS)
    draw = torch.Generator().manual_seed(0)
    for module in network.modules():  # statistics of a network that has been trained
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.copy_(torch.randn(module.num_features, generator=draw) / 10)
            module.running_var.copy_(torch.rand(module.num_features, generator=draw) + 0.5)
    return network.double().eval()


def vgg():
    """All ReLUs in place, and one above the layer that is explained, where guided and plain gradients differ."""
    relu = {"inplace": True}
    body = nn.Sequential(
        *(nn.Conv2d(3, 8, 3, 1, 1), nn.ReLU(**relu), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 12, 3, 1, 1), nn.ReLU(**relu), nn.Conv2d(12, 12, 3, 1, 1), nn.ReLU(**relu)),
        *(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(48, 16), nn.ReLU(**relu)),
    )
    return Network(body, nn.Linear(16, 4), width=16, **COLORS).double(), "5", (16, 16)


NETWORKS = [resnet20, resnet20_early, small, vgg]


@pytest.fixture(params=NETWORKS, ids=lambda make: make.__name__)
def case(request):
    torch.manual_seed(0)
    network, layer, size = request.param()
    coarse = F.interpolate(torch.rand(3, 3, 4, 4), size, mode="bilinear")
    return network, layer, coarse.double()


def three_forwards(network, images, layer, mask_gradient):
    """Algorithm 1 with a forward for each map, as the authors run it."""
    outputs = network(images, taps=(layer,))
    classes = outputs.logits.detach().argmax(1, keepdim=True)
    first = grad_cam(outputs.logits.gather(1, classes)[:, 0], outputs.features[layer], create_graph=True)
    x = network.normalize(images).detach().requires_grad_()
    with guided_relus() as guided:
        score = network.head(network.body(x)).gather(1, classes)[:, 0]
    evidence = guided.gradient(score, x, create_graph=mask_gradient).abs().sum(1)
    mask = torch.stack([slow_logistic(each, "std", None) for each in evidence])[:, None]
    mean = network.mean.view(1, -1, 1, 1)
    outputs = network(mean + mask * (images - mean), taps=(layer,))
    second = grad_cam(outputs.logits.gather(1, classes)[:, 0], outputs.features[layer], create_graph=True)
    return -torch.stack([slow_pearson(a, b) for a, b in zip(first, second, strict=True)]).mean()


@pytest.mark.parametrize("mask_gradient", [True, False])
def test_a_shared_forward_gives_loss_and_gradients_of_three(case, mask_gradient):
    network, layer, images = case
    expected = three_forwards(network, images, layer, mask_gradient)
    expected.backward()
    grads = {name: parameter.grad for name, parameter in network.named_parameters()}
    network.zero_grad()
    got = loss_of(network, images, layer, mask_gradient=mask_gradient)
    got.backward()
    assert got.item() == pytest.approx(expected.item(), abs=1e-9)
    for name, parameter in network.named_parameters():
        if grads[name] is None or parameter.grad is None:
            assert not any(each is not None and each.any() for each in (grads[name], parameter.grad)), name
        else:
            scale = float(grads[name].abs().max())
            torch.testing.assert_close(parameter.grad, grads[name], rtol=1e-9, atol=1e-9 * scale + 1e-15)


def test_grad_cam_is_the_closed_form_below_a_linear_head():
    network, layer, size = resnet20()
    images = torch.rand(2, 3, *size).double()
    got = harmony(network, images, layer, correlation=pearson)
    features = network(images, taps=(layer,)).features[layer]
    expected = class_activation(features, network.head.weight[got.logits.argmax(1)]) / features[0, 0].numel()
    torch.testing.assert_close(got.first, expected)


class Counted:
    """A network whose forwards are counted; it hands on views, because torch's counter needs them of leaves."""

    def __init__(self, network):
        self.network, self.mean, self.std, self.forwards = network, network.mean, network.std, 0

    def __call__(self, images, taps=()):
        self.forwards += 1
        return self.network(images.view_as(images), taps=taps)

    def modules(self):
        return self.network.modules()


@pytest.fixture
def inner_gradients(monkeypatch):
    """The shapes of what is differentiated by `torch.autograd.grad`."""
    seen, grad = [], torch.autograd.grad

    def counting(outputs, inputs, *more, **given):
        seen.extend(each.shape for each in inputs)
        return grad(outputs, inputs, *more, **given)

    monkeypatch.setattr(torch.autograd, "grad", counting)
    return seen


@pytest.mark.parametrize(
    ("matching", "forwards", "backwards", "cams"),
    [("guided_mask", 2, 1, 2), ("gradcam_mask", 2, 2, 1), ("gradcam_upsampled", 1, 1, 1), ("guided_pooled", 1, 1, 1)],
)
def test_passes_are_counted(matching, forwards, backwards, cams, inner_gradients):
    network, layer, size = resnet20()
    counted, images = Counted(network), torch.rand(2, 3, *size).double()
    harmony(counted, images, layer, correlation=pearson, matching=matching)
    assert counted.forwards == forwards
    assert inner_gradients.count(images.shape) == backwards
    assert len(inner_gradients) == backwards + cams


@pytest.mark.parametrize(("mask_gradient", "most"), [(True, 3.2), (False, 2.5)])
def test_a_step_costs_little_more_than_its_passes(mask_gradient, most):
    """FLOPs beside forward and backward of cross entropy; with a forward for each map it is 4 and more."""
    network, layer, size = resnet20()
    counted, images = Counted(network), torch.rand(2, 3, *size).double()
    with FlopCounterMode(display=False) as plain:
        F.cross_entropy(counted(images).logits, torch.tensor([0, 1])).backward()
    with FlopCounterMode(display=False) as step:
        loss_of(counted, images, layer, mask_gradient=mask_gradient).backward()
    assert 1.5 < step.get_total_flops() / plain.get_total_flops() < most


# The twelve cells


@pytest.mark.parametrize("sigma", ["std", "authors"])
def test_every_cell_is_what_it_is_alone(case, sigma):
    network, layer, images = case
    with torch.no_grad():
        cells = all_cells(network, images, layer, CORRELATIONS, sigma)
    assert len(cells) == 12
    for (matching, name), got in cells.items():
        alone = harmony(network, images, layer, correlation=CORRELATIONS[name], matching=matching, sigma=sigma)
        assert got.shape == (3,)
        assert not got.requires_grad
        torch.testing.assert_close(got, alone.similarity.detach(), rtol=1e-10, atol=1e-12)
    assert len({float(got[0]) for got in cells.values()}) == 12


def test_cells_share_their_passes(inner_gradients):
    network, layer, size = resnet20()
    counted, images = Counted(network), torch.rand(2, 3, *size).double().requires_grad_()
    all_cells(counted, images, layer, CORRELATIONS)
    assert counted.forwards == 3
    assert inner_gradients.count(images.shape) == 2
    assert len(inner_gradients) == 4
    assert images.grad is None


# Flat maps


def dark_and_lit():
    """The first image is the mean color, at which all units of the second layer are off."""
    network, images = chain()
    images[0] = network.mean.view(-1, 1, 1)
    network.body[0].bias.data.fill_(-0.01)
    network.body[2].bias.data.fill_(-0.01)
    return network, images


@pytest.mark.parametrize("matching", MATCHINGS)
@pytest.mark.parametrize("mask_gradient", [True, False])
@pytest.mark.parametrize("sigma", SIGMAS)
def test_an_image_without_evidence_is_counted_and_changes_nothing(matching, mask_gradient, sigma):
    network, images = dark_and_lit()
    options = {"matching": matching, "mask_gradient": mask_gradient, "sigma": sigma}
    got = harmony(network, images, LATE, correlation=pearson, **options)
    assert got.flat.tolist() == [True, False, False]
    assert got.similarity[0] == 0
    got.similarity.sum().backward()
    grads = [parameter.grad.clone() for parameter in weights_of(network)]
    network.zero_grad()
    harmony(network, images[1:], LATE, correlation=pearson, **options).similarity.sum().backward()
    for grad, parameter in zip(grads, weights_of(network), strict=True):
        assert grad.isfinite().all()
        torch.testing.assert_close(grad, parameter.grad)


def test_one_flat_map_of_two_is_enough():
    network, images = chain()
    network.body[2].bias.data.fill_(-0.01)
    network.body[0].bias.data.zero_()

    def dark(look, sigma, mask_gradient, noise):
        return look.cam(), look.masked(torch.zeros(3, 8, 12, dtype=torch.float64)).cam()

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MATCHINGS, "dark", dark)
        got = harmony(network, images, LATE, correlation=pearson, matching="dark")
        patch.setitem(MATCHINGS, "dark", lambda *given: dark(*given)[::-1])
        turned = harmony(network, images, LATE, correlation=pearson, matching="dark")
    assert got.flat.all()
    assert turned.flat.all()


# Noise


def drawn(n, shapes, strength):
    """Return noise with fixed draws for `n` images, as a function of a batch or of image `i`, call by call."""
    draws = {shape: torch.randn(2, n, *shape, dtype=torch.float64) for shape in shapes}

    def fresh(i=None):
        calls = iter(range(2))

        def noise(maps):
            if i is None:
                return with_noise(maps, draws[tuple(maps.shape[1:])][next(calls)], strength)
            spread = ((maps - maps.mean()) ** 2).mean() ** 0.5
            return maps + strength * spread * draws[tuple(maps.shape)][next(calls)][i]

        return noise

    return fresh


@pytest.mark.parametrize("n_axes", [2, 3])
@pytest.mark.parametrize("matching", MATCHINGS)
def test_noise_enters_the_map_of_the_mask_or_else_both_maps(matching, n_axes):
    network, images = chain(n_axes)
    fresh = drawn(3, (SIZES[n_axes], tuple(side // 2 for side in SIZES[n_axes])), 0.7)
    got = harmony(network, images, LATE, correlation=pearson, matching=matching, noise=fresh())
    without = harmony(network, images, LATE, correlation=pearson, matching=matching)
    for i, image in enumerate(images):
        first, second, _ = slow_maps(network, image, LATE, matching, noise=fresh(i))
        torch.testing.assert_close(got.first[i], first)
        torch.testing.assert_close(got.second[i], second)
    assert not torch.equal(got.second, without.second)
    assert torch.equal(got.first, without.first) == matching.endswith("_mask")
    silent = drawn(3, (SIZES[n_axes], tuple(side // 2 for side in SIZES[n_axes])), 0.0)
    assert torch.equal(
        harmony(network, images, LATE, correlation=pearson, matching=matching, noise=silent()).similarity,
        without.similarity,
    )


@pytest.mark.parametrize("matching", MATCHINGS)
def test_with_fixed_noise_the_gradient_is_that_of_finite_differences(matching):
    network, images = chain()
    images.requires_grad_()
    fresh, wanted = drawn(3, (SIZES[2], (4, 6)), 0.7), [*weights_of(network), images]

    def loss():
        return loss_of(network, images, LATE, matching=matching, noise=fresh())

    assert_slopes(differentiated(loss(), wanted), loss, wanted)


def test_noise_is_in_proportion_to_the_map_and_leaves_flat_maps_alone():
    maps, draws = torch.randn(4, 5, 6).double(), torch.randn(4, 5, 6).double()
    maps[1], maps[2] = 0, 3
    maps.requires_grad_()
    noisy = with_noise(maps, draws, 0.5)
    for i in (0, 3):
        torch.testing.assert_close(noisy[i] - maps[i], 0.5 * maps[i].std(correction=0) * draws[i])
    assert torch.equal(noisy[1:3], maps[1:3])
    torch.testing.assert_close(with_noise(1e-9 * maps, draws, 0.5), 1e-9 * noisy)
    assert torch.isfinite(torch.autograd.grad(noisy.square().sum(), maps)[0]).all()
    assert with_noise(torch.rand(2, 3, 3).half(), torch.randn(2, 3, 3), 0.5).dtype == torch.float32


def test_cells_are_figures_and_have_no_noise(monkeypatch):
    network, images = chain()
    monkeypatch.setattr("eke.explain.harmony.with_noise", lambda *_: pytest.fail("noise"))
    assert len(all_cells(network, images, LATE, {"pearson": pearson})) == len(MATCHINGS)


# The mask


@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 3, 2, 4, 5)])
def test_a_mask_is_equation_6_of_the_sum_of_magnitudes(sigma, shape):
    guided = torch.randn(shape).double() / 3
    mask = soft_mask(guided, sigma)
    assert mask.shape == (shape[0], *shape[2:])
    for one, got in zip(guided, mask, strict=True):
        evidence = [sum(abs(v) for v in values) for values in zip(*(c.flatten().tolist() for c in one), strict=True)]
        mu = sum(evidence) / len(evidence)
        variance = sum((a - mu) ** 2 for a in evidence) / len(evidence)
        for a, p in zip(evidence, got.flatten().tolist(), strict=True):
            z = {
                "std": (a - mu) / math.sqrt(variance),
                "variance": (a - mu) / variance,
                "authors": 8 * (a - (mu + math.sqrt(variance) / 2)),
            }
            assert p == pytest.approx(1 / (1 + math.exp(-z[sigma])), rel=1e-9)


def test_only_the_standard_deviation_is_blind_to_the_size_of_gradients():
    guided = torch.randn(2, 3, 6, 6)
    torch.testing.assert_close(soft_mask(1e-4 * guided), soft_mask(guided), rtol=1e-5, atol=1e-6)
    hard, vague = soft_mask(1e-4 * guided, "variance"), soft_mask(1e-4 * guided, "authors")
    assert ((hard < 0.01) | (hard > 0.99)).all()
    torch.testing.assert_close(vague, torch.full_like(vague, 0.5), rtol=0, atol=1e-2)


@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize("value", [0.0, 0.3, 1e-30])
def test_a_mask_of_nothing_is_one_half_everywhere(sigma, value):
    guided = torch.full((2, 3, 4, 4), value, requires_grad=True)
    mask = soft_mask(guided, sigma)
    assert (mask == 0.5).all()
    (grad,) = torch.autograd.grad(mask.square().sum(), guided)
    assert not grad.any()


@pytest.mark.parametrize("sigma", SIGMAS)
def test_rounding_makes_no_mask(sigma):
    guided = 3 + 1e-6 * torch.rand(2, 3, 8, 8)
    assert guided[0].std() > 0
    assert (soft_mask(guided, sigma) == 0.5).all()


@pytest.mark.parametrize("sigma", SIGMAS)
def test_gradients_too_small_to_be_squared_give_no_nan(sigma):
    guided = (1e-25 * torch.randn(2, 3, 4, 4)).requires_grad_()
    mask = soft_mask(guided, sigma)
    (grad,) = torch.autograd.grad(mask.square().sum(), guided)
    assert mask.isfinite().all()
    assert grad.isfinite().all()


def test_a_mask_of_half_precision_is_made_in_single():
    guided = torch.randn(2, 3, 4, 4, dtype=torch.bfloat16)
    assert soft_mask(guided).dtype == torch.float32
    assert torch.equal(soft_mask(guided), soft_mask(guided.float()))


# Any number of explanations


def test_several_explanations_are_compared_in_pairs_on_the_coarsest_grid():
    maps = [torch.randn(2, 4, 6).double(), torch.randn(2, 8, 12).double(), torch.randn(2, 8, 6).double()]
    coarse = [
        maps[0],
        torch.stack([maps[1][:, i::2, j::2] for i in range(2) for j in range(2)]).mean(0),
        (maps[2][:, ::2] + maps[2][:, 1::2]) / 2,
    ]
    expected = []
    for n in range(2):
        pairs = [slow_pearson(coarse[a][n], coarse[b][n]) for a, b in [(0, 1), (0, 2), (1, 2)]]
        expected.append(sum(pairs) / 3)
    torch.testing.assert_close(mean_correlation(maps, pearson), torch.stack(expected))
    torch.testing.assert_close(mean_correlation(maps[::-1], pearson), torch.stack(expected))


def test_two_explanations_on_one_grid_are_compared_as_they_are():
    first, second = torch.randn(2, 2, 5, 7)
    assert torch.equal(mean_correlation([first, second], cross_correlation), cross_correlation(first, second))


def test_explanations_of_clips_are_compared_too_and_differentiated():
    first, second = torch.randn(2, 2, 2, 3).requires_grad_(), torch.randn(2, 4, 4, 3).requires_grad_()
    got = mean_correlation([first, second], pearson)
    coarse = second.unflatten(1, (2, 2)).mean(2).unflatten(2, (2, 2)).mean(3)
    torch.testing.assert_close(got, pearson(first, coarse))
    assert all(grad.any() for grad in torch.autograd.grad(got.sum(), [first, second]))


def test_one_explanation_is_too_few_and_clips_are_no_images():
    one = torch.randn(2, 4, 4)
    for maps in ([], [one], [one, torch.randn(2, 1, 4, 4)]):
        with pytest.raises(ConfigError, match="Two or more maps"):
            mean_correlation(maps, pearson)


# What a network is left as


def state(network, images):
    tensors = {**dict(network.named_parameters()), **dict(network.named_buffers()), "images": images}
    values = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    marks = {
        name: (id(tensor), tensor._version, tensor.requires_grad, tensor.grad is None, tensor._backward_hooks)
        for name, tensor in tensors.items()
    }
    modules = {
        name: (
            module.training,
            sorted(module.__dict__),
            {key: list(value) for key, value in module.__dict__.items() if "hooks" in key and value is not None},
        )
        for name, module in network.named_modules()
    }
    return values, marks, modules


def assert_untouched(network, images, before):
    values, marks, modules = state(network, images)
    assert marks == before[1]
    assert modules == before[2]
    assert all(torch.equal(value, before[0][name]) for name, value in values.items())


@pytest.mark.parametrize("matching", MATCHINGS)
def test_the_network_is_left_as_it_was(case, matching):
    network, layer, images = case
    list(network.modules())[-1].train()  # a flag of its own, in a module without a mode
    before = state(network, images)
    got = harmony(network, images, layer, correlation=pearson, matching=matching)
    assert_untouched(network, images, before)
    wanted = [parameter for parameter in network.parameters() if parameter.requires_grad]
    torch.autograd.grad(got.similarity.sum(), wanted, allow_unused=True)
    assert_untouched(network, images, before)
    all_cells(network, images, layer, CORRELATIONS)
    assert_untouched(network, images, before)


def test_statistics_that_would_change_are_noticed():
    network, layer, size = resnet20()
    images = torch.rand(2, 3, *size).double()
    network.train()
    before = state(network, images)
    for look in (
        lambda: harmony(network, images, layer, correlation=pearson),
        lambda: all_cells(network, images, layer, CORRELATIONS),
    ):
        with pytest.raises(ConfigError, match="BatchNorm2d in train mode"):
            look()
    assert_untouched(network, images, before)
    with frozen_statistics(network):
        batch = harmony(network, images, layer, correlation=pearson)
    with running_statistics(network):
        running = harmony(network, images, layer, correlation=pearson)
    assert_untouched(network, images, before)
    assert not torch.allclose(batch.similarity, running.similarity)
    network.eval()
    assert torch.equal(running.similarity, harmony(network, images, layer, correlation=pearson).similarity)


def test_layers_below_frozen_ones_are_trained_alone():
    network, layer, size = resnet20()
    images = torch.rand(2, 3, *size).double()
    whole = torch.autograd.grad(loss_of(network, images, layer), [network.body.layer3[0].conv1.weight])
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name.startswith("body.layer3"))
    part = torch.autograd.grad(loss_of(network, images, layer), [network.body.layer3[0].conv1.weight])
    torch.testing.assert_close(part, whole)
    assert images.grad is None


# What is refused, and precision


def test_networks_without_relus_are_refused():
    def with_activation(activation):
        body = nn.Sequential(nn.Conv2d(3, 4, 3, 1, 1), activation, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        return Network(body, nn.Linear(4, 2), width=4, **COLORS)

    images = torch.rand(2, 3, 6, 6)
    with pytest.raises(ConfigError, match="not defined for gelu"):
        harmony(with_activation(nn.GELU()), images, "0", correlation=pearson)
    with pytest.raises(ConfigError, match="No ReLU was met"):
        harmony(with_activation(nn.Tanh()), images, "0", correlation=pearson)


def test_unknown_names_are_refused():
    network, images = chain()
    with pytest.raises(ConfigError, match="no matching 'guided_masks'. Did you mean 'guided_mask'"):
        harmony(network, images, LATE, correlation=pearson, matching="guided_masks")
    with pytest.raises(ConfigError, match="no sigma 'deviation'. Known: authors, std, variance"):
        harmony(network, images, LATE, correlation=pearson, sigma="deviation")
    with pytest.raises(ConfigError, match="no layer '33'"):
        harmony(network, images, "33", correlation=pearson)
    with torch.no_grad(), pytest.raises(ConfigError, match="no_grad"):
        harmony(network, images, LATE, correlation=pearson)


@pytest.mark.parametrize("matching", MATCHINGS)
def test_under_autocast_maps_are_compared_in_single_precision(matching):
    network, layer, size = resnet20()
    network, images = network.float(), F.interpolate(torch.rand(2, 3, 4, 4), size, mode="bilinear")
    with torch.autocast("cpu", torch.bfloat16):
        got = harmony(network, images, layer, correlation=pearson, matching=matching)
        assert network(images).logits.dtype == torch.bfloat16
    assert got.first.dtype == got.second.dtype == got.similarity.dtype == torch.float32
    expected = harmony(network, images, layer, correlation=pearson, matching=matching)
    torch.testing.assert_close(got.similarity, expected.similarity, rtol=0, atol=0.1)
    got.similarity.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters() if parameter.grad is not None)


def test_mean_and_deviation_may_have_another_precision_than_images():
    network, images = chain()
    network.mean, network.std = network.mean.float(), network.std.float()
    assert harmony(network, images, LATE, correlation=pearson).similarity.dtype == torch.float64
