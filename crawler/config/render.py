"""The configuration as text: TOML with comments, the JSON schema, the help of a setting. Pure.

Invariant: reading what was written here gives an equal Config, except that secrets are ``***``, unless a file holds them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final, Literal, get_args, get_origin

from crawler.config.fields import Section, Setting, shape_of
from crawler.config.sections import SECRET_FILES, SECTIONS, Config, ControlConfig, HostConfig, StorageConfig
from crawler.config.types import AUTO, MASKED
from crawler.core.text import printable

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


def toml_value(value: Any, written_as: str | None = None) -> str:
    """A value as TOML has it; ``written_as``: the unit that numbers of its setting may have (``fields.Unit``)."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        if written_as == "auto" and value == AUTO:
            return '"auto"'
        return format_size(int(value)) if written_as == "size" else format_time(value) if written_as == "time" else repr(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(key)} = {toml_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, tuple | list):
        return "[" + ", ".join(toml_value(item) for item in value) + "]"
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")


def _key(key: str) -> str:
    return key if _BARE_KEY.fullmatch(key) else toml_value(key)


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
    texts = {key: toml_value(values[key], field.unit) for key, field in fields if values[key] is not None}
    return texts | ({"host": json.dumps(values["host"], default=str)} if config.host else {})


def to_toml(config: Config, origins: Mapping[str, str] | None = None) -> str:
    """The effective configuration; ``origins`` adds where each value that is not a default came from."""
    values, lines = masked(config), []
    for section in SECTIONS:
        lines += ["", f"# {section.__doc__}"]
        for key, field in section.fields.items():
            if key == "host":
                continue
            line = f"# {key} is not set" if values[key] is None else f"{key} = {toml_value(values[key], field.unit)}"
            if (file := SECRET_FILES.get(key)) is not None and values[file] is not None:
                line = f"# {key} is read from {file}"
            origin = (origins or {}).get(key)
            lines.append(f"{line}  # from {printable(origin)}" if origin else line)
    for table in values["host"]:
        lines += ["", "[[host]]"]
        fields = HostConfig.fields
        lines += [f"{key} = {toml_value(value, fields[key].unit)}" for key, value in table.items() if value not in (None, {})]
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
    return [comment, f"{key} = {toml_value(field.default, field.unit)}"]


def describe(field: Setting) -> str:
    """The help of a setting with its default, where it has one that its description does not tell."""
    said = field.description
    if field.default in (None, ()) or field.default is False or "default" in said or (not field.default and "0 =" in said):
        return said
    return f"{said} (default {toml_value(field.default, field.unit).strip(chr(34))})"


def _sample(field: Setting) -> str:
    return toml_value(field.examples[0] if field.examples else "", field.unit)


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
