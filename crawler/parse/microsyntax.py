"""The small grammars around links: Refresh, srcset, Link and X-Robots-Tag values, queries in a page's encoding, and
dates. Pure.

Every function is linear in the text, and no text raises.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final
from urllib.parse import quote_from_bytes

DIRECTIVES: Final = frozenset({"noindex", "nofollow", "noarchive", "nosnippet", "noimageindex", "notranslate", "indexifembedded"})

# quantifiers are possessive: where one has taken all it can, giving back would only cost time
_refresh = re.compile(
    r"\s*+(?:\d[\d.]*+|\.[\d.]*+)(?:\s++[;,]?|[;,])\s*+(?:url\s*+=\s*+)?([\"']?)(.*)", re.ASCII | re.IGNORECASE | re.DOTALL
).match
_candidate = re.compile(r"[\t\n\f\r ,]*+([^\t\n\f\r ]++)").match
_descriptors = re.compile(r"(?:[^,(]++|\([^)]*+\)?)*+").match
# the last group is not possessive: before Python 3.11.5 it would keep the beginning of a string that does not end
_target = re.compile(r"[\s,]*+<([^>]*+)>([^,\"]*+(?:\"(?:[^\"\\]++|\\.)*+\"[^,\"]*+)*)").match
_parameters = re.compile(r";\s*+([^\s;,=\"]++)\s*+(?:=\s*+(?:\"((?:[^\"\\]++|\\.)*+)\"?|([^\s;,\"]*+)))?").findall
_token = re.compile(r"[A-Za-z0-9_.\-]+").fullmatch


def refresh(value: str) -> str | None:
    """The URL in a Refresh header or <meta http-equiv=refresh>, None if it only reloads (HTML, declarative refresh)."""
    match = _refresh(value)
    if match is None:
        return None
    target = match[2].partition(match[1])[0] if match[1] else match[2]
    return target.strip(" \t\n\f\r") or None


def srcset(value: str) -> Iterator[str]:
    """The URLs of a srcset attribute (HTML, parsing a srcset attribute)."""
    at = 0
    while match := _candidate(value, at):
        url, at = match[1], match.end()
        yield url.rstrip(",")
        if url[-1] != "," and (descriptors := _descriptors(value, at)):
            at = descriptors.end()


def link_header(value: str) -> Iterator[tuple[str, str, str]]:
    """(target, rel, type) of each link (RFC 8288); of several parameters of one name the first counts."""
    at = 0
    while match := _target(value, at):
        at = match.end()
        said = {name.lower(): quoted or plain for name, quoted, plain in reversed(_parameters(match[2]))}
        yield match[1], said.get("rel", ""), said.get("type", "")


def directives(content: str) -> set[str]:
    """What a meta robots says; ``none`` is noindex and nofollow. Commas part the words, in careless pages semicolons."""
    words = set(content.lower().replace(",", " ").replace(";", " ").split())
    return words & DIRECTIVES | ({"noindex", "nofollow"} if "none" in words else set())


def robots_tag(value: str, agent: str) -> set[str]:
    """Directives for ``agent`` in one X-Robots-Tag; the name of an agent holds for all that follows it."""
    said: list[str] = []
    ours = True
    for part in value.split(","):
        if ":" in part:
            before, _, rest = part.partition(":")
            name = before.strip().lower()
            if _token(name) and name != "unavailable_after" and not name.startswith("max-"):
                ours, part = name == agent.lower(), rest
        if ours:
            said.append(part)
    return directives(" ".join(said))


# ---- what a text says of its own encoding; it reads as ASCII, so it is not UTF-16 whatever it says

_xml_declared = re.compile(rb"<\?xml[^>]{0,200}?\sencoding\s*=\s*[\"']([A-Za-z0-9_.:\-]{1,40})[\"']").search
_css_declared = re.compile(rb"@charset \"([A-Za-z0-9_.:\-]{1,40})\";").match
_DECLARED_BYTES: Final = 64 << 10


def xml_label(body: bytes) -> str | None:
    """The label in an XML declaration, also where something stands before it that should not."""
    return _label(_xml_declared(body, 0, _DECLARED_BYTES))


def css_label(body: bytes) -> str | None:
    """The label in an @charset rule (CSS Syntax, determining the fallback encoding)."""
    return _label(_css_declared(body))


def _label(found: re.Match[bytes] | None) -> str | None:
    if found is None:
        return None
    label = found[1].decode().lower()
    return "utf-8" if label.startswith(("utf-16", "utf16")) else label


# ---- a query is sent in the encoding of its page (URL, query state)

_CODECS: Final = {
    "big5": "big5hkscs",
    "euc-kr": "cp949",
    "iso-8859-8-i": "iso-8859-8",
    "macintosh": "mac-roman",
    "shift_jis": "cp932",
    "windows-874": "cp874",
    "x-mac-cyrillic": "mac-cyrillic",
}
_USER_DEFINED: Final = "x-user-defined"
_OWN_TABLES: Final = (
    {"big5hkscs": "big5", "cp874": "windows-874", "cp932": "shift_jis", "euc_jp": "euc-jp"}
    | {name: name for name in ("gb18030", "gbk", "koi8-u", _USER_DEFINED)}
    | {f"cp{number}": f"windows-{number}" for number in range(1250, 1259)}
)
"""Python's codecs that write other letters than the standard's encodings, no full-width tilde for one, and what it calls them."""
_BIG5_LEAD_MIN: Final = 0xA1
_BIG5_LAST: Final = "\u2550\u255e\u2561\u256a\u5341\u5345"
"""What begins lower is read, never written; and of these characters the last way is (Encoding, index Big5 pointer)."""
_NEC_LEADS: Final = range(0xED, 0xF0)
"""In Shift_JIS these are read, never written: each of their letters stands elsewhere as well (index Shift_JIS pointer)."""
_JAPANESE: Final = {"\xa5": b"\\", "\u203e": b"~"}
"""What Japanese encodings write as another letter of ASCII. ISO-2022-JP has a set for these."""
_ODD_GB18030: Final = {"\ue5e5": b"%26%2358853%3B", "\ue7c7": b"\x815\xf47"}
_PRIVATE_GBK: Final = tuple(map(chr, (*range(0xE78D, 0xE797), 0xE81E, 0xE826, 0xE82B, 0xE82C, 0xE832, 0xE843, 0xE854, 0xE864)))
"""What these two bytes were read as before GB 18030 had letters for them, they still write (Encoding, gb18030 encoder, 5)."""
_FULL_WIDTH: Final = {"\uff9e": "\u309b", "\uff9f": "\u309c"}
"""Half-width marks of katakana; the letters are as in NFKC (Encoding, index ISO-2022-JP katakana)."""
_IN_QUERY: Final = "".join(chr(code) for code in (9, 10, 13, *range(32, 127)) if chr(code) != "#")


def query_codec(encoding: str) -> str | None:
    """Python's name for a page's encoding (WHATWG name), None where queries are UTF-8."""
    name = encoding.lower()
    if name.startswith("utf-") or name == "replacement":
        return None
    if name == _USER_DEFINED:
        return name
    try:
        return codecs.lookup(_CODECS.get(name, name)).name
    except LookupError:
        return None


def codec_of(encoding: str) -> str:
    """Python's name for the codec that decodes an encoding (WHATWG name)."""
    if encoding == "GBK":
        return "gb18030"  # the standard has one decoder for both
    if encoding == _USER_DEFINED:
        return "utf-8"  # Python has none
    return query_codec(encoding) or {"UTF-16LE": "utf-16-le", "UTF-16BE": "utf-16-be"}.get(encoding, "utf-8")


