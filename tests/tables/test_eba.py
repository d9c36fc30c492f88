"""The tables of explanation-based attention: who is asked on what, equal rounds, and what the claims are about."""

from pathlib import Path

import pytest

from eke.data.sources import open_images
from eke.errors import ConfigError
from eke.progress import silent
from eke.tables import eba_mnist
from eke.tables.eba import epochs
from eke.tables.reproduce import load_table, reproduce
from eke.tasks.grid_data import read_known
from eke.tasks.grid_table import Table


@pytest.fixture(scope="module")
def mnist(tmp_path_factory: pytest.TempPathFactory, shared_data: Path) -> Table:
    return load_table("eba-mnist", "cpu", shared_data, tmp_path_factory.mktemp("mnist"))


def test_rows_of_the_small_scale(mnist: Table) -> None:
    assert len(mnist.seeds) == 3
    assert [section.columns for section in mnist.sections] == [["250", "500", "750", "1000", "1250"]] * 3
    for section, n in zip(mnist.sections, (10_000, 5_610, 5_151), strict=True):
        *strategies, whole = section.rows
        assert [row.name for row in strategies] == ["random", *eba_mnist.STRATEGIES]
        assert whole.name == f"all {n:,} labels"
        firsts = {tuple(cell.identity for cell in row.figures["250"].cells) for row in strategies}
        assert len(firsts) == 1
        for row in strategies:
            for number, column in enumerate(section.columns):
                for seed, cell in enumerate(row.figures[column].cells):
                    assert cell.seed == seed
                    assert [request.work.strategy for request in cell.requests] == [row.name] * number
                    assert {(request.work.n, request.work.n_passes) for request in cell.requests} <= {(250, 8)}
            options = row.figures["1250"].cells[0].work.options(row.figures["1250"].cells[0].data)
            assert (options.model.name, options.model.dropout) == ("lenet", None)
            assert (options.batch.labeled, options.steps, options.optim.lr) == (25, 600, 0.05)
            assert (options.views, options.evaluate.keep) == ({"weak": "none"}, "last")
        data = whole.figures["250"].cells[0].data
        assert set(data.labels.values()) == {data.truth}
        assert len(read_known(data.truth)) == n
        assert open_images(data.source).split.count("val") == 1_000
        assert len(open_images(data.test)) == 10_000


def test_claims_are_about_the_rows_and_imbalances_that_they_name(mnist: Table) -> None:
    claims = {claim.sentence: claim for claim in mnist.claims}
    curves = {
        (ratio, row.name): [row.figures[column] for column in section.columns]
        for ratio, section in zip((1, 10, 100), mnist.sections, strict=True)
        for row in section.rows
    }
    assert len(claims) == 9
    (adds,) = claims["Attention adds to it (another point)"].differences
    assert adds.plus == [*curves[1, "eba:ig@L90"][1:-1], *curves[1, "eba:ig@L90"][1:]]
    assert adds.minus == [*curves[1, "eba:none@L20"][1:-1], *curves[1, "eba:none@L20"][1:]]
    assert adds.n == 8
    sentence = "At the highest imbalance the variation ratio beats it (by less than 1 point)"
    (reverse,) = claims[sentence].differences
    assert (reverse.plus[0], reverse.minus[0]) == (curves[100, "varratio_mc"][1], curves[100, "eba:ig@L90"][1])
    (growth,) = claims["Imbalance makes the lead of attention larger"].differences
    half = len(growth.plus) // 2
    assert (growth.plus[0], growth.plus[half]) == (curves[100, "eba:ig@L90"][1], curves[1, "random"][1])
    assert (growth.minus[0], growth.minus[half]) == (curves[100, "random"][1], curves[1, "eba:ig@L90"][1])
    assert growth.n == 8


def test_steps_are_passes_over_the_labels_at_the_papers_scale() -> None:
    assert [epochs(50)(n) for n in (250, 2_500)] == [500, 5_000]
    assert epochs(35)(2_510) == 35 * 101


@pytest.mark.parametrize("name", ["eba-mnist", "eba-svhn"])
def test_images_must_be_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--data FOLDER"):
        load_table(name, "cpu", None, tmp_path)


def test_eight_layers_on_color_images_under_their_own_name(tmp_path: Path, shared_data: Path) -> None:
    table = load_table("eba-svhn", "cpu", shared_data, tmp_path)
    assert "cifar10" in table.title
    assert "svhn" not in table.title.lower()
    assert [len(read_known(s.rows[0].figures["250"].cells[0].data.truth)) for s in table.sections] == [4_000, 2_020]
    cell = table.sections[0].rows[0].figures["250"].cells[0]
    assert cell.work.options(cell.data).model.name == "cnn8"
    assert {row.name.partition("@")[2] for row in table.sections[0].rows[:-1]} == {"", "L256", "L384"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["eba-mnist", "eba-svhn"])
def test_smoke_scale(name: str, tmp_path: Path) -> None:
    result = reproduce(name, "smoke", None, tmp_path, 1, silent)
    assert result["failures"] == []
    for section in result["sections"]:
        assert all(figure["ours"] for row in section["rows"] for figure in row["figures"].values())
    assert (tmp_path / f"{name}-smoke.html").exists()
