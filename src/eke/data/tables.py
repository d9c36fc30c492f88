"""Tables: CSV, TSV and JSONL files of cells, and Parquet files of cells or of whole images."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from eke.data.contents import ParquetContents
from eke.data.images import Word
from eke.data.rows import Rows, as_word, as_words, known_split, own_groups
from eke.data.trees import Stamp
from eke.errors import DataError, did_you_mean

TABLE_SUFFIXES = frozenset({".csv", ".tsv", ".jsonl", ".parquet"})
PATH_COLUMNS = ("path", "file", "filename", "file_name")

Table = Mapping[str, Sequence[Any]]
"""Column name -> cells."""


def is_table(name: str) -> bool:
    """Tell by its ending whether a file is a table."""
    return PurePosixPath(name).suffix.lower() in TABLE_SUFFIXES


def read_table(content: bytes, name: str) -> Table:
    """Read a table of cells.

    Args:
        content: the file.
        name: its name: the ending decides how it is read; CSV may use , ; or tab.

    Raises:
        DataError: it is damaged, has no header, or a row has more cells than the header.
    """
    suffix = PurePosixPath(name).suffix.lower()
    if suffix == ".parquet":
        return _parquet_cells(content, name)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{name} is not UTF-8 text (byte {error.start}). Save it as UTF-8.") from None
    return _from_jsonl(text, name) if suffix == ".jsonl" else _from_csv(text, name)


def _from_csv(text: str, name: str) -> Table:
    lines = text.splitlines()
    header = lines[0] if lines else ""
    delimiter = max(",;\t", key=header.count)
    cells: list[list[str]] = []
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        columns = [word.strip().lower() for word in next(reader, [])]
        for row in reader:
            if len(row) > len(columns):
                raise DataError(
                    f"{name}, line {reader.line_num}: {len(row)} cells under {len(columns)} columns. "
                    f"Put cells that hold {delimiter!r} in double quotes."
                )
            if row:
                cells.append(row + [""] * (len(columns) - len(row)))
    except csv.Error as error:
        raise DataError(f"{name} cannot be read as a table: {error}. Check its quotes.") from None
    if not columns:
        raise DataError(f"{name} is empty. Its first line must name the columns, for example path,label.")
    return {column: [row[place] for row in cells] for place, column in enumerate(columns)}


def _from_jsonl(text: str, name: str) -> Table:
    entries: list[dict[str, Any]] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except ValueError as error:
            raise DataError(f"{name}, line {number} is not JSON: {error}.") from None
        if not isinstance(entry, dict):
            raise DataError(f'{name}, line {number} must look like {{"path": ..., "label": ...}}, not {line[:40]!r}.')
        entries.append({key.lower(): value for key, value in entry.items()})
    columns = dict.fromkeys(key for entry in entries for key in entry)
    return {column: [entry.get(column) for entry in entries] for column in columns}


def _open_parquet(file: Path | bytes, name: str) -> Any:
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.ParquetFile(io.BytesIO(file) if isinstance(file, bytes) else file)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{name} cannot be read as Parquet: {error}. Write or download it again.") from None


def _parquet_cells(file: Path | bytes, name: str) -> Table:
    table = _open_parquet(file, name)
    cells: dict[str, list[Any]] = table.read().to_pydict()
    return {column.lower(): values for column, values in cells.items()}


def column_of(table: Table, wanted: Sequence[str], name: str) -> Sequence[Any]:
    """Return the first of the wanted columns that the table has.

    Raises:
        DataError: it has none of them.
    """
    for column in wanted:
        if column in table:
            return table[column]
    raise DataError(
        f"{name} has no column {wanted[0]!r}. {did_you_mean(wanted[0], table) if table else 'It is empty.'}"
    )


def split_and_groups(table: Table, paths: Sequence[str], name: str) -> tuple[list[str] | None, list[str] | None]:
    """Return the columns `split` and `group`, None where they are missing or empty."""
    split = [known_split(word, name) for word in table.get("split", ())]
    groups = [as_word(word) for word in table.get("group", ())]
    return (split if any(split) else None), (own_groups(groups, paths) if groups else None)


def image_column(file: Path | bytes, name: str) -> str | None:
    """Return the dotted name of the column that holds encoded images, None where a Parquet file has none."""
    import pyarrow as pa

    for column in _open_parquet(file, name).schema_arrow:
        kind = column.type
        if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            return str(column.name)
        if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            return f"{column.name}.bytes"
    return None


def image_parquet(file: Path | bytes, name: str, column: str, stamp: Stamp) -> Rows:
    """Read a Parquet file that holds images, as the Hugging Face hub has them.

    Args:
        file: path, or the bytes of the file.
        name: its readable name; row 17 is called `name#17`.
        column: dotted name of the column of encoded images.
        stamp: size and time of the file.

    Raises:
        DataError: a label is outside the class names that the file declares.
    """
    table = _open_parquet(file, name)
    schema = table.schema_arrow
    features = _features(schema.metadata or {})
    declared = {key: value["names"] for key, value in features.items() if "names" in value}
    ordinary = [key for key in ("label", "labels") if key in schema.names]
    label = ordinary[0] if ordinary else next(iter(declared)) if len(declared) == 1 else "label"
    wanted = [key for key in (label, "split", "group") if key in schema.names]
    n = table.metadata.num_rows
    cells: dict[str, list[Any]] = table.read(columns=wanted).to_pydict() if wanted else {}
    paths = [f"{name}#{row}" for row in range(n)]
    names = declared.get(label)
    values = cells.get(label, [None] * n)
    words: list[Word]
    if label in schema.names and _is_list(schema.field(label).type):
        flat = [each for value in values if value is not None for each in value]
        spelled = dict(zip(flat, map(as_word, flat) if names is None else _named(flat, names, name), strict=True))
        words = ["" if value is None else as_words([spelled[each] for each in value]) for value in values]
    else:
        words = [as_word(value) for value in values] if names is None else [*_named(values, names, name)]
    split, groups = split_and_groups(cells, paths, name)
    contents = ParquetContents(file, column)
    return Rows(contents, paths, words, [stamp] * n, groups, split, set(names or ()))


def _is_list(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _features(metadata: Mapping[bytes, bytes]) -> dict[str, Any]:
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    except (ValueError, AttributeError):
        return {}
    kinds = {key: value for key, value in features.items() if isinstance(value, dict)}
    return {key: value.get("feature", value) for key, value in kinds.items()}  # of a list: what it is a list of


def _named(values: Sequence[Any], names: Sequence[str], file: str) -> list[str]:
    outside = {value for value in set(values) if value is not None and not -1 <= value < len(names)}
    if outside:
        raise DataError(
            f"{file} has the label {min(outside)}, but declares {len(names)} classes. Correct its metadata."
        )
    return ["" if value is None or value == -1 else names[value] for value in values]
