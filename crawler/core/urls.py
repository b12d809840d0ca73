"""URLs: parsed by the WHATWG standard (https://url.spec.whatwg.org, through ada-url), brought to one canonical form, hashed
and keyed. Pure.

Invariants: two texts name the same page of this crawl exactly if their canonical forms are equal. A canonical form never
carries a fragment or credentials. Most links are plain (nothing to escape, no dot segments) and are joined by slicing: that
path takes only what a differential test shows to be what ada-url makes; everything else goes to ada-url.
"""

from __future__ import annotations

import re
from fnmatch import translate
from functools import lru_cache
from typing import Final
from urllib.parse import unquote

from ada_url import join_url, normalize_url
from msgspec import Struct
from xxhash import xxh3_64_digest

from crawler.core.errors import FetchError

URL_BYTES_MAX: Final = 2083
TEXT_CHARS_MAX: Final = 64 << 10
"""Longer texts are too long whatever they would become; nothing that long is handed to the parser."""
_ORIGINS_MAX: Final = 1024

_SCHEMES: Final = ("http", "https")
_LABEL_BYTES_MAX: Final = 63
_NAME_BYTES_MAX: Final = 253
"""RFC 1035 2.3.4: 255 octets with the lengths of the labels and the root's."""

# Origin, path, query: nothing in them that the parser would change. A character class, not the standard's own sets:
# leaving a character out only costs time. The fragment is cut off, so anything the parser would take may stand in it. What
# one part has taken could be no other's, so none gives anything back: a text that does not match is looked at once.
_plain = re.compile(
    r"((?:https?:)?//[A-Za-z0-9._\-\[\]:]{1,255}+)?"
    r"([A-Za-z0-9\-._~!$&'()*+,;=:@%/|\[\]]*+)"
    r"(\?[!$-&(-;=?-~]*+)?"
    r"(?:#[^\ud800-\udfff]*+)?",
    re.DOTALL,
).fullmatch
# The same of the three shapes that most links have, without "%" and fragment; each may still hold a dot segment. What begins
# at the root may also be an authority.
_rooted = re.compile(r"/[!$&-;=@A-Z\[\]_a-z|~]*+(?:\?[!$-&(-;=?-~]*+)?").fullmatch
_beside = re.compile(r"[\w\-][!$&-9;=@A-Z\[\]_a-z|~]*+(?:\?[!$-&(-;=?-~]*+)?", re.ASCII).fullmatch
_whole = re.compile(r"(https?://[A-Za-z0-9._\-\[\]:]{1,255}+)(/[!$&-;=@A-Z\[\]_a-z|~]*+(?:\?[!$-&(-;=?-~]*+)?)").fullmatch
_scheme = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*):").match
_surrogate = re.compile(r"[\ud800-\udfff]").search
_called_sitemap = re.compile(r"sitemap|\.(?:xml|txt|rss|atom)(?:\.gz)?$", re.IGNORECASE).search
_beyond_ascii = re.compile(rb"[\x80-\xff]").sub


class UrlRules(Struct, frozen=True):
    """What canonical means in this crawl, beyond the standard. ``drop_params`` are names or patterns such as ``utm_*``."""

    max_bytes: int = URL_BYTES_MAX
    drop_params: tuple[str, ...] = ()
    sort_query: bool = False

    def apply(self, href: str) -> str:
        """The canonical form of a parsed URL; FetchError ``too_long``."""
        if (self.drop_params or self.sort_query) and "?" in href:
            href = self._query(href)
        if len(href) > self.max_bytes:
            raise FetchError("too_long", f"{len(href)} bytes")
        return href

    def _query(self, href: str) -> str:
        before, _, query = href.partition("?")
        kept = query.split("&")
        if self.drop_params:
            drops = _pattern(self.drop_params).match
            kept = [part for part in kept if not drops(unquote(part.partition("=")[0]))]
        if self.sort_query:
            kept = sorted(kept, key=lambda part: part.partition("=")[0])  # stable: a repeated name keeps its order
        return f"{before}?{'&'.join(kept)}" if kept else before


_STANDARD: Final = UrlRules()


