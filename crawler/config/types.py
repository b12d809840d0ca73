"""The types of the configuration's fields. Pure.

Each check returns the value in its one canonical form, or raises ValueError with a sentence that tells the operator what to
write instead; ``config.load`` prints that sentence as it is.
"""

from __future__ import annotations

import ipaddress
import math
import re
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

from crawler.config.fields import Check
from crawler.core.errors import FetchError

_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*((?:[kmgt]i?)?b?)", re.IGNORECASE | re.ASCII)
_UNITS: Final = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "t": 1000**4} | {
    "ki": 1 << 10,
    "mi": 1 << 20,
    "gi": 1 << 30,
    "ti": 1 << 40,
}
_TIME: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|min|m|h|d)?", re.IGNORECASE | re.ASCII)
_SECONDS: Final = {"ms": 0.001, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_FIELD: Final = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_HOST: Final = re.compile(r"(?:\*|(?:\*\.)?[0-9a-z_-]+(?:\.[0-9a-z_-]+)*|\[[0-9a-f:.]+\])(?::\d{1,5})?")
_OWN_SCRIPT: Final = re.compile(r"(\*\.)?(?=.*[^\0-\x7f])([^\s/\\?#@:\[\]*]+)(:\d{1,5})?")
"""A host whose name is written in other letters than a URL has."""
_HOST_PORT: Final = re.compile(r"(?:\[(?P<six>[^\[\]]+)\]|(?P<host>[^:\[\]\s/]+))(?::(?P<port>\d{1,5}))?")
_MIME: Final = re.compile(r"(?:[0-9a-z!#$&^_.+-]+/(?:\*|[0-9a-z!#$&^_.+-]+)|\*/\*)")
_MAIL: Final = re.compile(r"[^\s@()<>,;]+@[^\s@()<>,;]+\.[^\s@()<>,;]+")

_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")

_WIRE: Final = ("accept-encoding", "connection", "content-length", "expect", "host", "keep-alive", "te", "trailer", "upgrade")
RATE_MIN: Final = 1e-9
"""Requests per second: of less, what several processes get of it could become 0, which means no limit."""
MASKED: Final = "***"
"""What is shown instead of a secret."""
FRAMING: Final = frozenset((*_WIRE, "proxy-connection", "transfer-encoding"))
"""Headers that say how the exchange itself works: the crawler writes them."""
PERSONAL: Final = frozenset(("authorization", "cookie", "proxy-authorization"))
"""Headers that must never go to every host of a crawl."""


def parse_size(value: Any) -> Any:
    """``64MiB``, ``10kB`` or a number of bytes, as an int."""
    if not isinstance(value, str):
        return value
    if not (match := _SIZE.fullmatch(value.strip())):
        raise ValueError("must be a size such as 64MiB, 10kB or a number of bytes")
    unit = _UNITS[match[2].lower().removesuffix("b")]
    size = float(match[1]) * unit
    if not math.isfinite(size):
        raise ValueError("must be a size that can be meant")
    return int(match[1]) * unit if match[1].isdigit() else int(size)


def parse_time(value: Any) -> Any:
    """``10min``, ``500ms``, ``1h`` or a number of seconds, as a float."""
    if not isinstance(value, str):
        return value
    if not (match := _TIME.fullmatch(value.strip())):
        raise ValueError("must be a time such as 30s, 500ms, 10min, 1h or a number of seconds")
    return float(match[1]) * _SECONDS[(match[2] or "s").lower()]


def network(value: str) -> str:
    """An address range, canonical."""
    try:
        return str(ipaddress.ip_network(value.strip()))
    except ValueError:
        pass
    try:
        wider = ipaddress.ip_network(value.strip(), strict=False)
    except ValueError:
        raise ValueError("must be an address range such as 10.0.0.0/8 or fd00::/8") from None
    raise ValueError(f"has bits beyond the length of its prefix: write {wider}")


def regex(value: str) -> str:
    try:
        re.compile(value)
    except re.error as error:
        raise ValueError(f"is not a regular expression: {error}") from None
    except (RecursionError, OverflowError):
        raise ValueError("is too deeply nested or too large to be compiled as a regular expression") from None
    return value


def split_host_port(value: str) -> tuple[str, int | None]:
    """``example.org:80``, ``[::1]:80``, ``::1`` or ``10.0.0.1`` as (host without brackets, port or None)."""
    if value.count(":") > 1 and not value.startswith("["):
        return value, None
    match = _HOST_PORT.fullmatch(value)
    port = int(match["port"]) if match and match["port"] else None
    if not match or (port or 0) > 65535:
        raise ValueError("must be HOST or HOST:PORT with a port of at most 65535")
    return match["six"] or match["host"], port


def listen_address(value: str) -> str:
    host, port = split_host_port(value)
    if not host or port is None:
        raise ValueError("must be HOST:PORT, such as 127.0.0.1:9700 or [::1]:9700")
    return value


def cluster_url(value: str) -> str:
    if not value.startswith(("postgresql://", "postgres://")):
        raise ValueError("must be a URL such as postgresql://crawler@db.example/crawls?schema=my_crawl&sslmode=verify-full")
    return value


def api_url(value: str) -> str:
    """An http or https URL without credentials or a query, its path without a slash at the end."""
    try:
        parts = urlsplit(value.strip())
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query or parts.fragment:
            raise ValueError
        _ = parts.port
    except ValueError:
        raise ValueError("must be an http or https URL such as https://example.org/crawler") from None
    return value.strip().rstrip("/")


def auto_or_whole(value: Any) -> Any:
    if value == "auto":
        return AUTO
    if isinstance(value, str) and not re.fullmatch(r"[+-]?\d+", value.strip()):
        raise ValueError("must be auto or a whole number")
    return value


def store_url(value: str) -> str:
    """``s3://BUCKET/PREFIX`` or ``file:///DIR``, without a slash at the end."""
    try:
        parts = urlsplit(value.strip())
    except ValueError:  # brackets that hold no address
        parts = urlsplit("")
    if "@" in parts.netloc:
        raise ValueError("must hold no credentials: they come from the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY)")
    if (is_s3 := parts.scheme == "s3") and not _BUCKET.fullmatch(parts.netloc):
        raise ValueError("must be s3://BUCKET/PREFIX; a bucket's name has 3 to 63 small letters, digits, dots and dashes")
    is_file = parts.scheme == "file" and not parts.netloc and parts.path.strip("/")
    if not (is_s3 or is_file) or parts.query or parts.fragment:
        raise ValueError("must be s3://BUCKET/PREFIX or file:///DIR")
    return value.strip().rstrip("/")


def name_server(value: str) -> str:
    try:
        host, port = split_host_port(value)
        ipaddress.ip_address(host)
    except ValueError:
        raise ValueError("must name the server by address, such as 9.9.9.9, 127.0.0.1:5353 or [::1]:5353") from None
    if port == 0:
        raise ValueError("has port 0, where no name server can listen")
    return value


def http_proxy(value: str) -> str:
    from crawler.core.urls import name_fault

    try:
        parts = urlsplit(value)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.path in ("", "/") and parts.port != 0
        good = good and not name_fault(parts.hostname or ".")
    except ValueError:
        good = False
    if not good:
        raise ValueError("must be the URL of an HTTP proxy, such as http://proxy.example:3128 (SOCKS is not supported)")
    return value


def header_field(name: str, value: str) -> None:
    """Refuse what would not be a header of its own, or not ours to set."""
    if not _TOKEN.fullmatch(name) or not _FIELD.fullmatch(value):
        raise ValueError("must be 'Name: value' in one line of Latin-1 text")
    if name.lower() in FRAMING:
        raise ValueError(f"sets {name}, which the crawler itself must write: leave it out")
    if name.lower() == "user-agent":
        raise ValueError("sets User-Agent: use user_agent, or name and contact")


def header_line(value: str) -> str:
    name, colon, rest = value.partition(":")
    if not colon:
        raise ValueError("must be 'Name: value'")
    header_field(name, rest.strip())
    if name.lower() in PERSONAL:
        raise ValueError(f"would send {name} to every host: put it into a [[host]] table, for the hosts it is meant for")
    return f"{name}: {rest.strip()}"


def host_headers(value: dict[str, str]) -> dict[str, str]:
    for name, text in value.items():
        header_field(name, text)
    return {name: text.strip() for name, text in value.items()}


def host_match(value: str) -> str:
    match = value.lower()
    if named := _OWN_SCRIPT.fullmatch(match):
        match = f"{named[1] or ''}{_as_in_urls(named[2])}{named[3] or ''}"
    if not _HOST.fullmatch(match):
        raise ValueError("must be a host such as example.org, *.example.org or example.org:8080, not a URL")
    name, bracket, port = match.partition("]")
    return f"{_as_in_urls(name + bracket)}{port}" if bracket else name


def _as_in_urls(host: str) -> str:
    """A name, or an address in brackets, as URLs have it; what is none stays."""
    from crawler.core.urls import parse

    try:
        return parse(f"http://{host}/").hostname
    except FetchError:
        return host


def mime_range(value: str) -> str:
    if not _MIME.fullmatch(value.lower()):
        raise ValueError("must be a media type such as text/html or image/*")
    return value.lower()


def contact(value: str) -> str:
    if _MAIL.fullmatch(value) or (re.fullmatch(r"https?://[^\s/()<>]+[^\s()<>]*", value) and value.isascii()):
        return value
    raise ValueError("must be a URL or mail address where webmasters reach you, such as https://example.org/crawler")


def product_token(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z_-]{1,64}", value):
        raise ValueError("must consist of letters, _ and - only: robots.txt names crawlers so (RFC 9309)")
    if value.lower() == "crawler":
        raise ValueError("must be a name of your own: rules for 'crawler' in robots.txt are meant for others")
    return value


def token_text(value: str) -> str:
    """What an Authorization field can carry."""
    if not value or not value.isprintable():
        raise ValueError("must be one line of printable text")
    return value


def header_text(value: str) -> str:
    if not value.strip() or not re.fullmatch(r"[\x20-\x7e]*", value):
        raise ValueError("must be one line of printable ASCII text")
    return value


def bounds(ge: float | None = None, gt: float | None = None, le: float | None = None) -> Check:
    """Least and largest value; ``gt``: more than."""

    def check(value: Any) -> Any:
        if ge is not None and value < ge:
            raise ValueError(f"must be at least {ge}")
        if gt is not None and value <= gt:
            raise ValueError(f"must be more than {gt}")
        if le is not None and value > le:
            raise ValueError(f"must be at most {le}")
        return value

    said = {"minimum": ge, "exclusiveMinimum": gt, "maximum": le}
    return Check(check, {key: bound for key, bound in said.items() if bound is not None})


def request_rate(value: float) -> float:
    if 0 < value < RATE_MIN:
        raise ValueError(f"must be at least {RATE_MIN}, one request in 31 years; 0 = no limit")
    return value


def matching(pattern: str) -> Check:
    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError(f"must match {pattern}")
        return value

    return Check(check, {"pattern": pattern})


def not_empty(value: str) -> str:
    if not value:
        raise ValueError("must not be empty")
    if "\0" in value:
        raise ValueError("must hold no NUL: no file, host or URL has one")
    return value


AUTO: Final = 0
"""The number that the word auto stands for."""
AsSize: Final = Check(parse_size, unit="size")
AsTime: Final = Check(parse_time, unit="time")
AsAuto: Final = Check(auto_or_whole, unit="auto")
Bytes = Annotated[int, bounds(ge=0), AsSize]
Seconds = Annotated[float, bounds(ge=0), AsTime]
Deadline = Annotated[float, bounds(gt=0), AsTime]
"""A time limit that cannot be switched off: without it one server could hold a worker for ever."""
Rate = Annotated[float, bounds(ge=0), Check(request_rate)]
Count = Annotated[int, bounds(ge=0)]
Positive = Annotated[int, bounds(ge=1)]
Network = Annotated[str, Check(network)]
Regex = Annotated[str, Check(regex)]
Listen = Annotated[str, Check(listen_address)]
NameServer = Annotated[str, Check(name_server)]
Proxy = Annotated[str, Check(http_proxy)]
HeaderLine = Annotated[str, Check(header_line)]
HostHeaders = Annotated[dict[str, str], Check(host_headers)]
HostMatch = Annotated[str, Check(host_match)]
MimeRange = Annotated[str, Check(mime_range)]
Contact = Annotated[str, Check(contact)]
ProductToken = Annotated[str, Check(product_token)]
TokenText = Annotated[str, Check(token_text, {"minLength": 1})]
HeaderText = Annotated[str, Check(header_text)]
ClusterUrl = Annotated[str, Check(cluster_url)]
ApiUrl = Annotated[str, Check(api_url)]
StoreUrl = Annotated[str, Check(store_url)]
Text = Annotated[str, Check(not_empty, {"minLength": 1})]


def is_place(store: str) -> bool:
    """Whether what ``store`` was given is the short way to say where files are stored (``store_url``)."""
    return not {":", "/"}.isdisjoint(store)
