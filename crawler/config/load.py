"""Loading a Config: flag > environment > file > default. All faults are reported at once.

Nothing the operator wrote is ignored: an unknown key, a value that cannot be used and two settings that contradict each other
are faults. Each is one sentence that names where it stands and what to write instead.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from crawler.config.fields import SettingFault
from crawler.config.sections import SECRET_FILES, Config, HostConfig
from crawler.config.types import MASKED, is_place, split_host_port
from crawler.core.errors import ConfigError
from crawler.core.meant import did_you_mean
from crawler.core.text import matches_mime

PREFIX: Final = "CRAWLER_"
_SECRET_BYTES_MAX: Final = 64 << 10
_FILE_BYTES_MAX: Final = 16 << 20
STORED_BYTES_MAX: Final = 40 << 30
"""Of a file that is uploaded, before its last batch: 10,000 parts of 5 MiB are 48 GiB."""

EXPRESSIONS_MANY: Final = 2000
"""Of include and exclude: to search a link with more takes longer than all else that is done for it."""
_NOT_OURS: Final = re.compile(r"CRAWLER_(?:CONFIG|SHARED|SERVICE_(?:HOST|PORT\w*)|PORT(?:_\d+_(?:TCP|UDP)\w*)?)")
"""CONFIG names the file itself, SHARED the corpora of the tests; the others are what Kubernetes and Docker put into the
environment of every container beside a service called ``crawler``."""

_PROXIES: Final = ("http_proxy", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")
"""As curl takes them."""
_READ_FOR_LINKS: Final = ("text/html", "application/xhtml+xml")

_ARRAY: Final = re.compile(r"\[\s*[\"'{\]]")


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration, and for each key that is not at its default where its value came from."""

    config: Config
    origins: Mapping[str, str]


@dataclass(slots=True)
class _Given:
    """What was written, by key: the value and where. Higher layers replace lower ones."""

    values: dict[str, Any]
    origins: dict[str, str]
    faults: list[str]

    def lay(self, layer: Mapping[str, tuple[Any, str]]) -> None:
        store, origin = layer.get("store", (None, ""))
        if isinstance(store, str) and is_place(store):
            if layer.get("store_url", (store,))[0] != store:
                self.faults.append(f"{origin} and {layer['store_url'][1]}: give one of them, not both")
            layer = {key: given for key, given in layer.items() if key != "store"} | {"store_url": (store, origin)}
        for secret, file in SECRET_FILES.items():
            if secret in layer and file in layer:
                self.faults.append(f"{layer[secret][1]} and {layer[file][1]}: give one of them, not both")
            for key, other in ((secret, file), (file, secret)):
                if key in layer:
                    self.values.pop(other, None)
        for key, (value, origin) in layer.items():
            self.values[key] = value
            self.origins[key] = origin


def load(
    flags: Mapping[str, Any] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    file: str | None = None,
    needs: Mapping[str, str] | None = None,
    also: Callable[[Config], Iterable[str]] = lambda config: (),
) -> Loaded:
    """The effective configuration. ``flags`` are those given, by key; ``needs`` says what is missing if a key is not set,
    ``also`` finds the caller's own faults. Raises ConfigError with every fault there is."""
    environ = os.environ if environ is None else environ
    given = _Given({}, {}, [])
    file = file or environ.get("CRAWLER_CONFIG")
    from_file = _file_layer(file, given.faults) if file else {}
    given.lay(from_file or {})
    given.lay(_environment_layer(environ, given.faults))
    given.lay({key: (value, _flag(key, value)) for key, value in (flags or {}).items()})
    _read_secrets(given)
    config = _validate(given)
    if from_file is not None:  # else nobody knows what stands in it
        given.faults.extend(said for key, said in (needs or {}).items() if key not in given.values)
    given.faults.extend(also(config))
    if given.faults:
        raise ConfigError(given.faults)
    return Loaded(config, given.origins)


def changed(config: Config, changes: Mapping[str, Any]) -> Config:
    """A copy with some settings replaced, by key; None means the default. ConfigError with every fault there is."""
    given = _Given({**config.given(), **changes}, dict.fromkeys(Config.fields, "the settings"), [])
    for key in changes:
        given.origins[key] = str(key)
        if key not in Config.fields:
            given.faults.append(f"there is no setting {key}{did_you_mean(str(key), Config.fields)}")
        if key not in Config.fields or changes[key] is None:
            del given.values[key]
    new = _validate(given)
    if given.faults:
        raise ConfigError(given.faults)
    return new


def _flag(key: str, value: Any) -> str:
    if key == "urls":
        return "URL"
    return f"--{'no-' if value is False else ''}{key.replace('_', '-')}"


