import copy
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from eke.errors import ConfigError
from eke.models.backbones import build_network
from eke.models.network import ModelOptions
from eke.models.norm import (
    BatchNorm,
    SeparableBatchNorm,
    constant_statistics,
    frozen_statistics,
    has_batch_norm,
    sync_batch_norm,
)

WORKER = Path(__file__).with_name("two_processes.py")


class _Global(BatchNorm):
    """The formula that several processes use, also in one."""

    def forward(self, x):
        return self._normalize_globally(x)


def _pair(kind, *args, **settings):
    """A batch norm of torch and ours with the same state, in float64."""
    theirs = kind(*args, **settings).double()
    ours = sync_batch_norm(copy.deepcopy(theirs))
    ours.__class__ = _Global
    return theirs, ours


CASES = {
    "2d": (nn.BatchNorm2d, (6, 3, 5, 4), {}),
    "1d": (nn.BatchNorm1d, (9, 3), {"momentum": 0.001, "eps": 1e-3}),
    "1d sequence": (nn.BatchNorm1d, (4, 3, 7), {"momentum": None}),
    "3d": (nn.BatchNorm3d, (4, 3, 2, 3, 2), {"affine": False}),
    "without statistics": (nn.BatchNorm2d, (4, 3, 2, 3), {"track_running_stats": False}),
}


@pytest.mark.parametrize("case", CASES)
def test_formula_equals_torch_with_running_statistics(case):
    kind, shape, settings = CASES[case]
    theirs, ours = _pair(kind, 3, **settings)
    for step in range(3):
        x = (2 * torch.randn(shape, dtype=torch.float64) + step).requires_grad_()
        z = x.detach().clone().requires_grad_()
        weight = torch.randn(shape, dtype=torch.float64)
        a, b = theirs(x), ours(z)
        (a * weight).sum().backward()
        (b * weight).sum().backward()
        torch.testing.assert_close(b, a, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(z.grad, x.grad, rtol=1e-12, atol=1e-12)
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-12, atol=1e-12)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, rtol=1e-12, atol=1e-12)


def test_gradients_of_first_and_second_order_are_those_of_finite_differences():
    _, ours = _pair(nn.BatchNorm2d, 2, track_running_stats=False)

    def normalize(x, weight, bias):
        return torch.func.functional_call(ours, {"weight": weight, "bias": bias}, x)

    inputs = [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in [(3, 2, 2, 2), (2,), (2,)]]
    assert torch.autograd.gradcheck(normalize, inputs)
    assert torch.autograd.gradgradcheck(normalize, inputs)


def test_a_large_mean_costs_no_digits_in_single_precision():
    x = torch.randn(64, 3, 8, 8, dtype=torch.float64) + 3000
    theirs, ours = _pair(nn.BatchNorm2d, 3)
    torch.testing.assert_close(ours.float()(x.float()).double(), theirs(x), rtol=0, atol=2e-3)


def test_half_precision_in_gives_half_precision_out():
    theirs, ours = _pair(nn.BatchNorm2d, 3)
    x = torch.randn(8, 3, 4, 4, dtype=torch.bfloat16)
    y = ours.float()(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y, theirs.float()(x.float()).bfloat16(), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("training", [True, False])
def test_one_process_computes_what_torch_computes(training):
    theirs = nn.BatchNorm2d(3).train(training)
    ours = sync_batch_norm(copy.deepcopy(theirs))
    x = torch.randn(4, 3, 5, 5)
    assert type(ours) is BatchNorm
    assert torch.equal(ours(x), theirs(x))
    assert torch.equal(ours.running_var, theirs.running_var)


def test_swapping_keeps_parameters_keys_modes_and_outputs():
    for name in ("resnet20", "timm/test_resnet", "timm/test_byobnet"):
        options = ModelOptions(name=name)
        network = build_network(
            options, n_classes=3, channels=3, size=(32, 32), mean=(0.5,) * 3, std=(0.2,) * 3, seed=0
        ).eval()
        x = torch.rand(2, 3, 32, 32)
        before, state, parameters = network(x).logits, network.state_dict(), list(network.parameters())
        modes = [module.training for module in network.modules()]
        assert sync_batch_norm(network) is network
        norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        assert norms
        assert all(type(norm) is BatchNorm for norm in norms)
        assert list(network.state_dict()) == list(state)
        assert all(a is b for a, b in zip(network.parameters(), parameters, strict=True))
        assert [module.training for module in network.modules()] == modes
        assert torch.equal(network(x).logits, before)


def test_an_unknown_kind_of_batch_norm_is_refused():
    class Strange(nn.BatchNorm2d):
        pass

    with pytest.raises(ConfigError, match=r"Strange.*compute\.sync_norm=false"):
        sync_batch_norm(nn.Sequential(Strange(3)))


def _norms():
    from timm.layers import BatchNormAct2d

    return {
        "torch": nn.BatchNorm2d(3),
        "ours": sync_batch_norm(nn.BatchNorm2d(3)),
        "formula": _pair(nn.BatchNorm2d, 3)[1].float(),
        "timm": BatchNormAct2d(3),
    }


@pytest.mark.parametrize("kind", ["torch", "ours", "formula", "timm"])
def test_frozen_statistics_stay_while_batches_are_still_normalized(kind):
    norm = _norms()[kind]
    net = nn.Sequential(norm)
    x = 5 * torch.randn(8, 3, 4, 4) + 2
    wanted = copy.deepcopy(net)(x)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with frozen_statistics(net):
        assert torch.equal(net(x), wanted)
        inner = net.eval()(x)
    net.train()
    assert all(torch.equal(net.state_dict()[name], value) for name, value in before.items())
    if kind != "formula":  # which is the formula in eval mode too
        torch.testing.assert_close(inner, F.relu(x) if kind == "timm" else x, rtol=1e-4, atol=1e-4)
    net(x)
    assert net[0].num_batches_tracked == 1
    assert not torch.equal(net[0].running_mean, before["0.running_mean"])


def test_frozen_statistics_leave_everything_as_found_after_an_error():
    net = nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm2d(3, track_running_stats=False))
    with pytest.raises(ValueError), frozen_statistics(net):
        raise ValueError
    assert [norm.track_running_stats for norm in net] == [True, False]