def reencoded(reference: str, codec: str) -> str:
    """``reference`` with its query as the bytes of that encoding, percent-encoded; what it cannot say as ``&#...;``."""
    before, mark, rest = reference.partition("?")
    query, fragment, _ = rest.partition("#")
    if not mark or "#" in before or query.isascii():
        return reference
    return f"{before}?{quote_from_bytes(_encoded(query, codec), safe=_IN_QUERY)}{fragment}"


def _encoded(query: str, codec: str) -> bytes:
    if codec == "iso2022_jp":
        return _switching(query)
    if (name := _OWN_TABLES.get(codec)) is None:
        return query.encode(codec, "crawler.query")
    table, other = _table(name), "gb18030" if name == "gb18030" else "ascii"  # which has all there is, in four bytes
    return b"".join(table.get(char) or char.encode(other, "crawler.query") for char in query)


def _switching(query: str) -> bytes:
    """In ISO-2022-JP, with the sequences that choose a character set (Encoding, ISO-2022-JP encoder)."""
    from unicodedata import normalize  # few pages are in it

    table, written, now = _table("euc-jp"), bytearray(), b"\x1b(B"
    for char in (*query, "\n"):
        if "\uff61" <= char <= "\uff9f":
            char = _FULL_WIDTH.get(char) or normalize("NFKC", char)
        code = table.get(char, b"") if char not in _JAPANESE else b""
        if len(code) == 2 and code[0] > 0xA0:
            wanted, code = b"\x1b$B", bytes(byte & 0x7F for byte in code)
        elif char in _JAPANESE:
            wanted, code = b"\x1b(J", _JAPANESE[char]
        else:
            is_either = now == b"\x1b(J" and char not in "\\~\n"
            wanted, code = now if is_either else b"\x1b(B", _unread(char).encode("ascii", "crawler.query")
        written += code if wanted == now else wanted + code
        now = wanted
    return bytes(written[:-1])


