import errno
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from eke.engine.checkpoint import load_checkpoint, read_tensors, save_checkpoint
from eke.errors import CheckpointError, EkeError
from eke.models.ema import Ema

CPU = torch.device("cpu")


class Parts:
    def __init__(self) -> None:
        self.method = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
        self.average = Ema(self.method, 0.9)
        self.optimizer = torch.optim.SGD(self.method.parameters(), lr=0.1, momentum=0.9)

    def work(self) -> None:
        self.optimizer.zero_grad()
        self.method(torch.randn(4, 2)).square().sum().backward()
        self.optimizer.step()

    def named(self) -> dict[str, Any]:
        return {"method": self.method, "average": self.average, "optimizer": self.optimizer}

    def save(self, path: Path, step: int, fingerprint: str = "f") -> None:
        save_checkpoint(path, self.named(), step=step, fingerprint=fingerprint)

    def load(self, path: Path, fingerprint: str = "f") -> int:
        return load_checkpoint(path, self.named(), fingerprint=fingerprint, device=CPU)


def test_everything_comes_back(tmp_path: Path) -> None:
    parts, path = Parts(), tmp_path / "checkpoint.pt"
    parts.work()
    parts.save(path, 7)
    other = Parts()
    assert other.load(path) == 7
    torch.manual_seed(1)
    parts.work()
    torch.manual_seed(1)
    other.work()
    for a, b in zip(parts.method.state_dict().values(), other.method.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_a_full_disk_leaves_the_previous_checkpoint_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts, path = Parts(), tmp_path / "checkpoint.pt"
    parts.save(path, 1)

    def full(state: object, file: Path) -> None:
        file.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(EkeError, match="No space left on device.*Free some space"):
        parts.save(path, 2)
    assert Parts().load(path) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_a_real_limit_on_the_file_size_is_named(tmp_path: Path) -> None:
    """The kernel itself refuses here (RLIMIT_FSIZE), so that torch's own wrapping of the error is seen."""
    import subprocess
    import sys

    code = f"""
import resource, signal, sys, torch
from pathlib import Path
from eke.errors import EkeError
from eke.files import write_atomic
path = Path({str(tmp_path / "c.pt")!r})
write_atomic(path, lambda t: torch.save({{"a": torch.zeros(10)}}, t))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    write_atomic(path, lambda t: torch.save({{"a": torch.zeros(100_000)}}, t))
except EkeError as error:
    print(error)
print(torch.load(path, weights_only=True)["a"].shape)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Could not write" in done.stdout
    assert "torch.Size([10])" in done.stdout
    assert [p.name for p in tmp_path.iterdir()] == ["c.pt"]


def test_another_configuration_is_refused(tmp_path: Path) -> None:
    Parts().save(tmp_path / "c.pt", 1, "aaa")
    with pytest.raises(CheckpointError, match="another configuration \\(aaa, this one is bbb\\)"):
        Parts().load(tmp_path / "c.pt", "bbb")


class Exploit:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("executed",))


def test_pickled_code_is_refused_and_not_executed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, write in {
        "torch.pt": lambda path: torch.save({"step": Exploit()}, path),
        "plain.pkl": lambda path: path.write_bytes(pickle.dumps(Exploit(), protocol=2)),
    }.items():
        write(tmp_path / name)
        with pytest.raises(CheckpointError, match="never executes|damaged"):
            read_tensors(tmp_path / name, CPU)
    assert "executed" not in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04 cut short"])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "c.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="c.pt"):
        Parts().load(path)


def test_a_missing_and_a_foreign_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint"):
        Parts().load(tmp_path / "c.pt")
    torch.save({"epoch": 3}, tmp_path / "d.pt")
    with pytest.raises(CheckpointError, match="not a checkpoint of eke"):
        Parts().load(tmp_path / "d.pt")
