import pytest
import torch
from torch import nn
from torch.autograd import gradcheck
from torch.func import functional_call

from eke.errors import ConfigError
from eke.explain.cam import CAMS, class_activation, grad_cam, grad_cam_plus_plus

CLASSES = torch.tensor([2, 0, 1])


def of_class(logits):
    return logits.gather(1, CLASSES[:, None])[:, 0]


def two_halves(n_axes=2, smooth=True):
    """A network in two halves, and images: what the first half gives is explained."""
    conv = nn.Conv2d if n_axes == 2 else nn.Conv3d
    pool = nn.AdaptiveAvgPool2d if n_axes == 2 else nn.AdaptiveAvgPool3d
    below = nn.Sequential(conv(3, 4, 3, padding=1), nn.ReLU())
    above = nn.Sequential(conv(4, 5, 3, padding=1), nn.Tanh() if smooth else nn.ReLU(), pool(2), nn.Flatten())
    above.append(nn.Linear(5 * 2**n_axes, 3))
    images = torch.randn(3, 3, *(2, 4, 5)[3 - n_axes :] if n_axes == 3 else (4, 5))
    return below.double(), above.double(), images.double()


# References: one image, one channel and one position at a time, as the papers write them


def own_gradient(above, features, label):
    """d S / d A of one image, from a forward of its own."""
    one = features.detach()[None].requires_grad_()
    return torch.autograd.grad(above(one)[0, label], one)[0][0]


def slow_gradcam(gradient, features):
    result = torch.zeros_like(features[0])
    for k in range(len(features)):
        alpha = sum(gradient[k].flatten().tolist()) / gradient[k].numel()
        result += alpha * features[k]
    return result


def slow_gradcam_plus_plus(gradient, features):
    result = torch.zeros_like(features[0])
    for k in range(len(features)):
        total, weight = sum(features[k].flatten().tolist()), 0.0
        for g in gradient[k].flatten().tolist():
            weight += g**2 / (2 * g**2 + total * g**3) * max(g, 0)
        result += weight * features[k]
    return result


def slow_layercam(gradient, features):
    return sum(torch.where(g > 0, g, 0.0) * a for g, a in zip(gradient, features, strict=True))


def slow_hirescam(gradient, features):
    return sum(g * a for g, a in zip(gradient, features, strict=True))


SLOW = {
    "gradcam": slow_gradcam,
    "gradcam++": slow_gradcam_plus_plus,
    "layercam": slow_layercam,
    "hirescam": slow_hirescam,
}


@pytest.mark.parametrize("n_axes", [2, 3])
@pytest.mark.parametrize("name", CAMS)
def test_a_batch_gives_what_the_formula_gives_for_each_image(name, n_axes):
    below, above, images = two_halves(n_axes)
    features = below(images)
    maps = CAMS[name](of_class(above(features)), features)
    assert maps.shape == (3, *images.shape[2:])
    for n in range(3):
        expected = SLOW[name](own_gradient(above, features[n], CLASSES[n]), features[n].detach())
        torch.testing.assert_close(maps[n], expected, rtol=1e-10, atol=1e-14)


def test_every_method_has_its_name():
    assert set(CAMS) == set(SLOW)


def test_the_closed_form_of_grad_cam_plus_plus_is_that_of_an_exponential():
    """alpha from the second and third derivatives of Y = exp(S), by autograd, where S is linear in A."""
    head, features = torch.randn(2 * 2 * 3).double(), torch.rand(1, 2, 2, 3).double().requires_grad_()
    score = (features.flatten(1) * head).sum(1)
    expected = torch.zeros(2, 3).double()
    for k in range(2):
        weight = 0.0
        for i in range(2):
            for j in range(3):
                y = [score[0].exp()]
                for _ in range(3):
                    (gradient,) = torch.autograd.grad(y[-1], features, create_graph=True)
                    y.append(gradient[0, k, i, j])
                weight += y[2] / (2 * y[2] + features[0, k].sum() * y[3]) * y[1].clamp(min=0)
        expected += (weight * features[0, k]).detach()
    maps = grad_cam_plus_plus(score, features)
    torch.testing.assert_close(score[0].exp().detach() * maps[0], expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize("name", CAMS)
def test_several_layers_share_one_backward_pass(name, monkeypatch):
    below, above, images = two_halves()
    first = below(images)
    second = above[:2](first)
    score = of_class(above[2:](second))
    apart = [CAMS[name](score, first), CAMS[name](score, second)]
    calls, grad = [], torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *args, **kwargs: calls.append(1) or grad(*args, **kwargs))
    together = CAMS[name](score, [first, second])
    assert len(calls) == 1
    torch.testing.assert_close(list(together), apart)


