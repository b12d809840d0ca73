"""How a frontier is divided among processes: ``parts.toml``, and where each part keeps its store.

Invariants: what stands in the file says who owns which host. It is divided anew only while nobody crawls, and a division that
was begun (``moving.toml``) is ended before anything else is done.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any, Final

from msgspec import Struct

from crawler.core.domains import domain_of
from crawler.core.durable import length_of, make_dir, rename, storing, sync_file
from crawler.core.errors import ConfigError, StorageError
from crawler.core.keys import SLOTS, GroupOf, Share, divided

FILE_NAME: Final = "parts.toml"
MOVING_NAME: Final = "moving.toml"
"""The division that is to be, while hosts are moved."""
PARTS_MAX: Final = 64


class Division(Struct, frozen=True):
    """``owners``: as ``Share.owners``; ``by_domain``: all hosts of a domain have one owner."""

    parts: int
    owners: bytes
    secret: int
    by_domain: bool
    generation: int = 0
    """How often the frontier was divided anew."""

    @property
    def group_of(self) -> GroupOf | None:
        return domain_of if self.by_domain else None

    def share(self, part: int) -> Share:
        return Share(part, self.owners, self.secret, self.group_of)

    def shares(self) -> list[Share]:
        """Of all parts."""
        return [self.share(part) for part in range(self.parts)]


def store_of(path: Path, part: int) -> Path:
    """Where a part keeps its store, below the ``path`` of the whole."""
    return path / f"part-{part:02d}"


def stores_of(path: Path, division: Division | None) -> dict[Path, tuple[int, ...]]:
    """The stores, and the slots of each."""
    if division is None or division.parts == 1:
        return {path: tuple(range(SLOTS))}
    return {
        store_of(path, part): tuple(slot for slot in range(SLOTS) if division.owners[slot] == part)
        for part in range(division.parts)
    }


def division_at(path: Path, name: str = FILE_NAME) -> Division | None:
    """None: it is not divided. StorageError, ``final``: the file is damaged."""
    file = path / name
    table = table_of(file)
    return None if table is None else _division(file, table)


def table_of(file: Path) -> dict[str, Any] | None:
    """What a TOML file of the frontier says; None: there is none. StorageError, ``final``: it is damaged."""
    with storing(file):
        if not file.exists():
            return None
    import tomllib  # not needed for a whole crawl

    try:
        with storing(file):
            return tomllib.loads(file.read_text())
    except ValueError as error:
        raise StorageError(f"{file}: damaged: {error}", final=True) from error


def begin(path: Path, parts: int, *, by_domain: bool) -> Division:
    """Divide a frontier in which there is nothing."""
    division = Division(parts, divided(parts), secrets.randbits(64), by_domain)
    write(path / FILE_NAME, division)
    return division


def is_empty(path: Path) -> bool:
    """Whether there is no frontier yet."""
    return length_of(path / "CURRENT") < 0 and division_at(path) is None and moving_at(path) is None


def moving_at(path: Path) -> Division | None:
    """The division that was begun, and perhaps not ended. One part: it is to be whole again."""
    return division_at(path, MOVING_NAME)


def is_switched(path: Path, new: Division) -> bool:
    """Whether the new division is in force already, and only cleaning up is left."""
    found = division_at(path)
    return found is None if new.parts == 1 else found is not None and found.generation == new.generation


def require_divided(path: Path) -> None:
    """StorageError: its hosts were divided anew just now. Until that is cleaned up, stores do not say yet which files there are,
    and count what is another's."""
    if (moving := moving_at(path)) is not None and is_switched(path, moving):
        raise StorageError(
            f"{path.parent}: its hosts are being divided anew: ask again in a moment, or, if nothing runs, go on with the "
            "command of this crawl first"
        )


def parts_at(path: Path) -> int:
    """Among how many parts it is divided, or is to be: what was begun is ended. One: it is whole."""
    division = moving_at(path) or division_at(path)
    return division.parts if division is not None else 1


def check(found: Division | None, parts: int, *, by_domain: bool) -> None:
    """ConfigError: it can never be divided so. ``found``: as it is divided, None: not at all."""
    before = found.by_domain if found is not None else by_domain and parts > 1
    if found is None and before:
        raise ConfigError("politeness_by domain: this directory was begun with one process: go on with --processes 1")
    if found is not None and parts > 1 and found.by_domain != by_domain:
        was, now = (("host", "domain")[by] for by in (found.by_domain, by_domain))
        raise ConfigError(f"politeness_by: this directory was begun with {was}, now it is {now}: with several processes it stays")
    if found is not None and parts == 1 and found.by_domain:
        raise ConfigError("politeness_by domain: this directory was begun with several processes: it needs two at least")


def write(file: Path, division: Division) -> None:
    """Whole or not at all."""
    make_dir(file.parent)
    new = file.with_name(f"{file.name}.new")
    with storing(new):
        new.write_text(_text(division))
    sync_file(new)
    rename(new, file)


def _text(division: Division) -> str:
    return (
        "# Which process owns which hosts. Written by the crawler: do not change it.\n"
        f"schema = 1\nprocesses = {division.parts}\nby_domain = {str(division.by_domain).lower()}\n"
        f"generation = {division.generation}\n"
        f'secret = "{division.secret:016x}"\nowners = "{division.owners.hex()}"\n'
    )


def _division(path: Path, table: dict[str, Any]) -> Division:
    if table.get("schema") != 1:
        raise StorageError(f"{path}: was written by a newer version", final=True)
    try:
        parts, by_domain = int(table["processes"]), bool(table["by_domain"])
        division = Division(
            parts, bytes.fromhex(table["owners"]), int(table["secret"], 16), by_domain, table.get("generation", 0)
        )
    except (KeyError, TypeError, ValueError) as error:
        raise StorageError(f"{path}: damaged: {error!r}", final=True) from error
    if len(division.owners) != SLOTS or not 1 <= parts <= PARTS_MAX or max(division.owners) >= parts:
        raise StorageError(f"{path}: damaged: the slots have no owners", final=True)
    return division
