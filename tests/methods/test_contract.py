"""What holds for every method."""

import io
from pathlib import Path

import pytest
import torch
from tiny_problem import (
    SELF_SUPERVISED,
    UNLABELED_WEIGHTS,
    WITH_LABELS,
    make_batch,
    make_method,
    make_sgd,
    moved,
    train,
)

import eke.methods
from eke.config import Options, parse
from eke.errors import ConfigError
from eke.methods import METHODS

NAMES = sorted(METHODS)
WITH_PSEUDO_LABELS = [name for name in WITH_LABELS if name not in {"supervised", "harmonize"}]


def test_every_file_is_registered() -> None:
    folder = Path(eke.methods.__file__).parent
    files = {path.stem for path in folder.glob("*.py")} - {"__init__", "contract", "recipes", "terms"}
    assert files == set(METHODS)
    for name, method in METHODS.items():
        assert method.__module__ == f"eke.methods.{name}"


@pytest.mark.parametrize("name", NAMES)
def test_every_option_has_a_sentence_a_default_and_a_range(name: str) -> None:
    config = METHODS[name].Config
    assert issubclass(config, Options)
    parse(config, {})
    for field, info in config.model_fields.items():
        assert info.description, field
        assert info.description.endswith("."), field
        if info.annotation is float:
            for wrong in (-1.0, float("nan")):
                with pytest.raises(ConfigError, match=field):
                    parse(config, {field: wrong})


