"""Set-Cookie fields, rewritten so that Python's cookie jars take them as user agents do (RFC 6265 5.2). Pure.

Invariant: whatever a field says, a jar neither stumbles over it nor keeps more by it than a user agent would.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Final

SET_MAX: Final = 50
"""Set-Cookie fields of one response that are looked at."""
SET_BYTES_MAX: Final = 64 << 10
"""And so much of their text: to read 400 KiB could stop the loop for a third of a second."""
COOKIE_BYTES_MAX: Final = 4 << 10

_BLANK: Final = " \t"
_seconds: Final = re.compile(r"(-?[0-9]{1,12})[0-9]*+").fullmatch
"""Cut to what a float can hold, with room."""
_date_delimiters: Final = re.compile(r"[\t -/;-@\[-`{-~]+").split
_path: Final = re.compile(r"; path=([^;]*)").search
_time: Final = re.compile(r"(\d{1,2}):(\d{1,2}):(\d{1,2})(?!\d)", re.ASCII).match
_day: Final = re.compile(r"(\d{1,2})(?!\d)", re.ASCII).match
_year: Final = re.compile(r"(\d{2,4})(?!\d)", re.ASCII).match
_MONTHS: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_YEAR_MIN: Final = 1601


def looked_at(values: Sequence[str]) -> Iterator[str]:
    """Of the Set-Cookie fields of a response, those that are read."""
    left = SET_BYTES_MAX
    for value in values[:SET_MAX]:
        if len(value) <= min(left, 2 * COOKIE_BYTES_MAX):
            left -= len(value)
            yield value


def _plain(field: str, host: str, *, is_tls: bool) -> str | None:
    """A field rewritten so that a jar takes it as user agents do; None if it sets nothing. An attribute that is none is left
    out, where a jar would leave out the cookie, or stumble; of several of a name the last counts. A domain that is the
    host's or above it says no more than the host does here, and a jar would not find what it has kept by it."""
    pair, *rest = field.split(";")
    name, equals, value = pair.partition("=")
    if not equals or not name.strip(_BLANK):
        return None
    kept: dict[str, str] = {}
    for attribute in rest:
        key, _, text = (part.strip(_BLANK) for part in attribute.partition("="))
        key = key.lower()
        if key == "secure":
            kept[key] = ""
        elif key == "path":
            kept[key] = text if text[:1] == "/" else ""
        elif key == "expires" and (date := _date(text)):
            kept[key] = date
        elif key == "max-age" and (seconds := _seconds(text)):
            kept[key] = seconds[1]
        elif key == "domain" and text:
            kept[key] = text.lower().removeprefix(".")
    if ("secure" in kept and not is_tls) or not _is_as_named(name.strip(_BLANK).lower(), kept):
        return None  # RFC 6265bis 5.7
    domain = kept.get("domain", "")
    if domain == host or ("." in domain and host.endswith(f".{domain}")):
        del kept["domain"]
    attributes = (f"; {key}={text}" if text else f"; {key}" for key, text in kept.items() if text or key == "secure")
    return f"{name.strip(_BLANK)}={value.strip(_BLANK)}{''.join(attributes)}"


def _is_as_named(name: str, attributes: dict[str, str]) -> bool:
    """Whether a cookie is what the prefix of its name says to those that get it back (RFC 6265bis 4.1.3)."""
    if name.startswith("__host-"):
        return "secure" in attributes and attributes.get("path") == "/" and "domain" not in attributes
    return "secure" in attributes or not name.startswith("__secure-")


def _date(text: str) -> str | None:
    """A date as user agents read it (RFC 6265 5.1.1), rewritten so that a jar does, too: it would take 70 for 2070. None if it
    is none."""
    time = day = year = None
    month = 0
    for token in _date_delimiters(text):
        if time is None and (found := _time(token)):
            time = found
        elif day is None and (found := _day(token)):
            day = int(found[1])
        elif not month and token[:3].lower() in _MONTHS:
            month = _MONTHS.index(token[:3].lower()) + 1
        elif year is None and (found := _year(token)):
            year = int(found[1])
    if time is None or day is None or year is None or not month:
        return None
    if year < 100:
        year += 1900 if year >= 70 else 2000
    if year < _YEAR_MIN:
        return None
    try:
        at = datetime(year, month, day, int(time[1]), int(time[2]), int(time[3]), tzinfo=UTC)
    except ValueError:
        return None
    return format_datetime(max(at, datetime.fromtimestamp(0, UTC)), usegmt=True)


class SetCookie:
    """A Set-Cookie field of a response as a jar wants it."""

    def __init__(self, value: str, host: str, *, is_tls: bool) -> None:
        """A jar stumbles over what is no text."""
        plain = _plain(value.encode("utf-8", "surrogateescape").decode("latin-1"), host, is_tls=is_tls)
        self._values = [] if plain is None else [plain]
        self.name = (plain or "").partition("=")[0]
        self.path = found[1] if plain is not None and (found := _path(plain)) else ""

    def info(self) -> SetCookie:
        return self

    def get_all(self, name: str, default: list[str]) -> list[str]:
        return self._values if name == "Set-Cookie" else default