@pytest.mark.parametrize("name", CAMS)
def test_second_order_gradients_equal_finite_differences(name):
    below, above, images = two_halves()

    def maps(low, high):
        features = functional_call(below, {"0.weight": low}, images)
        return CAMS[name](of_class(functional_call(above, {"0.weight": high}, features)), features, create_graph=True)

    assert gradcheck(maps, (below[0].weight.detach().requires_grad_(), above[0].weight.detach().requires_grad_()))


@pytest.mark.parametrize("name", CAMS)
def test_with_constant_weights_only_the_features_move(name):
    below, above, images = two_halves()
    features = below(images)
    maps = CAMS[name](of_class(above(features)), features, create_graph=True, constant_weights=True)
    (got,) = torch.autograd.grad(maps.sum(), features, retain_graph=True)
    for n in range(3):  # maps are linear in the features: the gradient is the weight, which the slow map of ones shows
        gradient = own_gradient(above, features[n], CLASSES[n])
        for k in range(4):
            one = torch.zeros_like(features[n])
            one[k] = 1
            if name == "gradcam++":  # its weights also read the features
                total = features[n, k].sum().item()
                weight = sum(max(g, 0) / (2 + total * g) for g in gradient[k].flatten().tolist() if g > 0)
                torch.testing.assert_close(got[n, k], torch.full_like(got[n, k], weight))
            else:
                torch.testing.assert_close(got[n, k], SLOW[name](gradient, one))
    maps.sum().backward()
    assert below[0].weight.grad is not None
    assert all(parameter.grad is None for parameter in above.parameters())


def test_constant_weights_cost_no_second_derivatives(monkeypatch):
    below, above, images = two_halves()
    features = below(images)
    asked, grad = [], torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *a, **k: asked.append(k["create_graph"]) or grad(*a, **k))
    grad_cam(of_class(above(features)), features, create_graph=True, constant_weights=True)
    assert asked == [False]


def test_without_create_graph_maps_are_detached_and_the_graph_lives_on():
    below, above, images = two_halves()
    features = below(images)
    score = of_class(above(features))
    assert not grad_cam(score, features).requires_grad
    score.sum().backward()
    assert below[0].weight.grad.any()


# The closed form


def pooled():
    below, _, images = two_halves()
    return below, nn.Linear(4, 3).double(), images


def test_class_activation_is_grad_cam_where_pooling_and_a_linear_head_follow():
    below, head, images = pooled()
    features = below(images)
    expected = grad_cam(of_class(head(features.mean((2, 3)))), features) * 20
    with torch.no_grad():
        maps = class_activation(below(images), head.weight[CLASSES])
    torch.testing.assert_close(maps, expected)


def test_class_activation_gives_the_derivatives_that_grad_cam_needs_a_second_order_for():
    below, head, images = pooled()
    features, target = below(images), torch.randn(3, 4, 5).double()
    of = (below[0].weight, head.weight)
    second = grad_cam(of_class(head(features.mean((2, 3)))), features, create_graph=True)
    expected = torch.autograd.grad((second * target).sum() * 20, of, retain_graph=True)
    got = torch.autograd.grad((class_activation(features, head.weight[CLASSES]) * target).sum(), of)
    torch.testing.assert_close(got, expected)


def test_class_activation_of_clips():
    features, weights = torch.randn(2, 3, 2, 4, 5), torch.randn(2, 3)
    maps = class_activation(features, weights)
    assert maps.shape == (2, 2, 4, 5)
    for n, t, i, j in ((0, 0, 0, 0), (1, 1, 3, 4), (1, 0, 2, 1)):
        expected = sum(float(weights[n, k]) * float(features[n, k, t, i, j]) for k in range(3))
        assert maps[n, t, i, j].item() == pytest.approx(expected, abs=1e-6)


# Degenerate maps


@pytest.mark.parametrize("name", CAMS)
@pytest.mark.parametrize("dead", ["features", "gradient"])
def test_dead_features_and_dead_gradients_give_zeros_and_finite_gradients(name, dead):
    below, above, images = two_halves()
    if dead == "features":
        nn.init.constant_(below[0].bias, -100.0)
    else:
        nn.init.zeros_(above[-1].weight)
    features = below(images)
    maps = CAMS[name](of_class(above(features)), features, create_graph=True)
    assert not maps.any()
    maps.square().sum().backward()
    for parameter in [*below.parameters(), *above.parameters()]:
        assert parameter.grad is None or parameter.grad.isfinite().all()


def test_grad_cam_plus_plus_has_no_pole_at_negative_gradients():
    features = torch.full((1, 1, 1, 2), 1.0).requires_grad_()
    score = (features * torch.tensor([-1.0, 3.0])).sum((1, 2, 3))  # 2 + sum(A) g = 0 at the first
    maps = grad_cam_plus_plus(score, features, create_graph=True)
    torch.testing.assert_close(maps, torch.full((1, 1, 2), 3 / (2 + 2 * 3)))
    maps.sum().backward()
    assert features.grad.isfinite().all()