class Url(Struct, frozen=True, gc=False):
    """A parsed http or https URL. ``href`` is canonical.

    ``credentials`` is the decoded ``user:password`` that stood in the text, or None; they are in no other field and not
    in the repr."""

    href: str
    credentials: str | None = None

    def __repr__(self) -> str:
        return f"Url({self.href!r})"

    @property
    def host(self) -> str:
        """The host key: host name, and ``:port`` unless it is the scheme's default. IPv6 stands in brackets."""
        return host_key(self.href)

    @property
    def hostname(self) -> str:
        host = self.host
        return host if host.endswith("]") else host.partition("]:")[0] + "]" if host[0] == "[" else host.partition(":")[0]


class Base:
    """What relative references on one page are joined to; made once per page."""

    __slots__ = (
        *("_bytes_max", "_dir", "_href", "_keeps_query", "_origin", "_path", "_quick_max", "_root", "_rules", "_scheme"),
    )

    def __init__(self, href: str, rules: UrlRules = _STANDARD) -> None:
        """``href`` is canonical (``about:blank`` and the like join absolute references only)."""
        self._href, self._rules = href, rules
        self._bytes_max = rules.max_bytes
        self._keeps_query = not rules.drop_params and not rules.sort_query
        self._origin = origin(href) if href.startswith(("http://", "https://")) else ""
        self._scheme = href[: href.find(":") + 1]
        self._path = href.partition("?")[0]
        self._dir = self._path[: self._path.rfind("/") + 1]
        self._root = len(self._origin) + 1  # length of a dir that is the root
        is_quick = self._origin and self._keeps_query
        self._quick_max = rules.max_bytes - len(self._dir) if is_quick else 0  # characters that surely are not too many

    def join(self, reference: str) -> str:
        """The canonical URL that ``reference`` names on this page. FetchError: syntax, scheme, too_long, encoding."""
        if len(reference) <= self._quick_max and "/." not in reference:
            # most links of most pages: they follow the origin or the directory as they stand, or are whole
            if reference[:1] == "/":
                if reference[1:2] != "/" and _rooted(reference):
                    return self._origin + reference
            elif reference[:4] == "http" and (match := _whole(reference)):
                origin, path = match.groups()
                if len(joined := _origin_of(origin) + path) <= self._bytes_max:
                    return joined
            elif _beside(reference):
                return self._dir + reference
        href = self._join_plain(reference)
        if href is None:
            href = _parse(reference, self._href)[0]
        elif len(href) <= self._bytes_max and ("?" not in href or self._keeps_query):
            return href  # the rules would say the same
        return self._rules.apply(href)

    def _join_plain(self, reference: str) -> str | None:
        match = _plain(reference)
        if match is None or not self._origin:
            return None
        authority, path, query = match.groups("")
        if authority:
            return _absolute(self._scheme + authority if authority[0] == "/" else authority, path, query)
        if not path:
            return self._path + query if query else self._href
        if "/." in path or ("%" in path and "%2e" in path.lower()):
            return None
        if path[0] == "/":
            return None if path[1:2] == "/" else self._origin + path + query
        if path[0] != ".":
            return None if ":" in path else self._dir + path + query
        if not path.startswith("../"):
            return None
        directory = self._dir if len(self._dir) == self._root else self._dir[: self._dir.rfind("/", 0, -1) + 1]
        return directory + path[3:] + query


def parse(text: str, base: str | None = None, rules: UrlRules = _STANDARD) -> Url:
    """The URL that ``text`` names, relative to ``base`` if given. FetchError: syntax, scheme, too_long, encoding."""
    if base is None and (match := _plain(text)) and text.startswith("http"):
        authority, path, query = match.groups("")
        if authority and (href := _absolute(authority, path, query)):
            return Url(rules.apply(href))
    href, credentials = _parse(text, base)
    return Url(rules.apply(href), credentials)


def join(base: str, href: str) -> str:
    """The canonical URL that ``href`` names on the page ``base``; for many links of one page see ``Base``."""
    return Base(base).join(href)


