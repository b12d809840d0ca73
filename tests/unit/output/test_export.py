"""Bodies as files: a name stands for the bytes that it is the digest of, whoever writes there as well."""

import hashlib
import io
from pathlib import Path

from crawler.output.export import to_file

ROW = {"mime": "text/plain"}


class Interrupted(io.BytesIO):
    """Before its second piece somebody else writes a body to the same directory."""

    def __init__(self, data: bytes, directory: Path) -> None:
        super().__init__(data)
        self._directory = directory

    def read(self, size: int | None = -1, /) -> bytes:
        if self.tell():
            to_file(ROW, io.BytesIO(b"another"), self._directory)
        return super().read(size)


def test_two_that_write_to_one_directory_do_not_write_one_file(tmp_path: Path) -> None:
    """Their process ids may be the same, where each is in a container of its own."""
    made = to_file(ROW, Interrupted(b"one" * 100_000, tmp_path), tmp_path)
    assert hashlib.sha256((tmp_path / made["path"]).read_bytes()).hexdigest() == Path(made["path"]).stem
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 2