def test_grad_cam_plus_plus_of_tiny_gradients_does_not_underflow():
    features = torch.full((1, 1, 1, 2), 1.0).requires_grad_()
    maps = grad_cam_plus_plus((features * 1e-25).sum((1, 2, 3)), features)
    torch.testing.assert_close(maps, torch.full((1, 1, 2), 1e-25), rtol=1e-5, atol=0)


# Precision


def test_under_autocast_maps_are_taken_in_single_precision():
    seen = []

    class Double(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return 2 * x

        @staticmethod
        def backward(ctx, gradient):
            seen.append(torch.is_autocast_enabled("cpu"))
            return 2 * gradient

    below, head, images = pooled()
    below, head, images = below.float(), head.float(), images.float()
    with torch.autocast("cpu", torch.bfloat16):
        features = below(images)
        maps = grad_cam(Double.apply(of_class(head(features.mean((2, 3))))), features)
        closed = class_activation(features, head.weight[CLASSES])
    assert features.dtype == torch.bfloat16
    assert maps.dtype == closed.dtype == torch.float32
    assert seen == [False]
    expected = torch.einsum("nkij,nk->nij", features.float(), head.weight[CLASSES])
    torch.testing.assert_close(closed, expected, rtol=1e-5, atol=1e-6)


# Misuse


def test_what_cannot_be_explained_says_what_to_do():
    below, above, images = two_halves()
    features = below(images)
    logits = above(features)
    with pytest.raises(ConfigError, match="pick one class"):
        grad_cam(logits, features)
    with pytest.raises(ConfigError, match="below the pooling"):
        grad_cam(of_class(logits), features.mean((2, 3)))
    with pytest.raises(ConfigError, match="below the pooling"):
        class_activation(features.mean((2, 3)), torch.ones(3, 4))
    with pytest.raises(ConfigError, match="same forward"):
        grad_cam(of_class(logits), [features, features * 1])
    with torch.no_grad(), pytest.raises(ConfigError, match="outside no_grad"):
        grad_cam(of_class(above(features)), features)
    with pytest.raises(ConfigError, match="outside no_grad"):
        grad_cam(of_class(logits), features.detach())


# Other libraries, on the same network


def classifier(n_axes=2):
    below, above, images = two_halves(n_axes, smooth=False)
    return nn.Sequential(*below, *above).float().eval(), images.float()


@pytest.mark.parametrize(
    ("name", "theirs"),
    [("gradcam", "GradCAM"), ("gradcam++", "GradCAMPlusPlus"), ("layercam", "LayerCAM"), ("hirescam", "HiResCAM")],
)
def test_equal_to_pytorch_grad_cam(name, theirs):
    # it loads OpenCV, which a system without its libraries cannot
    library = pytest.importorskip("pytorch_grad_cam", reason="pytorch-grad-cam cannot be loaded", exc_type=ImportError)
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    network, images = classifier()
    # it adds 1e-6 to the denominator of Grad-CAM++ and 1e-7 to ranges, which large gradients make small
    nn.init.uniform_(network[-1].weight, -50, 50)
    with getattr(library, theirs)(network, [network[1]]) as explainer:
        shown = torch.from_numpy(explainer(images, [ClassifierOutputTarget(int(c)) for c in CLASSES]))
    features = network[:2](images)
    positive = CAMS[name](of_class(network[2:](features)), features).relu()
    assert (positive.amax((1, 2)) > 0).sum() >= 2  # otherwise zeros would be compared with zeros
    low, high = positive.amin((1, 2), keepdim=True), positive.amax((1, 2), keepdim=True)
    torch.testing.assert_close(shown, (positive - low) / (high - low + 1e-7), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("n_axes", [2, 3])
def test_equal_to_captum(n_axes):
    from captum.attr import LayerGradCam

    network, images = classifier(n_axes)
    expected = LayerGradCam(network.forward, network[1]).attribute(images, target=CLASSES)
    features = network[:2](images)
    torch.testing.assert_close(grad_cam(of_class(network[2:](features)), features), expected.squeeze(1).detach())


def test_a_network_linear_above_the_layer_is_explained_completely():
    """The sum of HiResCAM is the logit without its bias (arXiv:2011.08891)."""
    features, head = torch.randn(3, 4, 4, 5, requires_grad=True), nn.Linear(80, 3)
    logits = head(features.flatten(1))
    total = CAMS["hirescam"](of_class(logits), features).sum((1, 2))
    torch.testing.assert_close(total, (of_class(logits) - head.bias[CLASSES]).detach())
