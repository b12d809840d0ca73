"""Keep nothing: for link checks and benchmarks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from crawler.core.model import Done, Lease, Mark


class DiscardArchive:
    def append(self, lease: Lease, done: Done) -> None:
        return None

    def sync(self) -> dict[str, Mark]:
        return {}

    def committed(self) -> None: ...

    def rewind(self, marks: Mapping[str, Mark]) -> list[str]:
        return []

    def cut(self, marks: Mapping[str, Mark]) -> None: ...

    def retire(self, files: Iterable[str]) -> None: ...

    def roll(self) -> None: ...

    def close(self) -> None: ...
