"""Every setting, once: name, type, default, bound, help. The command line, the TOML file, the environment, the schema and
``deploy/crawler.toml`` are all made from these fields.

One flat frozen ``Config`` is what the operator writes; it is composed of sections, and each part of the crawler is typed
to its own section only.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?i?b?)?", re.I)
_UNITS = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "t": 1000**4, "ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30, "ti": 1 << 40}
_TIME = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|min|m|h|d)?", re.I)
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}


def parse_size(value: Any) -> Any:
    """``64MiB``, ``10kB`` or a number of bytes, as an int."""
    if isinstance(value, str) and (match := _SIZE.fullmatch(value.strip())):
        unit = (match[2] or "").lower().removesuffix("b")
        return int(float(match[1]) * _UNITS[unit])
    return value


def parse_time(value: Any) -> Any:
    """``10min``, ``500ms``, ``1h`` or a number of seconds, as a float."""
    if isinstance(value, str) and (match := _TIME.fullmatch(value.strip())):
        return float(match[1]) * _SECONDS[(match[2] or "s").lower()]
    return value


Bytes = Annotated[int, BeforeValidator(parse_size), Field(ge=0)]
Seconds = Annotated[float, BeforeValidator(parse_time), Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]


class Section(BaseModel):
    """A frozen group of settings; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class HostConfig(Section):
    """A ``[[host]]`` table: settings of the hosts that ``match`` names. The first match wins."""

    match: str
    delay: Seconds | None = None
    per_host: Annotated[int, Field(ge=1)] | None = None
    headers: dict[str, str] = {}
    proxy: str | None = None
    robots: bool | None = None


class InputConfig(Section):
    input: tuple[str, ...] = Field((), description="URL lists: files (plain, .gz, .zst, JSON lines) or - for standard input")
    urls: tuple[str, ...] = Field((), description="URLs given on the command line")


class ScopeConfig(Section):
    depth: int = Field(0, ge=-1, description="how many links away from a seed to go; -1 means without limit")
    scope: Literal["host", "domain", "prefix", "any"] = Field("host", description="which links belong to the crawl")
    include: tuple[str, ...] = Field((), description="only links matching one of these regular expressions")
    exclude: tuple[str, ...] = Field((), description="no links matching one of these regular expressions")
    redirects: Literal["any", "scope"] = Field("any", description="redirects of seeds: anywhere, or only within scope")
    max_redirects: Count = Field(10, description="redirects followed from one URL")
    max_url: Annotated[int, Field(ge=16)] = Field(2083, description="longest URL, in bytes")
    max_outlinks: Count = Field(100_000, description="links taken from one page")
    max_path_depth: Count = Field(32, description="path segments in a followed link")
    max_repeated_segments: Count = Field(3, description="times one path segment may appear in a followed link")
    max_queries_per_path: Count = Field(
        10_000, description="different query strings followed for one path of a host; 0 = no limit"
    )
    max_pages_per_host: Count = Field(0, description="links admitted for one host; 0 = no limit")
    drop_params: tuple[str, ...] = Field((), description="query parameters dropped from links, such as utm_source or utm_*")
    sort_query: bool = Field(False, description="sort the query parameters of links")
    sitemaps: bool = Field(False, description="read sitemaps named in robots.txt, and /sitemap.xml")


class PolitenessConfig(Section):
    per_host: Annotated[int, Field(ge=1)] = Field(1, description="visits at one host at a time")
    delay: Seconds = Field(1.0, description="rest of a host after each visit")
    factor: Annotated[float, Field(ge=0)] = Field(1.0, description="rest at least this times the time to first byte")
    crawl_delay_cap: Seconds = Field(30.0, description="longest Crawl-delay honoured")
    politeness_by: Literal["host", "domain"] = Field("host", description="domain: one delay for all hosts of a domain as well")
    robots: bool = Field(True, description="obey robots.txt (RFC 9309)")
    retries: Count = Field(2, description="further attempts after a failure that may pass")
    backoff_max: Seconds | None = Field(None, description="longest back-off of a host (default 5 min in run, 1 h in serve)")
    host_failures: Annotated[int, Field(ge=1)] = Field(8, description="failures in a row after which a host is given up")
    host: tuple[HostConfig, ...] = ()