def escaped(reference: bytes) -> str:
    """A URL reference as it stands in a header field. Its bytes beyond ASCII are in no encoding (RFC 9110 5.5): each is
    percent-encoded as it is, as browsers do (RFC 3986 2.1)."""
    return _beyond_ascii(lambda byte: b"%%%02X" % byte[0][0], reference).decode("ascii")


def name_fault(hostname: str) -> str | None:
    """Why no host can have this name (RFC 1035 2.3.4, which the URL standard does not ask for); None if one can."""
    if len(hostname) <= _LABEL_BYTES_MAX and ".." not in hostname and hostname[0] != ".":
        return None
    name = hostname.removesuffix(".")
    if len(name) > _NAME_BYTES_MAX:
        return f"a name of {len(name)} bytes"
    longest = max(map(len, name.split(".")))
    if longest > _LABEL_BYTES_MAX:
        return f"a label of {longest} bytes"
    return None if all(name.split(".")) else "an empty label"


def origin(href: str) -> str:
    """``https://example.org:8443`` of a canonical URL."""
    end = href.find("/", 8)  # behind "https://" or the first letter behind "http://"
    return href if end < 0 else href[:end]


def host_key(href: str) -> str:
    """The politeness unit of a canonical URL: ``example.org``, ``example.org:8443``, ``[2001:db8::1]``.

    http and https on their default ports share it."""
    start = 7 if href[4] == ":" else 8
    return href[start : href.find("/", start)]


def is_called_sitemap(href: str) -> bool:
    """Whether the path of a canonical URL is one that sitemaps have."""
    return _called_sitemap(href.partition("?")[0], len(origin(href))) is not None


def fingerprint(data: str | bytes, seed: int = 0) -> bytes:
    """8 bytes, big-endian xxh3-64. Seeded with a crawl's secret, nobody can aim collisions at it."""
    return xxh3_64_digest(data.encode() if isinstance(data, str) else data, seed=seed)


# Looser than the standard on purpose: a text that is no valid URL may hold a password all the same.
_userinfo = re.compile(r"(?!\W*mailto:)([^/\\?#@:]*:[/\\\s]*+|\s*[/\\][/\\\s]++)[^/\\?#]*@", re.IGNORECASE).match


def masked(text: str) -> str:
    """``text`` with what may be credentials replaced by ``***``, valid URL or not: fit for rows and logs."""
    match = _userinfo(text)
    return text if match is None else f"{match[1]}***{text[match.end() - 1 :]}"


def _absolute(authority: str, path: str, query: str) -> str | None:
    """Scheme, authority, path and query put together; None if that takes the parser."""
    if not path:
        path = "/"
    elif path[0] != "/" or "/." in path or ("%" in path and "%2e" in path.lower()):
        return None
    return _origin_of(authority) + path + query


@lru_cache(maxsize=_ORIGINS_MAX)
def _origin_of(authority: str) -> str:
    """``http://EXAMPLE.org:80`` → ``http://example.org``. A page's links name few hosts: IDNA and IPv4 forms are done once."""
    try:
        return normalize_url(authority + "/")[:-1]
    except ValueError:
        raise FetchError("syntax") from None


def _parse(text: str, base: str | None) -> tuple[str, str | None]:
    """Canonical URL and credentials, by ada-url."""
    scheme = _scheme(text)
    if scheme is not None and scheme[1].lower() not in _SCHEMES:
        raise FetchError("scheme", scheme[1][:32])
    if len(text) > TEXT_CHARS_MAX:
        raise FetchError("too_long", f"{len(text)} characters")
    try:
        href = normalize_url(text) if base is None else join_url(base, text)
    except ValueError:
        raise FetchError("encoding" if _surrogate(text) else "syntax") from None
    if not href.startswith(("http://", "https://")):
        raise FetchError("scheme", href.partition(":")[0][:32])
    href = href.partition("#")[0]
    start = href.index("/") + 2
    at = href.rfind("@", start, href.find("/", start))
    if at < 0:
        return href, None
    user, _, password = href[start:at].partition(":")
    return href[:start] + href[at + 1 :], f"{unquote(user)}:{unquote(password)}"


@lru_cache(maxsize=8)
def _pattern(names: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(rf"{re.escape(name)}\Z|{translate(name)}" for name in names))  # "a[b]" is also a plain name
