"""Bodies as files: a name stands for the bytes that it is the digest of, whoever writes there as well."""

import hashlib
import io
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from crawler.output.export import clear, to_file

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


def test_one_that_begins_takes_no_file_of_another_for_one_that_was_left(tmp_path: Path) -> None:
    """It was deleted before it had got its name, and the other export ended with: No such file or directory."""
    clearing = threading.Event()

    def begin() -> None:
        while not clearing.is_set():
            clear(tmp_path)

    with ThreadPoolExecutor() as others:
        others.submit(begin)
        try:
            made = [to_file(ROW, io.BytesIO(b"%d" % number), tmp_path) for number in range(1000)]
        finally:
            clearing.set()
    assert all((tmp_path / one["path"]).exists() for one in made) and not list(tmp_path.glob(".*"))
