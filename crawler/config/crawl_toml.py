"""``crawl.toml``, in the crawl's directory: what a crawl runs with, and what it was begun with and keeps (its identity).

Invariant: a reader sees the old file or the new one, whole. It holds no secret.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TypeVar

from crawler.config.fields import Section
from crawler.config.render import to_toml, toml_value
from crawler.config.sections import Config
from crawler.core.durable import rename, storing, sync_file
from crawler.core.errors import OUR_ERRNOS, ConfigError, StorageError

S = TypeVar("S", bound=Section)

FILE_NAME: Final = "crawl.toml"
FILE_BYTES_MAX: Final = 64 << 20
"""More than what a configuration file of 16 MiB says, written out."""
_HEAD: Final = "# What this crawl runs with"
IDENTITY: Final = ("archive", "depth", "scope", "drop_params", "sort_query", "store")
"""What a crawl's directory was begun with and cannot change: every other key takes effect at the next start."""


def write_effective(directory: Path, config: Config) -> Path:
    """Write DIR/crawl.toml so that a reader sees the old file or the new one, whole, whatever happens. Raises StorageError."""
    path = directory / FILE_NAME
    temporary = directory / f"{FILE_NAME}.tmp"
    head = f"{_HEAD}, written at each start and each change; secrets are shown as ***.\n\n"
    try:
        with storing(temporary):
            # fresh is an order given once, not a property of the crawl: whoever starts from this file must not repeat it
            temporary.write_text(head + to_toml(config.replaced(fresh=False)), encoding="utf-8")
        sync_file(temporary)
        rename(temporary, path)
    finally:
        with storing(temporary):
            temporary.unlink(missing_ok=True)
    return path


def is_somebodys(path: Path) -> bool:
    """Whether a file of that name was written by hand: no crawl may write over it."""
    head = _HEAD.encode()
    with storing(path), suppress(FileNotFoundError), path.open("rb") as file:
        return file.read(len(head)) != head
    return False


def identity(config: Config) -> dict[str, Any]:
    """What may not change between two runs on one directory."""
    return {key: getattr(config, key) for key in IDENTITY}


def read_identity(directory: Path) -> dict[str, Any] | None:
    """The identity that DIR/crawl.toml was written with, None if there is no such file. Raises ConfigError."""
    config = read_section(directory, Config, IDENTITY)
    return None if config is None else identity(config)


def read_section(directory: Path, section: type[S], keys: Iterable[str] | None = None) -> S | None:
    """A section as DIR/crawl.toml says, or only these keys of it; None if there is no such file. Raises ConfigError, and
    StorageError for trouble that is not the file's."""
    path = directory / FILE_NAME
    try:
        with path.open("rb") as file:
            text = file.read(FILE_BYTES_MAX + 1)
        if len(text) > FILE_BYTES_MAX:
            raise ValueError(f"larger than {FILE_BYTES_MAX >> 20} MiB")
        import tomllib  # a first run has nothing to read

        table = tomllib.loads(text.decode())
        return section(**{key: table[key] for key in keys or section.fields if key in table})
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError, ConfigError) as error:
        if isinstance(error, OSError) and error.errno in OUR_ERRNOS:
            raise StorageError(f"{path}: {error.strerror}", errno=error.errno) from error
        if isinstance(error, OSError):  # nothing is known against what stands in it
            raise ConfigError(f"{path}: {error.strerror}") from error
        raise ConfigError(f"{path}: cannot be read as this crawl's configuration ({error}): restore it, or begin anew") from error


def identity_conflicts(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """One sentence for each difference; empty if the directory may be continued."""
    return [
        f"{key}: this directory was begun with {toml_value(old[key])}, now it is {toml_value(new[key])}"
        for key in IDENTITY
        if old[key] != new[key]
    ]
