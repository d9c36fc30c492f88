"""The Python face: where a loaded run looks, and what it refuses."""

from pathlib import Path

import numpy as np
import pytest
import torch

import eke
from eke.api import Run
from eke.errors import ConfigError
from eke.tasks.attention_maps import attention_maps


@pytest.fixture(scope="module")
def run(finished_run: Path) -> Run:
    return eke.load(finished_run)


@pytest.fixture(scope="module")
def images(run: Run) -> torch.Tensor:
    return run.read("digits")[:19]


def test_maps_are_of_the_predicted_class_and_the_deepest_layer(run: Run, images: torch.Tensor) -> None:
    maps = run.attention_maps(images)
    predicted = torch.from_numpy(run.predict_proba(images).argmax(1))
    (expected,) = attention_maps(run.network, images, predicted, ("gradcam",), ("block4",)).values()
    np.testing.assert_array_equal(maps, expected.numpy())
    assert maps.shape[0] == 19


def test_maps_of_chosen_classes_layers_and_kinds(run: Run, images: torch.Tensor) -> None:
    chosen = [k % 10 for k in range(19)]
    maps = run.attention_maps(images, "layercam", "block2", chosen)
    for i in (0, 15, 16, 18):  # on both sides of a block's end
        (alone,) = attention_maps(
            run.network, images[i : i + 1], torch.tensor(chosen[i : i + 1]), ("layercam",), ("block2",)
        ).values()
        np.testing.assert_allclose(maps[i], alone[0].numpy(), rtol=1e-3, atol=1e-5 * float(alone.abs().max()))
    assert run.attention_maps(images, "saliency").shape == (19, *run.card.size)


def test_what_cannot_be_explained_is_refused(run: Run, images: torch.Tensor) -> None:
    with pytest.raises(ConfigError, match=r"The images are \(1, 9, 8\), and this network reads \(1, 8, 8\).*`read`"):
        run.attention_maps(torch.zeros(2, 1, 9, 8, dtype=torch.uint8))
    for k in (10, -1):
        with pytest.raises(ConfigError, match=f"There is no class {k}: the network knows 10"):
            run.attention_maps(images, classes=[0] * 18 + [k])
    with pytest.raises(ConfigError, match="There are 2 classes for 19 images"):
        run.attention_maps(images, classes=[0, 1])
    with pytest.raises(ConfigError, match="no map 'gradcamm'. Did you mean 'gradcam'"):
        run.attention_maps(images, "gradcamm")
    with pytest.raises(ConfigError, match="no layer 'block44'. Did you mean"):
        run.attention_maps(images, layer="block44")
    with pytest.raises(ConfigError, match="maps of pixels, which read no layer"):
        run.attention_maps(images, "saliency", "block2")
