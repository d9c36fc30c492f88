import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import gradcheck
from torch.func import functional_call

from eke.errors import ConfigError
from eke.explain.gradients import channel_magnitude, integrated_gradients, path_attention, saliency, smooth_grad
from eke.randomness import rng

CLASSES = torch.tensor([2, 0, 1])
RULES = {"right": "riemann_right", "midpoint": "riemann_middle", "gauss-legendre": "gausslegendre"}


def network_and_images():
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Tanh(), nn.Conv2d(4, 5, 3), nn.Tanh())
    network += nn.Sequential(nn.Flatten(), nn.Linear(5 * 3 * 2, 6), nn.Tanh(), nn.Linear(6, 3))
    return network.double().eval(), torch.rand(3, 3, 5, 4).double()


def of_class(logits, classes=CLASSES):
    return logits.gather(1, classes[:, None])[:, 0]


def gradient_at(network, image, label):
    point = image.detach()[None].requires_grad_()
    return torch.autograd.grad(network(point)[0, label], point)[0][0]


# Saliency


def test_saliency_is_the_slope_of_each_images_own_score():
    network, images = network_and_images()
    images.requires_grad_()
    got = saliency(of_class(network(images)), images)
    assert not got.requires_grad
    for n, c, i, j in ((0, 0, 0, 0), (1, 2, 4, 3), (2, 1, 2, 2)):
        up, down = images.detach().clone(), images.detach().clone()
        up[n, c, i, j] += 1e-6
        down[n, c, i, j] -= 1e-6
        with torch.no_grad():
            slope = (of_class(network(up)) - of_class(network(down)))[n] / 2e-6
        assert got[n, c, i, j].item() == pytest.approx(slope.item(), rel=1e-6)


def test_saliency_can_be_trained():
    network, images = network_and_images()

    def gradient(weight):
        x = images.requires_grad_()
        return saliency(of_class(functional_call(network, {"0.weight": weight}, x)), x, create_graph=True)

    assert gradcheck(gradient, network[0].weight.detach().requires_grad_())


def test_channels_become_one_map_by_magnitude():
    gradient = torch.randn(2, 3, 2, 2)
    largest, total = channel_magnitude(gradient), channel_magnitude(gradient, "sum")
    for n in range(2):
        for i in range(2):
            for j in range(2):
                values = [abs(float(v)) for v in gradient[n, :, i, j]]
                assert largest[n, i, j].item() == max(values)
                assert total[n, i, j].item() == pytest.approx(sum(values))


def test_saliency_equals_captum():
    from captum.attr import Saliency

    network, images = network_and_images()
    images.requires_grad_()
    expected = Saliency(network).attribute(images, target=CLASSES, abs=False)
    torch.testing.assert_close(saliency(of_class(network(images)), images), expected)


# SmoothGrad


def test_smooth_grad_is_the_mean_gradient_of_noisy_images():
    network, images = network_and_images()
    images = images * torch.tensor([1.0, 3.0, 0.1]).view(3, 1, 1, 1)
    got = smooth_grad(lambda x: of_class(network(x)), images, n_samples=4, noise_rate=0.2, seed=7)
    for n in range(3):
        values = images[n].flatten().tolist()
        total = 0
        for sample in range(4):
            noise = torch.randn(3, 5, 4, generator=rng(7, sample, "smooth_grad")).double()
            total += gradient_at(network, images[n] + 0.2 * (max(values) - min(values)) * noise, CLASSES[n])
        torch.testing.assert_close(got[n], total / 4)


def test_smooth_grad_of_an_image_depends_on_its_seed_only():
    network, images = network_and_images()
    state = torch.get_rng_state()
    with torch.no_grad():  # it explains; that the caller evaluates does not matter
        batch = smooth_grad(lambda x: of_class(network(x)), images, n_samples=3)
        alone = smooth_grad(lambda x: of_class(network(x), CLASSES[1:2]), images[1:2], n_samples=3)
        other = smooth_grad(lambda x: of_class(network(x)), images, n_samples=3, seed=1)
    torch.testing.assert_close(alone[0], batch[1])
    assert not torch.allclose(other, batch)
    assert torch.equal(torch.get_rng_state(), state)


def test_without_noise_smooth_grad_is_saliency():
    network, images = network_and_images()
    got = smooth_grad(lambda x: of_class(network(x)), images, n_samples=2, noise_rate=0)
    images.requires_grad_()
    torch.testing.assert_close(got, saliency(of_class(network(images)), images))


# Integrated gradients


@pytest.mark.parametrize("rule", RULES)
def test_integrated_gradients_equals_captum(rule):
    from captum.attr import IntegratedGradients

    network, images = network_and_images()
    baseline = torch.rand(3, 5, 4).double()
    expected = IntegratedGradients(network).attribute(
        images, baseline.expand_as(images), target=CLASSES, n_steps=7, method=RULES[rule]
    )
    got = integrated_gradients(lambda x: of_class(network(x)), images, baseline, n_steps=7, rule=rule)
    torch.testing.assert_close(got, expected.detach())


@pytest.mark.parametrize(("rule", "shift"), [("right", 0.0), ("midpoint", 0.5)])
def test_integrated_gradients_follows_its_formula(rule, shift):
    network, images = network_and_images()
    got = integrated_gradients(lambda x: of_class(network(x)), images, 0.5, n_steps=5, rule=rule)
    for n in range(3):
        path = [0.5 + (k - shift) / 5 * (images[n] - 0.5) for k in range(1, 6)]
        mean = sum(gradient_at(network, point, CLASSES[n]) for point in path) / 5
        torch.testing.assert_close(got[n], (images[n] - 0.5) * mean)


