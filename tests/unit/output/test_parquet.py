"""Rows as a Parquet file: no more of them at a time than memory has room for."""

import tracemalloc
from pathlib import Path

import pytest

from crawler.output.parquet import GROUP_CHARS, GROUP_ROWS, write_parquet
from crawler.output.results import FIELDS

pytest.importorskip("pyarrow")


@pytest.mark.parametrize(("location_chars", "rows", "groups"), [(10, GROUP_ROWS + 1, 2), (GROUP_CHARS // 8, 20, 3), (1, 0, 0)])
def test_a_row_group_ends_after_so_many_rows_or_so_much_text(tmp_path: Path, location_chars: int, rows: int, groups: int) -> None:
    """Each page of a hostile host may redirect to 32 KiB."""
    from pyarrow.parquet import ParquetFile

    row = dict.fromkeys(FIELDS) | {"fetched_at": "2026-11-23T10:00:00.123Z", "location": "x" * location_chars}
    to = tmp_path / "rows.parquet"
    assert write_parquet((row | {"attempt": number} for number in range(rows)), to) == rows
    with ParquetFile(to) as file:
        assert file.metadata.num_row_groups == groups
        assert file.read(["attempt"]).column(0).to_pylist() == list(range(rows))


def test_what_a_list_says_besides_is_held_as_text(tmp_path: Path) -> None:
    """A kilobyte of empty lists takes twenty as objects."""
    row = dict.fromkeys(FIELDS) | {"fetched_at": "2026-11-23T10:00:00.123Z"}
    assert write_parquet([row], tmp_path / "first.parquet") == 1  # pyarrow is loaded
    tracemalloc.start()
    try:
        rows = ({**row, "extra": {"a": [[] for _ in range(330)]}} for _ in range(5_000))
        assert write_parquet(rows, tmp_path / "rows.parquet") == 5_000
        assert tracemalloc.get_traced_memory()[1] < 24 << 20
    finally:
        tracemalloc.stop()
