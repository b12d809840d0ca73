"""How a frontier is divided among processes: ``parts.toml``, and where each part keeps its store.

The law: it is divided once, before anything else is in it; what stands in the file says who owns which host.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any, Final

from msgspec import Struct

from crawler.core.domains import domain_of
from crawler.core.durable import make_dir, rename, storing, sync_file
from crawler.core.errors import ConfigError, StorageError
from crawler.core.keys import SLOTS, GroupOf, Share, divided

FILE_NAME: Final = "parts.toml"
PARTS_MAX: Final = 64


class Division(Struct, frozen=True):
    """``owners``: as ``Share.owners``; ``by_domain``: all hosts of a domain have one owner."""

    parts: int
    owners: bytes
    secret: int
    by_domain: bool

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


def read(path: Path) -> Division | None:
    """None: it is not divided. StorageError, ``final``: the file is damaged."""
    file = path / FILE_NAME
    with storing(file):
        if not file.exists():
            return None
    import tomllib  # not needed for a whole crawl

    try:
        with storing(file):
            table = tomllib.loads(file.read_text())
    except ValueError as error:
        raise StorageError(f"{file}: damaged: {error}", final=True) from error
    return _division(file, table)


def agreed(path: Path, parts: int, *, by_domain: bool) -> Division | None:
    """The division among so many parts, begun now where nothing is there yet; None for one. ConfigError: it is divided
    otherwise."""
    found = read(path)
    if found is None and not (path / "CURRENT").exists():
        return _begin(path, parts, by_domain) if parts > 1 else None
    begun = found.parts if found is not None else 1
    if begun != parts:
        raise ConfigError(f"processes: this directory was begun with {begun}, now it is {parts}: go on with --processes {begun}")
    if found is not None and found.by_domain != by_domain:
        before, now = (("host", "domain")[by] for by in (found.by_domain, by_domain))
        raise ConfigError(
            f"politeness_by: this directory was begun with {before}, now it is {now}: with several processes it stays"
        )
    return found


def _begin(path: Path, parts: int, by_domain: bool) -> Division:
    division = Division(parts, divided(parts), secrets.randbits(64), by_domain)
    make_dir(path)
    new = path / f"{FILE_NAME}.new"
    with storing(new):
        new.write_text(_text(division))
    sync_file(new)
    rename(new, path / FILE_NAME)
    return division


def _text(division: Division) -> str:
    return (
        "# Which process owns which hosts. Written by the crawler: do not change it.\n"
        f"schema = 1\nprocesses = {division.parts}\nby_domain = {str(division.by_domain).lower()}\n"
        f'secret = "{division.secret:016x}"\nowners = "{division.owners.hex()}"\n'
    )


def _division(path: Path, table: dict[str, Any]) -> Division:
    if table.get("schema") != 1:
        raise StorageError(f"{path}: was written by a newer version", final=True)
    try:
        parts, by_domain = int(table["processes"]), bool(table["by_domain"])
        division = Division(parts, bytes.fromhex(table["owners"]), int(table["secret"], 16), by_domain)
    except (KeyError, TypeError, ValueError) as error:
        raise StorageError(f"{path}: damaged: {error!r}", final=True) from error
    if len(division.owners) != SLOTS or not 1 <= parts <= PARTS_MAX or max(division.owners) >= parts:
        raise StorageError(f"{path}: damaged: the slots have no owners", final=True)
    return division
