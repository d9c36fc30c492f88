from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from eke.engine.predict import BLOCK, Predictions, embed, predict_probs
from eke.errors import CheckpointError
from eke.models.network import Network

CPU = torch.device("cpu")


class Body(nn.Module):
    """Mean of each image, through batch norm and dropout, which differ between training and evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.dropout = nn.BatchNorm1d(1), nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.norm(x.mean((1, 2, 3))[:, None]))


@pytest.fixture
def network() -> Network:
    return Network(Body(), nn.Linear(1, 3), width=1)


PIXELS = torch.randint(0, 256, (2 * BLOCK + 7, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def read(rows: object) -> torch.Tensor:
    return PIXELS[torch.as_tensor(rows)]


def test_probabilities_are_those_of_evaluation_mode_whatever_the_block(network: Network) -> None:
    network.train()
    probs = predict_probs(network, read, range(len(PIXELS)), CPU)
    network.eval()
    expected = network(PIXELS.float() / 255).logits.softmax(1)
    assert torch.allclose(probs, expected, atol=1e-6)
    assert torch.equal(predict_probs(network, read, range(3), CPU), predict_probs(network, read, [0, 1, 2], CPU))


@pytest.mark.parametrize("n", [5, BLOCK, 2 * BLOCK + 7])
def test_embeddings_are_what_the_head_reads_in_evaluation_mode(network: Network, n: int) -> None:
    network.train()
    network.body.norm.running_mean.fill_(0.3)
    network.dropout.p = 0.9  # between embedding and head
    embeddings = embed(network, read, range(n), CPU)
    assert embeddings.shape == (n, 1)
    assert (embeddings.dtype, embeddings.device) == (torch.float32, CPU)
    network.eval()
    images = PIXELS[:n].float() / 255
    assert torch.allclose(embeddings, network.body(images), atol=1e-6)
    probs = predict_probs(network, read, range(n), CPU)
    assert torch.allclose(network.head(embeddings).softmax(1), probs, atol=1e-6)


@pytest.mark.parametrize("through", [predict_probs, embed])
def test_the_network_is_left_as_found(network: Network, through: Callable[..., torch.Tensor]) -> None:
    network.train()
    network.body.norm.eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    through(network, read, range(5), CPU)
    assert network.training
    assert network.body.dropout.training
    assert not network.body.norm.training
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("through", [predict_probs, embed])
def test_progress_counts_images_and_not_padding(network: Network, through: Callable[..., torch.Tensor]) -> None:
    done: list[int] = []
    assert len(through(network, read, range(BLOCK + 3), CPU, done.append)) == BLOCK + 3
    assert done == [BLOCK, 3]


@pytest.mark.parametrize("through", [predict_probs, embed])
def test_every_forward_of_many_images_has_the_same_size(network: Network, through: Callable[..., torch.Tensor]) -> None:
    sizes: list[int] = []
    network.register_forward_pre_hook(lambda module, images: sizes.append(len(images[0])))
    through(network, read, range(2 * BLOCK + 7), CPU)
    assert sizes == [BLOCK] * 3


def test_predictions_come_back_and_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "test.npz"
    table = Predictions(np.array(["a", "b"]), np.array([0, -1]), np.array([[0.5, 0.5], [1, 0]], np.float32))
    table.save(path)
    for mine, theirs in zip(Predictions.load(path), table, strict=True):
        assert np.array_equal(mine, theirs)
    path.write_bytes(b"PK cut")
    with pytest.raises(CheckpointError, match=r"test.npz"):
        Predictions.load(path)
    with pytest.raises(CheckpointError, match=r"missing.npz"):
        Predictions.load(tmp_path / "missing.npz")