def _file_layer(file: str, faults: list[str]) -> dict[str, tuple[Any, str]] | None:
    """None: it cannot be read."""
    import tomllib  # most runs have no file

    try:
        with Path(file).open("rb") as stream:
            text = stream.read(_FILE_BYTES_MAX + 1)
        if len(text) > _FILE_BYTES_MAX:
            raise ValueError(f"larger than {_FILE_BYTES_MAX >> 20} MiB")
        table = tomllib.loads(text.decode("utf-8-sig"))
    except OSError as error:
        faults.append(f"{file}: cannot read this configuration file: {error.strerror}")
        return None
    except UnicodeDecodeError:
        faults.append(f"{file}: not a TOML file: it is not UTF-8 text; save it as UTF-8")
        return None
    except (ValueError, RecursionError) as error:
        why = str(error).replace("Cannot overwrite a value", "a key that stands above already") or "too deeply nested"
        faults.append(f"{file}: not a TOML file: {why}")
        return None
    layer: dict[str, tuple[Any, str]] = {}
    for key, value in table.items():
        if key in Config.fields:
            layer[key] = value, f"{file}: {key}"
        elif isinstance(value, dict):
            where = "every setting stands above all tables, by its own name; the only table is [[host]]"
            faults.append(f"{file}: there is no table [{key}]: {where}")
        else:
            faults.append(f"{file}: there is no setting {key}{did_you_mean(key, Config.fields)}")
    return layer


def _environment_layer(environ: Mapping[str, str], faults: list[str]) -> dict[str, tuple[Any, str]]:
    """An empty variable counts as not set: compose files and unit files write them so."""
    layer: dict[str, tuple[Any, str]] = {}
    for name, text in environ.items():
        if not name.startswith(PREFIX) or not text or _NOT_OURS.fullmatch(name):
            continue
        key = name.removeprefix(PREFIX).lower()
        if key not in Config.fields:
            known = [PREFIX + field.upper() for field in Config.fields]
            faults.append(f"{name}: there is no such setting{did_you_mean(name, known)}")
        else:
            try:
                layer[key] = _array(text) if _is_list(key) else text, name
            except (ValueError, RecursionError) as error:
                faults.append(f"{name}: begins like a TOML array but is none: {error}")
    return layer


def _array(text: str) -> Any:
    """One item, or a TOML array of them: items may hold commas and spaces, so nothing is split."""
    if not _ARRAY.match(text):
        return [text]
    import tomllib

    return tomllib.loads(f"v = {text}")["v"]


def _is_list(key: str) -> bool:
    return Config.fields[key].is_list


def _read_secrets(given: _Given) -> None:
    for key, file_key in SECRET_FILES.items():
        path = given.values.get(file_key)
        if not isinstance(path, str) or key in given.values:
            continue
        try:
            with Path(path).open("rb") as stream:
                text = stream.read(_SECRET_BYTES_MAX).decode().strip()
        except (OSError, ValueError) as error:
            given.faults.append(f"{given.origins[file_key]}: cannot read {path}: {getattr(error, 'strerror', 'not UTF-8 text')}")
            continue
        if text:
            given.values[key], given.origins[key] = text, f"the file {path}"
        else:
            given.faults.append(f"{given.origins[file_key]}: {path} is empty")


def _validate(given: _Given) -> Config:
    """The config, its faulty settings left at their defaults so that the others can still be checked together."""
    values = {key: (value,) if isinstance(value, str) and _is_list(key) else value for key, value in given.values.items()}
    faulty = {key for key, value in values.items() if MASKED in str(value) and _is_masked(key, value)}
    given.faults.extend(f"{given.origins[key]}: is masked as {MASKED}: give the real value" for key in sorted(faulty))
    good, faults = Config.read(values)
    given.faults.extend(_sentence(fault, given) for fault in faults if fault.path[0] not in faulty)
    faulty.update(str(fault.path[0]) for fault in faults)
    config = Config().replaced(**{key: value for key, value in good.items() if key not in faulty})
    given.faults.extend(text for keys, text in _contradictions(config, given.origins) if not faulty.intersection(keys))
    return config


def _is_masked(key: str, value: Any) -> bool:
    if key == "host" and isinstance(value, list):
        tables = [table for table in value if isinstance(table, dict)]
        return any(MASKED in str(table.get(secret, "")) for table in tables for secret in ("headers", "proxy"))
    return key in SECRET_FILES or key == "cluster" or (key == "urls" and any(f"{MASKED}@" in str(url) for url in value))


def _sentence(fault: SettingFault, given: _Given) -> str:
    """``where value: what to write``."""
    key, *inner = fault.path
    where = given.origins[str(key)]
    if key == "host" and inner:
        table, *path = inner
        where += f" number {int(table) + 1}" + "".join(f", {step}" for step in path)
        if fault.is_unknown:
            return f"{where}: there is no such setting for a host{did_you_mean(str(inner[-1]), HostConfig.fields)}"
    if key == "host" and not inner:
        return f"{where}: must be a list of tables: write [[host]] above each"
    told = isinstance(fault.value, str | int | float) and not isinstance(fault.value, bool)
    shown = f" {str(fault.value)[:80]!r}" if told else ""
    return f"{where}{shown}: {fault.text}"