def test_integrated_gradients_sum_to_what_the_score_gained():
    network, images = network_and_images()
    with torch.no_grad():
        gained = of_class(network(images)) - of_class(network(torch.zeros_like(images)))
        got = integrated_gradients(lambda x: of_class(network(x)), images, n_steps=16).flatten(1).sum(1)
    torch.testing.assert_close(got, gained, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("explain", [smooth_grad, integrated_gradients])
def test_both_can_be_trained(explain):
    network, images = network_and_images()
    count = {"n_samples": 2} if explain is smooth_grad else {"n_steps": 2}

    def gradient(weight):
        def forward(x):
            return of_class(functional_call(network, {"3.weight": weight}, x))

        return explain(forward, images, create_graph=True, **count)

    weight = network[3].weight.detach().requires_grad_()
    assert gradient(weight).requires_grad
    assert gradcheck(gradient, weight)


# Attention along the path


def features_of(network):
    def forward(images):
        first = network[:3](images)
        second = network[3:8](first)
        logits = network[8](second)
        return logits, {"maps": first, "embedding": second, "logits": logits}

    return forward


def loss(logits):
    return F.cross_entropy(logits, CLASSES, reduction="none")


def slow_attention(network, images, n_steps, shift=0.0):
    """Equation 1, one image and one point at a time."""
    rows = {"maps": [], "embedding": [], "logits": []}
    for image, label in zip(images, CLASSES, strict=True):
        total = dict.fromkeys(rows, 0)
        for k in range(1, n_steps + 1):
            logits, features = features_of(network)((k - shift) / n_steps * image[None])
            value = F.cross_entropy(logits, label[None])
            for name, feature in features.items():
                total[name] += torch.autograd.grad(value, feature, retain_graph=True)[0][0] / n_steps
        for name, row in rows.items():
            row.append(total[name])
    return {name: torch.stack(row) for name, row in rows.items()}


@pytest.mark.parametrize(("rule", "shift"), [("right", 0.0), ("midpoint", 0.5)])
@pytest.mark.parametrize("steps_at_once", [1, 4, 100])
def test_path_attention_equals_the_loop_over_points(rule, shift, steps_at_once):
    network, images = network_and_images()
    expected = slow_attention(network, images, 10, shift)
    with torch.no_grad():
        got = path_attention(
            features_of(network),
            images,
            loss,
            n_steps=10,
            rule=rule,
            steps_at_once=steps_at_once,
            pooled=False,
        )
    torch.testing.assert_close(got, expected)
    assert not any(attention.requires_grad for attention in got.values())


def test_pooled_attention_is_the_mean_over_positions():
    network, images = network_and_images()
    expected = slow_attention(network, images, 6)
    expected["maps"] = expected["maps"].mean((2, 3))
    torch.testing.assert_close(path_attention(features_of(network), images, loss, n_steps=6), expected)


def test_gauss_legendre_comes_near_the_limit_with_few_points():
    network, images = network_and_images()
    exact = path_attention(features_of(network), images, loss, n_steps=400, rule="midpoint", steps_at_once=100)
    few = path_attention(features_of(network), images, loss, n_steps=6, rule="gauss-legendre")
    torch.testing.assert_close(few, exact, rtol=1e-4, atol=1e-7)


def test_path_attention_equals_captum():
    from captum.attr import InternalInfluence

    network, images = network_and_images()
    influence = InternalInfluence(lambda x, target: F.cross_entropy(network(x), target, reduction="none"), network[2])
    expected = influence.attribute(images, additional_forward_args=CLASSES, n_steps=8, method="riemann_right")
    got = path_attention(features_of(network), images, loss, n_steps=8, steps_at_once=8, pooled=False)
    torch.testing.assert_close(got["maps"], expected.detach())


def test_each_chunk_is_one_backward_pass_that_asks_for_features_only(monkeypatch):
    network, images = network_and_images()
    asked, grad = [], torch.autograd.grad
    monkeypatch.setattr(
        torch.autograd,
        "grad",
        lambda outputs, inputs, *a, **k: asked.append(len(inputs)) or grad(outputs, inputs, *a, **k),
    )
    path_attention(features_of(network), images, loss, n_steps=10, steps_at_once=4)
    assert asked == [3, 3, 3]
    assert all(parameter.grad is None for parameter in network.parameters())


def test_a_network_without_trained_parameters_has_attention():
    network, images = network_and_images()
    expected = path_attention(features_of(network), images, loss, n_steps=4)
    network.requires_grad_(False)
    torch.testing.assert_close(path_attention(features_of(network), images, loss, n_steps=4), expected)


# Misuse


def test_counts_and_rules_that_do_not_exist_are_named():
    network, images = network_and_images()

    def score(x):
        return of_class(network(x))

    with pytest.raises(ConfigError, match="n_samples is 0"):
        smooth_grad(score, images, n_samples=0)
    with pytest.raises(ConfigError, match="n_steps is 0"):
        integrated_gradients(score, images, n_steps=0)
    with pytest.raises(ConfigError, match="steps_at_once is 0"):
        path_attention(features_of(network), images, loss, steps_at_once=0)
    with pytest.raises(ConfigError, match="Did you mean 'midpoint'"):
        integrated_gradients(score, images, rule="mid-point")
    with pytest.raises(ConfigError, match="requires_grad_"):
        saliency(score(images), images)
    with pytest.raises(ConfigError, match="pick one class"):
        smooth_grad(network, images)