def test_batch_norm_is_found():
    assert has_batch_norm(nn.Sequential(nn.Sequential(nn.BatchNorm1d(2))))
    assert has_batch_norm(sync_batch_norm(nn.BatchNorm2d(2)))
    assert not has_batch_norm(nn.Sequential(nn.GroupNorm(1, 2), nn.InstanceNorm2d(2)))


@pytest.fixture(scope="module")
def groups(tmp_path_factory):
    """The result of one process with torch's batch norm, and those of two processes with ours."""
    folder = tmp_path_factory.mktemp("ranks")
    command = [sys.executable, str(WORKER)]
    started = [
        subprocess.Popen([*command, str(rank), "2", str(folder)], stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    one = runpy.run_path(str(WORKER))["train"]()
    for process in started:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    return one, [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def test_two_processes_equal_one_in_losses_and_second_order_gradients(groups):
    one, two = groups
    for rank in two:
        torch.testing.assert_close(rank["losses"], one["losses"], rtol=1e-11, atol=1e-12)
        torch.testing.assert_close(rank["grads"], one["grads"], rtol=1e-9, atol=1e-11)


def test_two_processes_equal_one_in_running_statistics(groups):
    one, two = groups
    for rank in two:
        assert list(rank["state"]) == list(one["state"])
        for name, value in one["buffers"].items():
            torch.testing.assert_close(rank["buffers"][name], value, rtol=1e-11, atol=1e-12)


def test_gradients_with_constant_statistics_are_those_of_each_image_alone(groups):
    one, two = groups
    module = runpy.run_path(str(WORKER))["Net"]().double()
    module.load_state_dict(two[0]["state"])

    def fixed(norm):  # torch's batch norm with this batch's statistics as numbers
        def forward(x):
            axes = [0, *range(2, x.ndim)]
            mean, var = x.mean(axes).detach(), x.var(axes, correction=0).detach()
            return F.batch_norm(x, mean, var, norm.weight, norm.bias, False, 0.0, norm.eps)

        return forward

    for name in ("norm1", "norm2", "norm3"):
        getattr(module, name).forward = fixed(getattr(module, name))
    x, y = torch.cat([rank["x"] for rank in two]), torch.cat([rank["y"] for rank in two])
    features, logits = module(x)
    score = logits.gather(1, y[:, None]).sum()
    (alpha,) = torch.autograd.grad(score, features)
    ours = torch.cat([rank["constant"] for rank in two])
    torch.testing.assert_close(ours, alpha, rtol=1e-10, atol=1e-12)
    # torch's own batch norm does not look at the switch, so this is the gradient with coupled images
    assert (one["constant"] - alpha).norm() > 0.05 * alpha.norm()


def test_second_order_with_constant_statistics_is_that_of_finite_differences():
    _, ours = _pair(nn.BatchNorm2d, 2, track_running_stats=False)
    x = torch.randn(3, 2, 3, 3, dtype=torch.float64)
    weight = torch.randn(4, 18, dtype=torch.float64)

    def inner(scale):
        z = x * scale[:, None, None]  # the statistics depend on the scale: through them, second order is not zero
        with constant_statistics():
            (g,) = torch.autograd.grad((ours(z).flatten(1) @ weight.T).pow(3).sum(), z, create_graph=True)
        return g

    scale = torch.rand(2, dtype=torch.float64).add(0.5).requires_grad_()
    assert torch.autograd.gradcheck(inner, (scale,))


@pytest.mark.parametrize("case", CASES)
def test_separable_batch_norm_is_that_of_torch(case):
    kind, shape, settings = CASES[case]
    plain = kind(3, **settings).double()
    separable = copy.deepcopy(plain)
    for step in range(3):
        x = (2 * torch.randn(shape, dtype=torch.float64) + step).requires_grad_()
        z = x.detach().clone().requires_grad_()
        weight = torch.randn(shape, dtype=torch.float64)
        with SeparableBatchNorm():
            b = separable(z)
        a = plain(x)
        (a * weight).sum().backward()
        (b * weight).sum().backward()
        assert torch.equal(a, b)
        torch.testing.assert_close(z.grad, x.grad, rtol=1e-12, atol=1e-12)
    for mine, theirs in zip(separable.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-12, atol=1e-12)
    for name, value in plain.state_dict().items():
        assert torch.equal(separable.state_dict()[name], value), name
    plain.eval(), separable.eval()
    with SeparableBatchNorm():
        y = separable(x)
    assert torch.equal(y, plain(x))


PLAIN = {"mean": (0.0,) * 3, "std": (1.0,) * 3, "seed": 0}


def _score_gradient(network, images, classes, layer, *, create_graph=False):
    with SeparableBatchNorm():
        outputs = network(images, taps=(layer,))
    score = outputs.logits.gather(1, classes[:, None]).sum()
    with constant_statistics():
        (alpha,) = torch.autograd.grad(score, outputs.features[layer], create_graph=create_graph, retain_graph=True)
    return outputs, alpha


@pytest.mark.parametrize("layer", ["layer1", "layer2", "layer3"])
def test_separable_gradients_of_a_network_in_train_mode_are_those_of_each_image_alone(layer):
    torch.manual_seed(1)
    network = build_network(ModelOptions(name="resnet20"), n_classes=4, channels=3, size=(16, 16), **PLAIN)
    network.double().train()
    for name, parameter in network.named_parameters():
        if "norm" in name:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    images, classes = torch.rand(4, 3, 16, 16, dtype=torch.float64), torch.tensor([0, 3, 1, 1])
    outputs, alpha = _score_gradient(network, images, classes, layer)
    for i in range(4):  # one image's score at a time, batch statistics as numbers
        with pytest.MonkeyPatch.context() as patch:
            real = F.batch_norm

            def fixed(x, running_mean, running_var, weight, bias, training, momentum, eps, real=real):
                axes = [0, *range(2, x.ndim)]
                mean, var = x.mean(axes).detach(), x.var(axes, correction=0).detach()
                return real(x, mean, var, weight, bias, False, 0.0, eps)

            patch.setattr(F, "batch_norm", fixed)
            alone = network(images, taps=(layer,))
        (grad,) = torch.autograd.grad(alone.logits[i, classes[i]], alone.features[layer])
        torch.testing.assert_close(alpha[i], grad[i], rtol=1e-9, atol=1e-12)
    (coupled,) = torch.autograd.grad(outputs.logits.gather(1, classes[:, None]).sum(), outputs.features[layer])
    if layer != "layer3":  # no batch norm follows the last one
        assert (coupled - alpha).norm() > 0.05 * alpha.norm()


def test_second_order_through_separable_batch_norm_is_that_of_finite_differences():
    torch.manual_seed(2)
    network = build_network(ModelOptions(name="resnet20"), n_classes=3, channels=3, size=(8, 8), **PLAIN)
    network.double().train()
    images, classes = torch.rand(3, 3, 8, 8, dtype=torch.float64), torch.tensor([0, 2, 1])

    def loss():
        outputs, alpha = _score_gradient(network, images, classes, "layer2", create_graph=True)
        return (
            outputs.logits.square().mean()
            + (alpha.mean((2, 3), keepdim=True) * outputs.features["layer2"]).square().sum()
        )

    chosen = [network.body.stem[0].weight, network.body.layer2[2].norm1.weight, network.body.layer3[1].conv2.weight]
    for weight, grad in zip(chosen, torch.autograd.grad(loss(), chosen), strict=True):
        direction, step = torch.randn_like(weight), 1e-7
        with torch.no_grad():
            weight.add_(step * direction)
            above = value_of(loss)
            weight.sub_(2 * step * direction)
            below = value_of(loss)
            weight.add_(step * direction)
        assert (grad * direction).sum().item() == pytest.approx((above - below) / (2 * step), rel=1e-5)


def value_of(loss):
    with torch.enable_grad():
        return loss().item()
