"""Networks that read clips: frame by frame, or with 3-D convolutions; their maps, and gradients through them."""

import pytest
import torch
from torch import nn

from eke.errors import ConfigError
from eke.explain.cam import grad_cam
from eke.models.backbones import build_network, from_module, resolve_name
from eke.models.compiled import modules_below
from eke.models.network import ModelOptions, is_pooled_linearly, layers


def network_of(name="small", size=(16, 16), frames=4, **options):
    made = build_network(
        ModelOptions(name=name, **options),
        n_classes=3,
        channels=3,
        size=size,
        mean=(0.4, 0.5, 0.6),
        std=(0.2, 0.3, 0.4),
        seed=0,
        frames=frames,
    )
    return made.eval()


def clips_of(n=3, frames=4, size=(16, 16), dtype=torch.float32):
    return torch.rand(n, 3, frames, *size, generator=torch.Generator().manual_seed(1), dtype=dtype)


@pytest.mark.parametrize(
    ("name", "layer"), [("small", "block2"), ("resnet20", "layer2"), ("torchvision/swin_t", "features.1")]
)
def test_a_folded_forward_equals_a_loop_over_frames(name, layer):
    size = (32, 32) if "/" in name else (16, 16)
    network, clips = network_of(name, size), clips_of(2, size=size)
    with torch.no_grad():
        outputs = network(clips, taps=(layer,))
        frames = [network(clips[:, :, time], taps=(layer,)) for time in range(4)]
        embedding = torch.stack([frame.embedding for frame in frames]).mean(0)
        maps = torch.stack([frame.features[layer] for frame in frames], 2)
    assert torch.allclose(outputs.embedding, embedding, atol=1e-5)
    assert torch.allclose(outputs.logits, network.head(embedding), atol=1e-5)
    assert outputs.features[layer].shape == maps.shape
    assert torch.allclose(outputs.features[layer], maps, atol=1e-5)


def test_tokens_of_frames_have_maps_with_a_time_axis():
    network, clips = network_of("timm/test_vit", (160, 160), 2), clips_of(2, 2, (160, 160))
    with torch.no_grad():
        found = network(clips, taps=("blocks.0",)).features["blocks.0"]
        first = network(clips[:, :, 0], taps=("blocks.0",)).features["blocks.0"]
    assert found.shape == (*first.shape[:2], 2, *first.shape[2:])
    assert torch.allclose(found[:, :, 0], first, atol=1e-5)


@pytest.mark.parametrize("name", ["small", "torchvision/r3d_18"])
def test_grad_cam_of_a_batch_equals_that_of_each_clip(name):
    network, clips = network_of(name).double(), clips_of(dtype=torch.float64)
    layer = layers(network, (16, 16))[-1]

    def cam(part):
        outputs = network(part, taps=(layer,))
        return grad_cam(outputs.logits[:, 1], outputs.features[layer])

    together = cam(clips)
    assert together.ndim == 4
    for row in range(3):
        alone = cam(clips[row : row + 1])[0]
        assert torch.allclose(together[row], alone, atol=1e-9 + 1e-7 * float(alone.abs().max()))


def test_second_order_gradients_run_through_the_maps_of_clips():
    network, clips = network_of(size=(8, 8)).double(), clips_of(2, size=(8, 8), dtype=torch.float64)
    weight = network.body.block2[1].weight

    def attention():
        outputs = network(clips, ["block2"])
        return grad_cam(outputs.logits[:, 0], outputs.features["block2"], create_graph=True).square().sum()

    (gradient,) = torch.autograd.grad(attention(), weight)
    direction, step = torch.randn_like(weight), 1e-7
    with torch.no_grad():
        weight.add_(step * direction)
        up = weight.clone()
        weight.sub_(2 * step * direction)
    below = attention().item()
    with torch.no_grad():
        weight.copy_(up)
    slope = (attention().item() - below) / (2 * step)
    assert gradient.abs().sum() > 0
    assert (gradient * direction).sum().item() == pytest.approx(slope, rel=1e-4)


def test_the_last_map_of_a_frame_by_frame_network_is_pooled_linearly():
    network = network_of()
    assert is_pooled_linearly(network, "block4", (16, 16))
    assert not is_pooled_linearly(network, "block2", (16, 16))


def test_the_same_weights_read_images_and_clips():
    images, clips = network_of(frames=None), network_of()
    assert images.state_dict().keys() == clips.state_dict().keys()
    clips.load_state_dict(images.state_dict())
    still = clips_of()[:, :, :1].expand(-1, -1, 4, -1, -1)
    assert torch.allclose(clips(still).logits, images(still[:, :, 0]).logits, atol=1e-5)


@pytest.mark.parametrize("name", ["r3d_18", "torchvision/mc3_18", "r2plus1d_18"])
def test_models_of_torchvision_with_three_dimensions(name):
    network, clips = network_of(name, (24, 24), 8), clips_of(2, 8, (24, 24))
    assert resolve_name(name, (24, 24)) == f"torchvision/{name.rpartition('/')[2]}"
    assert network.sees_motion
    known = layers(network, (24, 24))
    outputs = network(clips, taps=("layer2", known[-1]))
    assert outputs.logits.shape == (2, 3)
    assert outputs.features["layer2"].shape[:2] == (2, 128)
    assert outputs.features["layer2"].ndim == 5
    moved = network(clips.flip(2)).logits
    assert not torch.allclose(moved, outputs.logits), "the order of frames counts"
    assert "stem" in modules_below(network, ("layer2",), (24, 24))


def test_a_model_of_clips_refuses_images():
    with pytest.raises(ConfigError, match=r"r3d_18 reads clips, and these are images.*resnet18"):
        network_of("r3d_18", frames=None)
    with pytest.raises(ConfigError, match="reads clips.*these are images"):
        network_of("r3d_18")(torch.rand(1, 3, 16, 16))


def test_a_module_of_the_users_reads_clips_frame_by_frame_or_itself():
    flat = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    deep = nn.Sequential(nn.Conv3d(3, 4, 3), nn.ReLU())
    for module, shape in ((flat, (2, 4, 5, 10, 10)), (deep, (2, 4, 3, 10, 10))):
        network = from_module(module, 2, size=(12, 12), frames=5)
        outputs = network(clips_of(2, 5, (12, 12)), taps=("1",))
        assert outputs.features["1"].shape == shape
        assert torch.allclose(outputs.embedding, outputs.features["1"].mean((2, 3, 4)), atol=1e-5)


def test_maps_of_one_pixel_are_left_out_however_long_the_clip():
    assert layers(network_of("resnet18", (8, 8)), (8, 8))[-1] == "layer3"
