import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import gradcheck
from torch.func import functional_call

from eke.errors import ConfigError
from eke.explain.cam import class_activation, grad_cam
from eke.explain.guided import guided_grad_cam, guided_relus

CLASSES = torch.tensor([2, 0, 1])


def of_class(logits):
    return logits.gather(1, CLASSES[:, None])[:, 0]


class Perceptron(nn.Module):
    """Two hidden layers around an activation that is called twice, whatever its form."""

    def __init__(self, activation):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(12, 9), nn.Linear(9, 8), nn.Linear(8, 3)
        self.activation = activation

    def forward(self, images):
        hidden = self.activation(self.first(images.flatten(1)))
        return self.last(self.activation(self.second(hidden)))


def slow_guided(network, images, slope):
    """The backward pass written out: R_l = f'(a_l) * max(R_l+1, 0) per image, with f'(a) = [a > 0] for ReLUs."""
    rows = []
    for image, label in zip(images, CLASSES, strict=True):
        first = network.first.weight @ image.flatten() + network.first.bias
        second = network.second.weight @ network.activation(first.clone()) + network.second.bias
        relevance = slope(second) * network.last.weight[label].clamp(min=0)
        relevance = slope(first) * (network.second.weight.T @ relevance).clamp(min=0)
        rows.append((network.first.weight.T @ relevance).view(image.shape))
    return torch.stack(rows).detach()


def statement(x):
    """An in-place ReLU whose result is not looked at."""
    x.relu_()
    return x


FORMS = {
    "module": nn.ReLU(),
    "module in place": nn.ReLU(inplace=True),
    "F.relu": F.relu,
    "F.relu in place": lambda x: F.relu(x, inplace=True),
    "F.relu_": F.relu_,
    "torch.relu": torch.relu,
    "torch.relu_": torch.relu_,
    "Tensor.relu": Tensor.relu,
    "Tensor.relu_": Tensor.relu_,
    "statement": statement,
}


def perceptron(activation):
    return Perceptron(activation).double(), (3 * torch.randn(3, 3, 2, 2)).double().requires_grad_()


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_relu_is_caught_and_may_be_reused(form):
    network, images = perceptron(FORMS[form])
    with guided_relus() as guided:
        score = of_class(network(images))
    expected = slow_guided(network, images.detach(), lambda a: (a > 0).double())
    got = guided.gradient(score, images)
    torch.testing.assert_close(got, expected)
    (plain,) = torch.autograd.grad(of_class(network(images)).sum(), images)
    assert not torch.allclose(got, plain)


SLOPES = {
    "relu6": (nn.ReLU6(), lambda a: ((a > 0) & (a < 6)).double()),
    "F.relu6 in place": (lambda x: F.relu6(x, inplace=True), lambda a: ((a > 0) & (a < 6)).double()),
    "hardtanh": (nn.Hardtanh(-1, 2), lambda a: ((a > -1) & (a < 2)).double()),
    "leaky_relu": (nn.LeakyReLU(0.2), lambda a: torch.where(a > 0, 1.0, 0.2).double()),
    "leaky_relu_": (lambda x: F.leaky_relu_(x, 0.2), lambda a: torch.where(a > 0, 1.0, 0.2).double()),
    "prelu": (nn.PReLU(init=0.3).double(), lambda a: torch.where(a > 0, 1.0, 0.3).double()),
    "rrelu": (nn.RReLU(0.1, 0.3).eval(), lambda a: torch.where(a > 0, 1.0, 0.2).double()),
}


@pytest.mark.parametrize("form", SLOPES)
def test_relatives_of_relu_pass_positive_gradients_with_their_own_slope(form):
    activation, slope = SLOPES[form]
    network, images = perceptron(activation)
    with guided_relus() as guided:
        score = of_class(network(images))
    got = guided.gradient(score, images)
    torch.testing.assert_close(got, slow_guided(network, images.detach(), slope))


@pytest.mark.parametrize(
    ("activation", "name"),
    [
        (nn.GELU(), "gelu"),
        (nn.SiLU(inplace=True), "silu"),
        (nn.Mish(), "mish"),
        (nn.Hardswish(), "hardswish"),
        (nn.ELU(), "elu"),
        (F.elu_, "elu"),
        (nn.SELU(), "selu"),
        (nn.CELU(), "celu"),
        (nn.Softplus(), "softplus"),
    ],
)
def test_smooth_activations_are_refused_by_name(activation, name):
    with guided_relus(), pytest.raises(ConfigError, match=f"not defined for {name}, .* Use saliency"):
        activation(torch.randn(2, 3))


def test_gates_keep_their_gradient():
    x = torch.randn(3, 4, requires_grad=True)
    with guided_relus() as guided:
        score = (torch.sigmoid(x) * torch.relu(x + 5) * -1).sum(1)
    (expected,) = torch.autograd.grad((-torch.sigmoid(x) * (x + 5).detach()).sum(), x)
    torch.testing.assert_close(guided.gradient(score, x), expected)


# Ordinary gradients stay ordinary


def small_network():
    network = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 5, 3, padding=1))
    network += nn.Sequential(nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3))
    return network.double().eval(), torch.randn(3, 3, 6, 6).double()


