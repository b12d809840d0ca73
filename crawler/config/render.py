"""The configuration as text: TOML with comments, the JSON schema, ``crawl.toml`` in the crawl's directory, its identity.

The law: what is written here says exactly what the Config says when it is read again, except that secrets are ``***``.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar, get_args

from pydantic.fields import FieldInfo

from crawler.config.sections import SECTIONS, Config, HostConfig, Section
from crawler.config.types import MASKED, AsSize, AsTime
from crawler.core.durable import rename, storing, sync_file
from crawler.core.errors import OUR_ERRNOS, ConfigError, StorageError
from crawler.core.text import printable

S = TypeVar("S", bound=Section)

IDENTITY: Final = ("archive", "depth", "scope", "include", "exclude", "drop_params", "sort_query", "store")
"""What a crawl's directory was begun with and cannot change: every other key takes effect at the next start."""

FILE_NAME: Final = "crawl.toml"
_CREDENTIALS: Final = re.compile(r"(^[^:/?#]*:[/\\]*)[^/\\?#]*@")
_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")


def unit(field: FieldInfo) -> str | None:
    """``size`` or ``time`` if the field is written with a unit."""
    pending: list[Any] = [field.annotation, *field.metadata]
    while pending:
        item = pending.pop()
        if item in (AsSize, AsTime):
            return "size" if item == AsSize else "time"
        pending.extend(get_args(item))
    return None


def format_size(size: int) -> str:
    """The shortest exact way to write it, as ``parse_size`` reads it."""
    for exponent, prefix in ((40, "Ti"), (30, "Gi"), (20, "Mi"), (10, "Ki")):
        if size and size % (1 << exponent) == 0:
            return f'"{size >> exponent}{prefix}B"'
    return str(size)


def format_time(seconds: float) -> str:
    for length, name in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        if seconds and seconds % length == 0:
            return f'"{int(seconds / length)}{name}"'
    return repr(seconds) if seconds else "0"


def _toml(value: Any, written_as: str | None = None) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return format_size(int(value)) if written_as == "size" else format_time(value) if written_as == "time" else repr(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(key)} = {_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, tuple | list):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")


def _key(key: str) -> str:
    return key if _BARE_KEY.fullmatch(key) else _toml(key)


def masked(config: Config) -> dict[str, Any]:
    """All settings by key, as plain values, without secrets."""
    values = config.model_dump()
    values["api_token"] = config.api_token and MASKED
    values["proxy"] = config.proxy and _hide(config.proxy)
    values["urls"] = tuple(_hide(url) for url in config.urls)
    for table in values["host"]:
        table["headers"] = dict.fromkeys(table["headers"], MASKED)
        table["proxy"] = table["proxy"] and _hide(table["proxy"])
    return values


def _hide(url: str) -> str:
    return _CREDENTIALS.sub(rf"\1{MASKED}@", url)


def to_toml(config: Config, origins: Mapping[str, str] | None = None) -> str:
    """The effective configuration; ``origins`` adds where each value that is not a default came from."""
    values, lines = masked(config), []
    for section in SECTIONS:
        lines += ["", f"# {section.__doc__}"]
        for key, field in section.model_fields.items():
            if key == "host":
                continue
            line = f"# {key} is not set" if values[key] is None else f"{key} = {_toml(values[key], unit(field))}"
            origin = (origins or {}).get(key)
            lines.append(f"{line}  # from {printable(origin)}" if origin else line)
    for table in values["host"]:
        lines += ["", "[[host]]"]
        fields = HostConfig.model_fields
        lines += [f"{key} = {_toml(value, unit(fields[key]))}" for key, value in table.items() if value not in (None, {})]
    return "\n".join(lines[1:]) + "\n"


def example() -> str:
    """A complete configuration file, every setting explained and at its default."""
    lines = [
        "# Every setting of the crawler, at its default: crawler run --config crawler.toml",
        "# A flag (--max-body) wins over the environment (CRAWLER_MAX_BODY), which wins over this file (max_body).",
        "# Sizes: 64MiB, 10kB or a number of bytes. Times: 500ms, 30s, 10min, 1h or a number of seconds.",
    ]
    for section in SECTIONS:
        lines += ["", f"# ---- {section.__doc__} ----"]
        for key, field in section.model_fields.items():
            if key != "host":
                lines += ["", *_explained(key, field)]
    lines += ["", "# ---- Other settings for some hosts ----", "", f"# {HostConfig.__doc__}", "# [[host]]"]
    for key, field in HostConfig.model_fields.items():
        lines.append(f"# {key} = {_sample(field)}  # {field.description}")
    return "\n".join(lines) + "\n"


def _explained(key: str, field: FieldInfo) -> list[str]:
    choices = [str(choice) for choice in get_args(field.annotation) if isinstance(choice, str)]
    comment = f"# {field.description}" + (f" ({', '.join(choices)})" if choices else "")
    if field.default is None:
        return [comment, f"# {key} = {_sample(field)}"]
    return [comment, f"{key} = {_toml(field.default, unit(field))}"]


def describe(field: FieldInfo) -> str:
    """The help of a setting with its default, where it has one that its description does not tell."""
    said = str(field.description)
    if field.default in (None, ()) or field.default is False or "default" in said or (not field.default and "0 =" in said):
        return said
    return f"{said} (default {_toml(field.default, unit(field)).strip(chr(34))})"


def _sample(field: FieldInfo) -> str:
    return _toml(field.examples[0] if field.examples else "", unit(field))


def schema() -> dict[str, Any]:
    """JSON schema of the TOML file."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Config.model_json_schema(mode="validation")}


def write_effective(directory: Path, config: Config) -> Path:
    """Write DIR/crawl.toml so that a reader sees the old file or the new one, whole, whatever happens. Raises StorageError."""
    path = directory / FILE_NAME
    temporary = directory / f"{FILE_NAME}.tmp"
    head = "# What this crawl runs with, written at each start and each change; secrets are shown as ***.\n\n"
    try:
        with storing(temporary):
            # fresh is an order given once, not a property of the crawl: whoever starts from this file must not repeat it
            temporary.write_text(head + to_toml(config.model_copy(update={"fresh": False})), encoding="utf-8")
        sync_file(temporary)
        rename(temporary, path)
    finally:
        with storing(temporary):
            temporary.unlink(missing_ok=True)
    return path


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
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        return section.model_validate({key: table[key] for key in keys or section.model_fields if key in table})
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno in OUR_ERRNOS:
            raise StorageError(f"{path}: {error.strerror}", errno=error.errno) from error
        raise ConfigError(f"{path}: cannot be read as this crawl's configuration ({error}): restore it, or begin anew") from error


def identity_conflicts(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """One sentence for each difference; empty if the directory may be continued."""
    return [
        f"{key}: this directory was begun with {_toml(old[key])}, now it is {_toml(new[key])}"
        for key in IDENTITY
        if old[key] != new[key]
    ]
