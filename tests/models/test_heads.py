import itertools

import pytest
import torch
from torch import Tensor, nn

from eke.models.heads import Decoder, perceptron


def normalized(h: Tensor, norm: nn.BatchNorm1d | None = None) -> Tensor:
    h = (h - h.mean(0)) / (h.var(0, correction=0) + 1e-5).sqrt()
    return h * norm.weight + norm.bias if norm is not None else h


def stirred(module: nn.Module) -> nn.Module:
    """Give every parameter, those of batch norm too, a value of its own."""
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    return module.double()


def test_a_perceptron_with_batch_norm_is_its_formula() -> None:
    head = stirred(perceptron((5, 7, 6, 3)))
    x = torch.randn(8, 5, dtype=torch.float64)
    first, norm_1, _, second, norm_2, _, last = head
    h = normalized(x @ first.weight.T, norm_1).clamp(min=0)
    h = normalized(h @ second.weight.T, norm_2).clamp(min=0)
    torch.testing.assert_close(head(x), h @ last.weight.T + last.bias)
    assert (first.bias, second.bias) == (None, None)


def test_a_perceptron_without_batch_norm_is_its_formula() -> None:
    head = stirred(perceptron((5, 7, 3), batch_norm=False, negative_slope=0.1))
    x = torch.randn(8, 5, dtype=torch.float64)
    first, _, last = head
    h = x @ first.weight.T + first.bias
    h = torch.where(h > 0, h, 0.1 * h)
    torch.testing.assert_close(head(x), h @ last.weight.T + last.bias)


@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm_after_the_last_layer_is_asked_for(affine: bool) -> None:
    head = stirred(perceptron((5, 7, 3), last_batch_norm=True, last_affine=affine))
    x = torch.randn(8, 5, dtype=torch.float64)
    first, norm_1, _, last, norm_2 = head
    h = normalized(x @ first.weight.T, norm_1).clamp(min=0)
    torch.testing.assert_close(head(x), normalized(h @ last.weight.T, norm_2 if affine else None))
    assert last.bias is None
    assert norm_2.affine == affine


def test_a_perceptron_of_one_layer_is_linear() -> None:
    assert [type(layer) for layer in perceptron((5, 3))] == [nn.Linear]


def test_activations_leave_their_inputs_alone() -> None:
    for layer in itertools.chain(perceptron((2, 3, 1)), perceptron((2, 3, 1), negative_slope=0.1)):
        assert not getattr(layer, "inplace", False)


SHAPES = [(1, 8, 8), (3, 32, 32), (1, 28, 28), (3, 33, 17), (3, 5, 40), (3, 96, 96), (2, 3, 1)]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_decoder_paints_images_of_the_shape_in_0_to_1(shape: tuple[int, int, int]) -> None:
    decoder = Decoder(6, shape)
    embedding = 30 * torch.randn(4, 6)
    painted = decoder(embedding)
    assert painted.shape == (4, *shape)
    assert 0 <= painted.min() <= painted.max() <= 1


@pytest.mark.parametrize("shape", SHAPES)
def test_every_pixel_comes_from_the_embedding_of_its_image(shape: tuple[int, int, int]) -> None:
    decoder = Decoder(6, shape).eval()
    one, two = torch.randn(2, 1, 6)
    assert (decoder(one) != decoder(two)).double().mean() > 0.99
    torch.testing.assert_close(decoder(torch.cat([one, two])), torch.cat([decoder(one), decoder(two)]))


def test_large_images_start_from_a_small_map_too() -> None:
    decoder = Decoder(64, (3, 224, 224))
    assert decoder.start(torch.randn(1, 64)).shape == (1, 512, 4, 4)
    assert sum(p.numel() for p in decoder.parameters()) < 15e6


@pytest.mark.parametrize(
    ("size", "first"), [((8, 8), (4, 4)), ((32, 32), (4, 4)), ((28, 28), (4, 4)), ((16, 64), (4, 16))]
)
def test_the_first_map_has_at_most_4_pixels_on_its_shorter_side(size: tuple[int, int], first: tuple[int, int]) -> None:
    assert Decoder(6, (1, *size)).start(torch.randn(1, 6)).shape[2:] == first
