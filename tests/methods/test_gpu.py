"""On an accelerator: forward never waits for the device, repeats bit by bit, and equals the CPU."""

from collections.abc import Iterator

import pytest
import torch
from tiny_problem import make_batch, make_method, moved
from torch import Tensor

from eke.methods import METHODS

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture
def _deterministic(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def losses_and_state(name: str, device: str) -> tuple[list[float], dict[str, Tensor]]:
    method = make_method(name).to(device)
    losses = []
    for step in range(3):
        batch = make_batch(name, step)
        loss = method(moved(batch, device)).loss
        method.zero_grad()
        loss.backward()
        with torch.no_grad():
            for parameter in method.network.parameters():
                parameter.sub_(0.05 * parameter.grad)
        losses.append(loss.item())
    return losses, {key: value.cpu() for key, value in method.state_dict().items()}


@pytest.mark.parametrize("name", sorted(METHODS))
def test_forward_never_waits_for_the_device(name: str) -> None:
    method = make_method(name).cuda()
    batch = moved(make_batch(name, 1), "cuda")
    method(batch).loss.backward()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        method(batch).loss.backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", sorted(METHODS))
@pytest.mark.usefixtures("_deterministic")
def test_a_run_repeats_bit_by_bit_and_equals_the_cpu(name: str) -> None:
    losses, state = losses_and_state(name, "cuda")
    again, state_again = losses_and_state(name, "cuda")
    assert losses == again
    assert all(torch.equal(state[key], state_again[key]) for key in state)
    on_cpu, state_on_cpu = losses_and_state(name, "cpu")
    assert losses == pytest.approx(on_cpu, abs=1e-9)
    for key, value in state_on_cpu.items():
        torch.testing.assert_close(state[key], value, rtol=0, atol=1e-6, msg=key)