def _contradictions(config: Config, origins: Mapping[str, str]) -> Iterable[tuple[tuple[str, ...], str]]:
    """(keys concerned, sentence) of each fault that no single setting shows."""
    if not _is_loopback(config.listen) and not config.api_token:
        yield (
            ("listen", "api_token", "api_token_file"),
            f"{origins['listen']}: {config.listen} is open to other machines: set api_token_file, or listen on 127.0.0.1",
        )
    if config.archive == "files" and (config.retain_age or config.retain_bytes):
        yield (
            ("archive", "retain_age", "retain_bytes"),
            f"{origins.get('retain_age') or origins.get('retain_bytes')}: does not cover bodies kept with archive = files, which "
            "stand for every page that has them: delete those by their age yourself",
        )
    if config.store_url:
        yield from _store_contradictions(config, origins)
    if config.ca_file:
        import ssl

        try:
            ssl.create_default_context(cafile=config.ca_file)
        except (OSError, ValueError) as error:
            said = "it holds no certificate in PEM form" if isinstance(error, ssl.SSLError | ValueError) else error.strerror
            yield ("ca_file",), f"{origins['ca_file']}: cannot use {config.ca_file}: {said}"


def _store_contradictions(config: Config, origins: Mapping[str, str]) -> Iterable[tuple[tuple[str, ...], str]]:
    origin = origins["store_url"]
    if config.archive == "files":
        yield (
            ("archive", "store_url"),
            f"{origin}: only files that are full are stored, and with archive = files each body is a file of its own: take "
            "archive = warc, or copy the directory's files/ and results/ yourself",
        )
    if config.store == "memory":
        yield ("store", "store_url"), f"{origin}: store = memory forgets which files are stored: take store = embedded"
    if config.roll_size > STORED_BYTES_MAX:
        yield (
            ("roll_size", "store_url"),
            f"{origins['roll_size']}: with {origin} at most {STORED_BYTES_MAX >> 30}GiB: an object store takes no larger ones",
        )


def _is_loopback(listen: str) -> bool:
    host, _ = split_host_port(listen)
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def warnings(config: Config, environ: Mapping[str, str] = MappingProxyType({})) -> list[str]:
    """What is allowed but should be said aloud: when a crawl starts, and where its settings are checked."""
    said = []
    named = next((name for name in _PROXIES if environ.get(name)), None)
    if named and not config.proxy and not any(table.proxy for table in config.host):
        said.append(f"{named} of the environment is not used: where requests must go through a proxy, name it by --proxy")
    if not config.robots:
        said.append("robots.txt is not obeyed (--no-robots): only for hosts that are yours or whose owner agreed")
    obeys = config.robots or any(table.robots for table in config.host)
    if obeys and config.user_agent and config.name.lower() not in config.user_agent.lower():
        said.append(  # RFC 9309, 2.2.1: the product token SHOULD be a substring of the identification string
            f"user_agent does not contain the name {config.name}: webmasters see {config.user_agent!r} and write rules for that, "
            f"but rules for {config.name} are obeyed: set --name to what robots.txt is to call this crawler"
        )
    if config.insecure:
        said.append("TLS certificates are not verified (--insecure): anyone on the way can forge pages")
    if config.depth and config.scope in ("domain", "any") and not (config.contact or config.user_agent):
        said.append("this crawl leaves its seeds' hosts: set --contact, so that webmasters can reach you")
    if config.method == "HEAD" and (config.depth or config.requisites):
        said.append("with --method HEAD no page has a body: links (depth) and what pages need (requisites) are not found")
    if (
        config.accept_mime
        and (config.depth or config.requisites)
        and not any(matches_mime(html, kept) for html in _READ_FOR_LINKS for kept in config.accept_mime)
    ):
        said.append(
            "accept_mime leaves out text/html, and pages that are not kept are not read for links: none is followed; keep them "
            "too, and take from the crawl what you want (crawler export --mime)"
        )
    if "" in config.exclude:
        said.append("exclude has an empty expression, which matches every URL: no link that is found will be followed")
    if (expressions := len(config.include) + len(config.exclude)) > EXPRESSIONS_MANY:
        said.append(
            f"include and exclude have {expressions:,} expressions, and every link that is found is searched with each of them "
            "(10,000 take a millisecond a link): write fewer, which say more; whole hosts are faster as [[host]] block = true"
        )
    if config.recrawl_every and config.recrawl_min > config.recrawl_max:
        said.append("recrawl_min is longer than recrawl_max: no interval is longer than recrawl_max")
    said.extend(
        f"server_names: no request comes by the name {name!r}: leave out scheme, port and path"
        for name in config.server_names
        if not set(name).isdisjoint("/ ") or name.count(":") == 1  # two are an address of IPv6
    )
    place = urlsplit(config.store_url or "")
    if place.scheme == "file" and config.output and Path(unquote(place.path)).is_relative_to(Path(config.output).absolute()):
        said.append("store_url lies within the crawl's own directory: a disk that is lost takes the copies along")
    return said