@pytest.mark.parametrize("name", NAMES)
def test_every_docs_page_states_the_defaults_and_deviations(name: str) -> None:
    page = Path(__file__).parents[2].joinpath("docs", "methods", f"{name}.md").read_text()
    module = __import__(METHODS[name].__module__, fromlist=["__doc__"]).__doc__
    assert "Deviations" in page
    for field, info in METHODS[name].Config.model_fields.items():
        default = f"{info.default:.4g}" if isinstance(info.default, float) else str(info.default)
        assert f"| `method.{field}` | {default.lower()} | {info.description} |" in page
    numbers = [f"{n}. " for n in range(1, 10)]
    deviations, written = module.partition("Deviations")[2], page.partition("## Deviations")[2]
    assert [n for n in numbers if f"\n{n}" in deviations] == [n for n in numbers if f"\n{n}" in written]


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_falls_on_a_fixed_batch(name: str) -> None:
    method = make_method(name)
    optimizer = make_sgd(method, lr=0.02)
    batch = make_batch(name, 5)
    losses = []
    for _ in range(12):
        loss = method(batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("name", NAMES)
def test_a_run_resumes_bit_exactly_from_its_state_dict(name: str) -> None:
    whole = make_method(name)
    expected = train(whole, name, 0, 8, make_sgd(whole))

    stopped = make_method(name)
    optimizer = make_sgd(stopped)
    first = train(stopped, name, 0, 4, optimizer)
    file = io.BytesIO()
    torch.save({"method": stopped.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)

    resumed = make_method(name)
    torch.nn.init.normal_(resumed.network.body[0].weight)  # what is not loaded would differ
    resumed.load_state_dict(saved["method"])
    optimizer = make_sgd(resumed)
    optimizer.load_state_dict(saved["optimizer"])
    assert first + train(resumed, name, 4, 8, optimizer) == expected
    final, reached = whole.state_dict(), resumed.state_dict()
    assert all(torch.equal(final[key], reached[key]) for key in final)


@pytest.mark.parametrize("name", NAMES)
def test_every_trainable_parameter_gets_a_gradient(name: str) -> None:
    method = make_method(name)
    method(make_batch(name, 0)).loss.backward()
    for key, parameter in method.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, key
            assert parameter.grad.abs().sum() > 0, key
        else:
            assert parameter.grad is None, key


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("n_classes", "channels", "mu"), [(2, 1, 1), (2, 3, 3), (5, 1, 2)])
def test_any_number_of_classes_channels_and_images(name: str, n_classes: int, channels: int, mu: int) -> None:
    method = make_method(name, n_classes=n_classes, channels=channels, dtype=torch.float32)
    batch = make_batch(name, 0, B=4, mu=mu, n_classes=n_classes, channels=channels, dtype=torch.float32)
    result = method(batch)
    assert result.loss.shape == ()
    assert result.loss.dtype == torch.float32
    assert torch.isfinite(result.loss)
    assert all(term.shape == () and not term.requires_grad for term in result.terms.values())
    assert (name in SELF_SUPERVISED) != ("loss_x" in result.terms)


@pytest.mark.parametrize("name", NAMES)
def test_forward_depends_on_no_value(name: str) -> None:
    """On the meta device tensors have no values: a branch on one, or a shape that depends on one, raises.

    What passes here does not make the host wait for an accelerator.
    """
    method = make_method(name).to("meta")
    batch = moved(make_batch(name, 0), "meta")
    result = method(batch)
    result.loss.backward()
    assert result.loss.is_meta
    assert all(term.is_meta for term in result.terms.values())


@pytest.mark.parametrize("name", WITH_PSEUDO_LABELS)
def test_pseudo_labels_are_reported(name: str) -> None:
    pseudo = make_method(name)(make_batch(name, 0)).pseudo
    assert pseudo.label.shape == pseudo.mask.shape == (16,)
    assert pseudo.label.dtype == torch.int64
    assert pseudo.mask.dtype.is_floating_point
    assert 0 <= pseudo.mask.min() <= pseudo.mask.max() <= 1
    assert not pseudo.mask.requires_grad


@pytest.mark.parametrize("name", NAMES)
def test_modes_are_left_as_found(name: str) -> None:
    method = make_method(name)
    before = {key: module.training for key, module in method.named_modules() if "teacher" not in key}
    method(make_batch(name, 0))
    assert before == {key: module.training for key, module in method.named_modules() if "teacher" not in key}


@pytest.mark.parametrize("name", WITH_PSEUDO_LABELS)
def test_without_the_unlabeled_weight_a_method_is_supervised(name: str) -> None:
    """With batch norm in eval mode, where the unlabeled images cannot change the labeled ones' logits."""
    options = dict.fromkeys(UNLABELED_WEIGHTS.get(name, ("lambda_u",)), 0.0)
    if name == "mixmatch":
        options["alpha"] = 1e-4  # shares of 0 and 1 only, of which the larger is taken: nothing is mixed
    method, supervised = make_method(name, options).eval(), make_method("supervised").eval()
    batch = make_batch(name, 2)
    result, baseline = method(batch), supervised(batch)
    assert result.loss.item() == pytest.approx(baseline.loss.item(), abs=1e-12)
    result.loss.backward()
    baseline.loss.backward()
    for mine, theirs in zip(method.network.parameters(), supervised.network.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["fixmatch", "uda", "pseudo_label"])
def test_a_threshold_above_every_confidence_leaves_no_unlabeled_loss(name: str) -> None:
    result = make_method(name, {"tau": 1.0})(make_batch(name, 2))
    assert result.terms["loss_u"].item() == 0
    assert result.terms["mask_rate"].item() == 0
    assert result.pseudo.mask.sum() == 0


@pytest.mark.parametrize("name", NAMES)
def test_the_first_loss_under_bfloat16_autocast_is_close_and_float32(name: str) -> None:
    batch = make_batch(name, 0, dtype=torch.float32)
    exact = make_method(name, dtype=torch.float32)(batch).loss
    with torch.autocast("cpu", torch.bfloat16):
        rounded = make_method(name, dtype=torch.float32)(batch).loss
    assert rounded.dtype == torch.float32
    assert rounded.item() == pytest.approx(exact.item(), rel=0.15, abs=0.02)  # a mean cosine starts near 0