def test_the_forward_and_all_other_gradients_are_ordinary():
    network, images = small_network()
    images.requires_grad_()
    parameters = list(network.parameters())

    features = network[:3](images)
    logits = network[3:](features)
    cam = grad_cam(of_class(logits), features)
    expected = torch.autograd.grad(F.cross_entropy(logits, CLASSES), [images, *parameters])

    with guided_relus() as guided:
        features_2 = network[:3](images)
        logits_2 = network[3:](features_2)
        inside = guided.gradient(of_class(logits_2), images)
    after = guided.gradient(of_class(logits_2), images)
    assert torch.equal(inside, after)
    assert torch.equal(logits_2, logits)
    assert torch.equal(grad_cam(of_class(logits_2), features_2), cam)
    got = torch.autograd.grad(F.cross_entropy(logits_2, CLASSES), [images, *parameters])
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


def test_after_a_refusal_gradients_are_ordinary():
    network, images = perceptron(F.relu)
    with guided_relus() as guided:
        logits = network(images)
    with pytest.raises(ConfigError, match="pick one class"):
        guided.gradient(logits, images)
    (got,) = torch.autograd.grad(of_class(logits).sum(), images)
    assert torch.equal(got, torch.autograd.grad(of_class(network(images)).sum(), images)[0])


def test_a_forward_elsewhere_is_noticed():
    network, images = perceptron(F.relu)
    score = of_class(network(images))
    with guided_relus() as guided:
        pass
    with pytest.raises(ConfigError, match="No ReLU was met"):
        guided.gradient(score, images)


# Second order


def test_second_order_gradients_equal_finite_differences():
    network, images = small_network()

    def guided_gradient(low, high):
        x = images.detach().requires_grad_()
        with guided_relus() as guided:
            logits = functional_call(network, {"0.weight": low, "7.weight": high}, x)
        return guided.gradient(of_class(logits), x, create_graph=True)

    low, high = (network[i].weight.detach().requires_grad_() for i in (0, 7))
    assert gradcheck(guided_gradient, (low, high), eps=1e-7)


def test_one_forward_serves_mask_and_map_in_a_loss_through_which_all_is_trained():
    """A loss that reads Grad-CAM, and a second forward on images masked by the guided gradient of the first."""
    network, images = small_network()
    head = network[7]

    def loss(weights):
        x = images.detach().requires_grad_()
        with guided_relus() as guided:
            features = functional_call(network[:5], {"3.weight": weights}, x)
        score = of_class(network[5:](features))
        evidence = guided.gradient(score, x, create_graph=True).abs().sum(1, keepdim=True)
        masked = images * torch.sigmoid(10 * (evidence - evidence.mean()))
        second = functional_call(network[:5], {"3.weight": weights}, masked)
        maps = [grad_cam(score, features, create_graph=True), class_activation(second, head.weight[CLASSES])]
        return (maps[0] * maps[1]).sum()

    weights = network[3].weight.detach().requires_grad_()
    assert gradcheck(loss, (weights,), eps=1e-7)


# Guided Grad-CAM


def test_guided_grad_cam_is_the_product_with_the_enlarged_positive_map():
    guided, cam = torch.randn(2, 3, 4, 4), torch.randn(2, 2, 2)
    got = guided_grad_cam(guided, cam)
    near = [[(0, 1.0)], [(0, 0.75), (1, 0.25)], [(0, 0.25), (1, 0.75)], [(1, 1.0)]]  # 4 pixels read 2, by their centers
    for n in range(2):
        for i in range(4):
            for j in range(4):
                place = sum(u * v * max(float(cam[n, a, b]), 0) for a, u in near[i] for b, v in near[j])
                torch.testing.assert_close(got[n, :, i, j], guided[n, :, i, j] * place)


def test_clips_are_guided_too():
    network = nn.Sequential(nn.Conv3d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten())
    clips = torch.randn(2, 3, 2, 6, 6).requires_grad_()
    with guided_relus() as guided:
        features = network[:2](clips)
        score = network[2:](features)[:, 0]
    gradient = guided.gradient(score, clips)
    assert guided_grad_cam(gradient, grad_cam(score, features)[:, :, ::2, ::2]).shape == clips.shape


# Other libraries, on the same network


def test_equal_to_captum():
    from captum.attr import GuidedBackprop, GuidedGradCam

    network, images = small_network()
    network[4] = nn.ReLU()
    images.requires_grad_()
    with guided_relus() as guided:
        features = network[:4](images)
        score = of_class(network[4:](features))
    gradient = guided.gradient(score, images)
    with pytest.warns(UserWarning, match="ReLU"):
        expected = GuidedBackprop(network).attribute(images, target=CLASSES)
    torch.testing.assert_close(gradient, expected.detach())
    with pytest.warns(UserWarning, match="ReLU"):
        both = GuidedGradCam(network, network[3]).attribute(images, target=CLASSES, interpolate_mode="bilinear")
    assert both.any()
    torch.testing.assert_close(guided_grad_cam(gradient, grad_cam(score, features)), both.detach())


def test_equal_to_pytorch_grad_cam():
    # it loads OpenCV, which a system without its libraries cannot
    library = pytest.importorskip("pytorch_grad_cam", reason="pytorch-grad-cam cannot be loaded", exc_type=ImportError)

    network, images = small_network()
    images.requires_grad_()
    with guided_relus() as guided:
        score = of_class(network(images))
    gradient = guided.gradient(score, images)
    theirs = library.GuidedBackpropReLUModel(copy.deepcopy(network), "cpu")  # it replaces modules and fills .grad
    for n in range(3):
        expected = torch.from_numpy(theirs(images[n : n + 1].detach(), int(CLASSES[n]))).movedim(-1, 0)
        torch.testing.assert_close(gradient[n], expected)
