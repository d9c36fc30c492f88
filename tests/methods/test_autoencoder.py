import copy

import pytest
import torch
from tiny_problem import make_batch, make_method, make_sgd
from torch import Tensor


def images(step: int = 0) -> Tensor:
    return make_batch("autoencoder", step).u["weak"].pixels


def test_loss_and_explained_share_equal_a_loop_over_images() -> None:
    method, u = make_method("autoencoder"), images()
    other = copy.deepcopy(method)
    painted = other.decoder(other.network(u).embedding)
    loss = sum(((a - b) ** 2).mean().item() for a, b in zip(painted, u, strict=True)) / len(u)
    mean = sum(u) / len(u)
    variance = sum(((image - mean) ** 2).mean().item() for image in u) / len(u)
    result = method(make_batch("autoencoder", 0))
    assert result.loss.item() == pytest.approx(loss, abs=1e-12)
    assert result.terms["explained"].item() == pytest.approx(1 - loss / variance, abs=1e-9)


def test_the_mean_image_explains_nothing() -> None:
    method, u = make_method("autoencoder"), images()
    method.decoder = MeanImage(u)
    assert method(make_batch("autoencoder", 0)).terms["explained"].item() == pytest.approx(0, abs=1e-12)


class MeanImage(torch.nn.Module):
    """What a decoder ends as that is given nothing."""

    def __init__(self, u: Tensor) -> None:
        super().__init__()
        self.mean = torch.nn.Parameter(u.mean(0))

    def forward(self, embedding: Tensor) -> Tensor:
        return self.mean.expand(len(embedding), *self.mean.shape)


def test_equal_images_leave_the_explained_share_finite() -> None:
    method, batch = make_method("autoencoder"), make_batch("autoencoder", 0)
    batch.u["weak"].pixels.fill_(0.5)  # whose mean is exact
    result = method(batch)
    assert torch.isfinite(result.terms["explained"])
    assert torch.isfinite(result.loss)


def test_colors_come_to_be_painted_from_the_embedding() -> None:
    """The images differ in their color, which two numbers of the embedding can hold, and in noise."""
    method = make_method("autoencoder")
    optimizer, explained = make_sgd(method, lr=0.5), []
    for step in range(150):
        result = method(make_batch("autoencoder", step))
        optimizer.zero_grad()
        result.loss.backward()
        optimizer.step()
        explained.append(result.terms["explained"].item())
    assert sum(explained[-20:]) / 20 > 0.2
