import errno
import pickle
from pathlib import Path

import pytest
import torch

from eke.engine.model_files import ModelCard, load_model, new_network, save_model
from eke.errors import CheckpointError, EkeError
from eke.models.network import ModelOptions

CPU = torch.device("cpu")
CARD = ModelCard(
    model=ModelOptions(name="small"),
    classes=("cat", "dog"),
    channels=1,
    size=(8, 8),
    fit="crop",
    mean=(0.4,),
    std=(0.2,),
)


def test_a_saved_model_computes_the_same(tmp_path: Path) -> None:
    network = new_network(CARD, seed=3).eval()
    save_model(tmp_path, network, CARD)
    loaded, card = load_model(tmp_path, CPU)
    images = torch.rand(2, 1, 8, 8)
    assert card == CARD
    assert torch.equal(loaded(images).logits, network(images).logits)
    assert not loaded.training


def test_weights_with_code_are_refused_and_not_executed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Exploit:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (print, ("executed",))

    save_model(tmp_path, new_network(CARD, seed=0), CARD)
    (tmp_path / "weights.safetensors").write_bytes(pickle.dumps(Exploit(), protocol=2))
    with pytest.raises(CheckpointError, match="Only safetensors files are read"):
        load_model(tmp_path, CPU)
    assert "executed" not in capsys.readouterr().out


def test_missing_damaged_and_foreign_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="model.json"):
        load_model(tmp_path, CPU)
    save_model(tmp_path, new_network(CARD, seed=0), CARD)
    (tmp_path / "model.json").write_text("{")
    with pytest.raises(CheckpointError, match="damaged"):
        load_model(tmp_path, CPU)
    save_model(tmp_path, new_network(CARD, seed=0), CARD.model_copy(update={"classes": ("a", "b", "c")}))
    with pytest.raises(CheckpointError, match="do not fit its card"):
        load_model(tmp_path, CPU)


def test_a_full_disk_leaves_the_previous_model_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = new_network(CARD, seed=0)
    save_model(tmp_path, network, CARD)

    def full(path: Path, content: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(EkeError, match="Free some space"):
        patch.setattr(Path, "write_bytes", full)
        save_model(tmp_path, new_network(CARD, seed=1), CARD)
    loaded, _ = load_model(tmp_path, CPU)
    assert torch.equal(loaded.head.weight, network.head.weight)
