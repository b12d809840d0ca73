"""The configuration as text: TOML with comments, the JSON schema, ``crawl.toml`` in the crawl's directory, its identity.

Invariant: reading what was written here gives an equal Config, except that secrets are ``***``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, Literal, TypeVar, get_args, get_origin

from crawler.config.fields import Section, Setting, shape_of
from crawler.config.sections import SECTIONS, Config, ControlConfig, HostConfig, StorageConfig
from crawler.config.types import AUTO, MASKED
from crawler.core.durable import rename, storing, sync_file
from crawler.core.errors import OUR_ERRNOS, ConfigError, StorageError
from crawler.core.text import printable

S = TypeVar("S", bound=Section)

IDENTITY: Final = ("archive", "depth", "scope", "drop_params", "sort_query", "store")
"""What a crawl's directory was begun with and cannot change: every other key takes effect at the next start."""

FILE_NAME: Final = "crawl.toml"
_CREDENTIALS: Final = re.compile(r"(^[^:/?#]*:[/\\]*)[^/\\?#]*@")
_PASSWORD: Final = re.compile(r"((?:pass|sslpass)[a-z]*=)[^&]*", re.IGNORECASE)
_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")


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
        if written_as == "auto" and value == AUTO:
            return '"auto"'
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
    values = dict(vars(config))
    values["api_token"] = config.api_token and MASKED
    values["proxy"] = config.proxy and _hide(config.proxy)
    values["cluster"] = config.cluster and _PASSWORD.sub(rf"\1{MASKED}", _hide(config.cluster))
    values["urls"] = tuple(_hide(url) for url in config.urls)
    values["host"] = tuple(
        vars(table) | {"headers": dict.fromkeys(table.headers, MASKED), "proxy": table.proxy and _hide(table.proxy)}
        for table in config.host
    )
    return values


def _hide(url: str) -> str:
    return _CREDENTIALS.sub(rf"\1{MASKED}@", url)


def as_fields(config: Config) -> dict[str, str]:
    """The settings that decide what an archive holds, by name, as text without secrets; [[host]] tables as JSON."""
    values = masked(config)
    sections = (section for section in SECTIONS if section not in (StorageConfig, ControlConfig))
    fields = [(key, field) for section in sections for key, field in section.fields.items() if key != "host"]
    texts = {key: _toml(values[key], field.unit) for key, field in fields if values[key] is not None}
    return texts | ({"host": json.dumps(values["host"], default=str)} if config.host else {})


def to_toml(config: Config, origins: Mapping[str, str] | None = None) -> str:
    """The effective configuration; ``origins`` adds where each value that is not a default came from."""
    values, lines = masked(config), []
    for section in SECTIONS:
        lines += ["", f"# {section.__doc__}"]
        for key, field in section.fields.items():
            if key == "host":
                continue
            line = f"# {key} is not set" if values[key] is None else f"{key} = {_toml(values[key], field.unit)}"
            origin = (origins or {}).get(key)
            lines.append(f"{line}  # from {printable(origin)}" if origin else line)
    for table in values["host"]:
        lines += ["", "[[host]]"]
        fields = HostConfig.fields
        lines += [f"{key} = {_toml(value, fields[key].unit)}" for key, value in table.items() if value not in (None, {})]
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
        for key, field in section.fields.items():
            if key != "host":
                lines += ["", *_explained(key, field)]
    lines += ["", "# ---- Other settings for some hosts ----", "", f"# {HostConfig.__doc__}", "# [[host]]"]
    for key, field in HostConfig.fields.items():
        lines.append(f"# {key} = {_sample(field)}  # {field.description}")
    return "\n".join(lines) + "\n"


def _explained(key: str, field: Setting) -> list[str]:
    comment = f"# {field.description}" + (f" ({', '.join(field.choices)})" if field.choices else "")
    if field.default is None:
        return [comment, f"# {key} = {_sample(field)}"]
    return [comment, f"{key} = {_toml(field.default, field.unit)}"]


def describe(field: Setting) -> str:
    """The help of a setting with its default, where it has one that its description does not tell."""
    said = field.description
    if field.default in (None, ()) or field.default is False or "default" in said or (not field.default and "0 =" in said):
        return said
    return f"{said} (default {_toml(field.default, field.unit).strip(chr(34))})"


def _sample(field: Setting) -> str:
    return _toml(field.examples[0] if field.examples else "", field.unit)


def schema() -> dict[str, Any]:
    """JSON schema of the TOML file."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$defs": {HostConfig.__name__: _object(HostConfig)},
        **_object(Config),
    }


def _object(section: type[Section]) -> dict[str, Any]:
    fields = section.fields
    described: dict[str, Any] = {
        "title": section.__name__,
        "description": section.__doc__,
        "type": "object",
        "additionalProperties": False,
        "properties": {key: _property(key, field) for key, field in fields.items()},
    }
    if required := [key for key, field in fields.items() if field.is_required]:
        described["required"] = required
    return described


def _property(key: str, field: Setting) -> dict[str, Any]:
    described = {"title": key.replace("_", " ").title(), "description": field.description, **_kind(field.annotation)}
    if not field.is_required:
        described["default"] = field.default
    if field.examples:
        described["examples"] = list(field.examples)
    return described


_TYPES: Final[Mapping[Any, str]] = {bool: "boolean", int: "integer", float: "number", str: "string"}


def _kind(annotation: Any) -> dict[str, Any]:
    """What JSON schema says of a type. Bounds of what is written with a unit cannot be said: it may be text."""
    base, checks, is_optional = shape_of(annotation)
    kinds: list[dict[str, Any]]
    if any(check.unit for check in checks):
        kinds = [{"type": _TYPES[base]}, {"type": "string"}]
    else:
        kinds = [_bare(base)]
        for check in checks:
            kinds[0] |= check.schema
    if is_optional:
        kinds.append({"type": "null"})
    return kinds[0] if len(kinds) == 1 else {"anyOf": kinds}


def _bare(base: Any) -> dict[str, Any]:
    origin = get_origin(base)
    if origin is Literal:
        return {"type": "string", "enum": list(get_args(base))}
    if origin is tuple:
        return {"type": "array", "items": _kind(get_args(base)[0])}
    if origin is dict:
        return {"type": "object", "additionalProperties": _kind(get_args(base)[1])}
    return {"type": _TYPES[base]} if base in _TYPES else {"$ref": f"#/$defs/{base.__name__}"}


def write_effective(directory: Path, config: Config) -> Path:
    """Write DIR/crawl.toml so that a reader sees the old file or the new one, whole, whatever happens. Raises StorageError."""
    path = directory / FILE_NAME
    temporary = directory / f"{FILE_NAME}.tmp"
    head = "# What this crawl runs with, written at each start and each change; secrets are shown as ***.\n\n"
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
        text = path.read_text(encoding="utf-8")
        import tomllib  # a first run has nothing to read

        table = tomllib.loads(text)
        return section(**{key: table[key] for key in keys or section.fields if key in table})
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, ConfigError) as error:
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
