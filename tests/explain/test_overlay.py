import pytest
import torch
from matplotlib import colormaps

from eke.errors import ConfigError
from eke.explain.overlay import overlay


def image(channels=3, h=6, w=4):
    return torch.randint(0, 256, (channels, h, w), dtype=torch.uint8)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("value", [0.0, 0.4, -3.0, float(torch.finfo(torch.float32).max)])
def test_a_flat_map_shows_the_image(value, signed):
    picture = image()
    shown = overlay(picture, torch.full((3, 2), value), signed=signed)
    assert shown.dtype == torch.uint8
    assert torch.equal(shown, picture)


def test_gray_becomes_color():
    picture = image(1)
    assert torch.equal(overlay(picture, torch.zeros(3, 2)), picture.expand(3, -1, -1))


@pytest.mark.parametrize(("signed", "name"), [(False, "inferno"), (True, "RdBu_r")])
def test_each_pixel_is_a_mixture_of_image_and_heat(signed, name):
    picture, heat = image(), torch.randn(6, 4)  # of one size: nothing is enlarged
    shown = overlay(picture, heat, signed=signed)
    peak = max(abs(v) if signed else v for v in heat.flatten().tolist())
    for i in range(6):
        for j in range(4):
            value = float(heat[i, j]) / peak
            value = value if signed else max(value, 0)
            color = colormaps[name](round((value + 1) / 2 * 255) if signed else round(value * 255))
            opacity = 0.7 * abs(value)
            for c in range(3):
                expected = float(picture[c, i, j]) * (1 - opacity) + 255 * color[c] * opacity
                assert abs(float(shown[c, i, j]) - expected) <= 1


def test_the_map_is_enlarged_bilinearly_by_the_centers_of_pixels():
    heat = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    shown = overlay(torch.zeros(3, 4, 4, dtype=torch.uint8), heat)
    fine = torch.tensor([1.0, 0.75, 0.25, 0.0])
    assert torch.equal(shown, overlay(torch.zeros(3, 4, 4, dtype=torch.uint8), torch.outer(fine, fine)))


def test_for_and_against_are_red_and_blue_and_against_is_hidden_unless_asked_for():
    black = torch.zeros(3, 1, 3, dtype=torch.uint8)
    heat = torch.tensor([[2.0, 0.0, -2.0]])
    red, nothing, blue = overlay(black, heat, signed=True)[:, 0].T.int().tolist()
    assert red[0] > 2 * red[2]
    assert blue[2] > 2 * blue[0]
    assert nothing == [0, 0, 0]
    assert not overlay(black, heat)[:, 0, 1:].any()
    assert not overlay(black, -heat.abs()).any()


@pytest.mark.parametrize("size", [1e-38, 1e38])
def test_the_size_of_a_map_does_not_matter(size):
    picture, heat = image(), torch.tensor([[1.0, -0.5], [0.25, 3.0]])
    for signed in (False, True):
        assert torch.equal(overlay(picture, heat * size, signed=signed), overlay(picture, heat, signed=signed))


def test_a_map_with_a_gradient_is_shown():
    assert not overlay(image(), torch.randn(3, 2, requires_grad=True)).requires_grad


def test_misuse_is_named():
    for picture, heat in (
        (image().float(), torch.zeros(3, 2)),
        (image(4), torch.zeros(3, 2)),
        (image()[None], torch.zeros(3, 2)),
        (image(), torch.zeros(1, 3, 2)),
    ):
        with pytest.raises(ConfigError, match="needed are"):
            overlay(picture, heat)