class FetchConfig(Section):
    method: Literal["GET", "HEAD"] = "GET"
    workers: Annotated[int, Field(ge=1, le=100_000)] = Field(100, description="most fetches at a time")
    rate: Annotated[float, Field(ge=0)] = Field(0, description="requests per second over the whole crawl; 0 = no limit")
    bandwidth: Bytes = Field(0, description="bytes per second over the whole crawl; 0 = no limit")
    timeout: Seconds = Field(600.0, description="one attempt in all")
    connect_timeout: Seconds = Field(10.0, description="name lookup, connect and TLS handshake")
    first_byte_timeout: Seconds = Field(30.0, description="request sent until the answer begins")
    read_timeout: Seconds = Field(20.0, description="silence within a body")
    min_rate: Bytes = Field(1024, description="slowest body, bytes per second, after min_rate_grace; 0 = no limit")
    min_rate_grace: Seconds = 30.0
    max_body: Bytes = Field(64 << 20, description="longest body kept, as sent and as decoded")
    max_decode_ratio: Annotated[float, Field(ge=1)] = Field(1000.0, description="decoded to sent bytes of a body over 1 MiB")
    max_header_line: Bytes = 32 << 10
    max_headers: Annotated[int, Field(ge=1)] = 256
    accept_mime: tuple[str, ...] = Field((), description="keep only bodies of these types, such as text/html or image/*")
    user_agent: str | None = Field(None, description="whole User-Agent header (default: made from name, version and contact)")
    name: str = Field("flatcrawler", description="product token: what robots.txt rules are matched against")
    contact: str | None = Field(None, description="a URL or mail address in the User-Agent, for webmasters")
    header: tuple[str, ...] = Field((), description="further request headers, as 'Name: value'")
    proxy: str | None = Field(None, description="HTTP proxy for all requests")
    ca_file: str | None = Field(None, description="certificates trusted in addition to the system's")
    insecure: bool = Field(False, description="do not verify TLS certificates")
    allow_net: tuple[str, ...] = Field((), description="address ranges (CIDR) that may be connected to although private")
    deny_net: tuple[str, ...] = Field((), description="address ranges (CIDR) never connected to")
    dns: tuple[str, ...] = Field((), description="name servers, HOST or HOST:PORT (default: the system's)")
    dns_timeout: Seconds = 5.0


class ArchiveConfig(Section):
    archive: Literal["warc", "files", "discard"] = Field("warc", description="how pages are kept")
    roll_size: Bytes = Field(1 << 30, description="archive and result files are rolled at this size")
    warc_prefix: str = Field("CRAWL", pattern=r"^[A-Za-z0-9_]{1,32}$")


class StorageConfig(Section):
    output: str | None = Field(None, description="the crawl's directory")
    store: Literal["embedded", "memory"] = Field("embedded", description="memory forgets on exit")
    fresh: bool = Field(False, description="move what an earlier crawl left aside and begin anew")
    min_free_disk: Bytes = Field(1 << 30, description="pause below this much free disk")
    disk_wait: Seconds = Field(600.0, description="how long run waits for a full disk before it gives up")


class LimitsConfig(Section):
    memory_limit: Bytes | None = Field(None, description="for the whole process tree (default: 512 MiB or 80 % of the cgroup's)")
    max_pages: Count = Field(0, description="stop after this many pages; 0 = no limit")
    max_bytes: Bytes = Field(0, description="stop after this many body bytes; 0 = no limit")
    max_time: Seconds = Field(0.0, description="stop after this long; 0 = no limit")
    max_failed: Annotated[float, Field(ge=0, le=100)] = Field(100.0, description="exit 8 if more than this percentage failed")
    grace: Seconds = Field(30.0, description="how long a drain may take")


class ParseConfig(Section):
    parsers: Annotated[int, Field(ge=0)] | None = Field(None, description="parser processes; 0 parses in the loop")
    parse_timeout: Seconds = 2.0
    max_parse: Bytes = Field(4 << 20, description="bytes of a document that are parsed")


class ControlConfig(Section):
    metrics_listen: str | None = Field(None, description="HOST:PORT for /metrics, /livez and /readyz")
    listen: str = Field("127.0.0.1:9700", description="HOST:PORT of the control API of serve")
    api_token: str | None = Field(None, description="bearer token of the control API")
    progress: Literal["auto", "bar", "plain", "none"] = "auto"
    log_format: Literal["auto", "text", "json"] = "auto"
    log_level: Literal["debug", "info", "warning", "error"] = "info"


class Config(
    InputConfig,
    ScopeConfig,
    PolitenessConfig,
    FetchConfig,
    ArchiveConfig,
    StorageConfig,
    LimitsConfig,
    ParseConfig,
    ControlConfig,
):
    """All sections as one flat, frozen value: the keys of the TOML file."""