def _unread(char: str) -> str:
    """What would itself choose a character set is written as no character."""
    return "\ufffd" if char in "\x0e\x0f\x1b" else char


@lru_cache(maxsize=4)
def _table(name: str) -> dict[str, bytes]:
    """How an encoding writes each character that it has in one or two bytes, by its decoder: of several ways the first."""
    from turbohtml import detect  # registers the codecs

    assert detect
    known = [bytes((byte,)) for byte in range(0x80, 0x100)] if name != "gb18030" else []
    if not name.startswith(("windows-", "koi8-", _USER_DEFINED)):
        lead_min = _BIG5_LEAD_MIN if name == "big5" else 0x81
        leads = [lead for lead in range(lead_min, 0xFF) if name != "shift_jis" or lead not in _NEC_LEADS]
        known += [bytes((lead, trail)) for lead in leads for trail in range(0x40, 0xFF)]
    read = codecs.lookup(f"whatwg-{name}").decode(b"\n".join(known))[0].split("\n")
    table: dict[str, bytes] = {}
    for char, written in zip(read, known, strict=True):
        if len(char) == 1 and char != "\ufffd" and (char not in table or (name == "big5" and char in _BIG5_LAST)):
            table[char] = written
    if name in ("shift_jis", "euc-jp"):
        table = {char: written for char, written in table.items() if not "\ue000" <= char <= "\uf8ff"} | _JAPANESE
        table["\u2212"] = table["\uff0d"]
    if name == "gbk":
        table |= {char: char.encode("gb18030") for char in _PRIVATE_GBK}
    return table | _ODD_GB18030 if name == "gb18030" else table


def _unencodable(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(f"%26%23{ord(char)}%3B" for char in error.object[error.start : error.end]), error.end


codecs.register_error("crawler.query", _unencodable)


def _raw(error: UnicodeError) -> tuple[str, int]:
    """Bytes that are not of the encoding, as halves of surrogate pairs (as ``surrogateescape`` has them), but for ASCII."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    if error.encoding.startswith("utf-16"):
        return "\ufffd", error.end
    return "".join(chr(byte if byte < 0x80 else 0xDC00 + byte) for byte in error.object[error.start : error.end]), error.end


codecs.register_error("crawler.raw", _raw)


def decoded_raw(decoder: codecs.IncrementalDecoder, data: bytes, final: bool) -> str:
    """The next piece of a text, by a decoder whose errors are ``crawler.raw``. Where a piece ends within what only begins like an
    escape sequence, that of ISO-2022-JP raises: the piece is read as ASCII then."""
    try:
        return decoder.decode(data, final)
    except UnicodeError:
        decoder.reset()
        return data.decode("ascii", "crawler.raw")


def date_of(text: str) -> float | None:
    """Wall time of a date as sitemaps and Atom have it (https://www.w3.org/TR/NOTE-datetime), where a day, month or year alone
    is its beginning, or as RSS has it (RFC 822)."""
    if len(text) in (4, 7) and text.isascii() and text[:4].isdigit():
        text += "-01-01" if len(text) == 4 else "-01"
    try:
        at = _date_of_mail(text) if text[:1].isalpha() or " " in text[:3] else datetime.fromisoformat(text)
        return (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, OverflowError, LookupError):  # which of these depends on the nonsense
        return None


def _date_of_mail(text: str) -> datetime:
    from email.utils import parsedate_to_datetime  # 600 KB, and few parser processes see a feed

    return parsedate_to_datetime(text)
