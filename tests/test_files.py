import json
from pathlib import Path

import pytest

from eke.errors import EkeError
from eke.files import write_atomic, write_json, write_text


def test_a_reader_meets_the_old_file_or_the_new_one_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with path.open(encoding="utf-8") as reader:
        write_text(path, "new and longer")
        assert reader.read() == "old"
    assert path.read_text(encoding="utf-8") == "new and longer"


def test_a_writer_that_dies_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def dies(temporary: Path) -> None:
        temporary.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomic(path, dies)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_folders_are_made_and_a_folder_that_cannot_be_is_named(tmp_path: Path) -> None:
    write_json(tmp_path / "a" / "b" / "c.json", {"é": 1})
    assert json.loads((tmp_path / "a" / "b" / "c.json").read_text(encoding="utf-8")) == {"é": 1}
    (tmp_path / "file").write_text("")
    with pytest.raises(EkeError, match="file"):
        write_json(tmp_path / "file" / "c.json", {})


def test_json_has_no_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", float("nan"))
    assert list(tmp_path.iterdir()) == []
