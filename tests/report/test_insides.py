import numpy as np
import pytest
from PIL import Image

from eke.report.charts import Chart
from eke.report.content import EmbeddingMap, LayerReport, LayerRow
from eke.report.insides import embedding_blocks, layer_sheet
from eke.report.pictures import heat_picture
from eke.report.projection import Projection
from eke.report.sheet import write_layer_sheet

VIRIDIS_ENDS = ([68, 1, 84], [253, 231, 36])


def layer_report(n_rows=4, n_channels=8, **changes):
    maps = np.linspace(0, 1, n_channels * 16, dtype=np.float32).reshape(n_channels, 4, 4)
    rows = [LayerRow(f"layer{i}", (4, 4), 32, list(range(n_channels)), maps) for i in range(n_rows)]
    values = {"image": np.full((8, 8), 255, np.uint8), "path": "$x_1$ 黑猫.png", "true": "cat", "predicted": "dog"}
    return LayerReport(**(values | changes), rows=rows)


def shown_map(k, explained=(0.5, 0.2), n=60):
    labels = np.arange(n) % k
    points = np.random.default_rng(0).normal(size=(n, 2))
    return EmbeddingMap(Projection(points, "PCA" if explained else "UMAP", explained), labels, labels)


def test_a_layer_is_a_row_and_a_channel_a_picture():
    sheet = layer_sheet(layer_report())
    assert sheet.caption == "$x_1$ 黑猫.png, labeled cat, taken for dog"
    assert [name for name, _ in sheet.rows][:2] == ["the image", "layer0, 4×4, 32 channels"]
    assert [len(pictures) for _, pictures in sheet.rows] == [1, 8, 8, 8, 8]
    assert sheet.rows[1][1][3].lines == ("channel 3",)
    assert sheet.rows[2][1][3].alt == "layer1, channel 3"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"true": None}, "$x_1$ 黑猫.png, taken for dog"),
        ({"predicted": None}, "$x_1$ 黑猫.png, labeled cat"),
        ({"true": None, "predicted": None}, "$x_1$ 黑猫.png"),
    ],
)
def test_what_is_not_known_is_not_said(changes, words):
    assert layer_sheet(layer_report(**changes)).caption == words


def test_dark_is_low_and_bright_is_high():
    picture = heat_picture(np.array([[0.0, 1.0]], np.float32))
    assert picture.dtype == np.uint8
    assert picture.tolist() == [[*VIRIDIS_ENDS]]


@pytest.mark.parametrize(("n_rows", "n_channels"), [(4, 8), (1, 1), (1, 20)])
@pytest.mark.parametrize("name", ["$x_1$ 黑猫.png", "a folder of images/" * 20])
def test_the_sheet_is_a_picture_that_holds_every_map(tmp_path, n_rows, n_channels, name):
    path = tmp_path / "sheet.png"
    write_layer_sheet(path, layer_report(n_rows, n_channels, path=name))
    with Image.open(path) as picture:
        pixels = np.array(picture.convert("RGB"))
    assert [file.name for file in tmp_path.iterdir()] == ["sheet.png"]
    # the last pixel of the last map is the brightest, in each row
    brightest = (pixels == VIRIDIS_ENDS[1]).all(2)
    tops = np.flatnonzero(brightest.any(1) & ~np.roll(brightest.any(1), 1))
    assert len(tops) == n_rows
    assert (pixels[-1] == 255).all()
    assert (pixels[:, -1] == 255).all()


def test_six_classes_are_all_colored_and_of_more_the_most_confused():
    confusion = np.diag([10] * 9)
    confusion[2, 5] = confusion[7, 8] = 4
    confusion[0, 1] = 3  # a sixth color would hold them, but not a fifth
    text, chart = embedding_blocks(shown_map(6), confusion[:6, :6], list("abcdef"), "test")
    assert isinstance(chart, Chart)
    assert [key.name for key in chart.keys] == list("abcdef")
    assert "In color" not in text.text
    text, chart = embedding_blocks(shown_map(9), confusion, list("abcdefghi"), "test")
    assert [(key.name, key.series) for key in chart.keys] == [
        ("c", 1), ("f", 2), ("h", 3), ("i", 4), ("the other 5 classes", 0)
    ]  # fmt: skip
    assert "In color are the classes that are most often confused" in text.text


def test_without_a_confusion_nothing_is_colored_and_nothing_said_of_it():
    text, chart = embedding_blocks(shown_map(9), np.diag([10] * 9), list("abcdefghi"), "test")
    assert [key.name for key in chart.keys] == ["the other 9 classes"]
    assert "In color" not in text.text


def test_how_the_map_was_made_is_said():
    text, _ = embedding_blocks(shown_map(3), np.diag([20] * 3), list("abc"), "validation")
    assert "an image, 60 validation images;" in text.text
    assert "70.0 % of the variance (50.0 % and 20.0 %)" in text.text
    text, chart = embedding_blocks(shown_map(3, None), np.diag([200] * 3), list("abc"), "test")
    assert "a sample of 60 of 600 test images" in text.text
    assert "(UMAP)" in text.text
    assert "variance" not in text.text
    assert chart.title == "Embeddings of the test images (UMAP)"
