"""What the site does wrong in HTTP itself, and how each of it must end: name → Sin.

Status line, head, framing, interim answers, second answers, redirects. ``sins_coding`` has content codings, ``sins_net``
names, addresses, TLS and proxies, ``sins_smuggled`` what two readers would read differently.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from support.sinful import Script, forever, hang, head, rst, stay

SOON: Final = {"first_byte_timeout": 0.4}
SILENCE: Final = {"read_timeout": 0.4}
SLOW: Final = {"min_rate": 10_000, "min_rate_grace": 0.4}
OK = head(2) + b"ok"


@dataclass(frozen=True)
class Sin:
    """A script and its required end. ``config``: settings without which the test would take long."""

    script: Script
    outcome: str
    reason: str | tuple[str, ...] | None = None
    """Several where the network's timing decides between them."""
    config: dict[str, Any] = field(default_factory=dict)
    given: str | None = None
    """The URL, where it is not ``/sin/NAME``. {http}, {dns}, {tls-good} ... here and in ``config`` are the site's ports,
    {ca} is the file of its authority."""


def bad(script: Script, reason: str = "malformed", **config: Any) -> Sin:
    return Sin(script, "bad_response", reason, config)


def fine(script: Script, outcome: str = "ok", **config: Any) -> Sin:
    return Sin(script, outcome, None, config)


def chunked(*chunks: bytes, last: bytes = b"0\r\n\r\n", fields: tuple[str, ...] = ()) -> bytes:
    body = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    return head(None, "Transfer-Encoding: chunked", *fields) + body + last


CHUNKED: Final = head(None, "Transfer-Encoding: chunked")
HTTP10: Final = b"HTTP/1.0 200 OK\r\nContent-Type: text/html\r\n\r\n"

STATUS_LINE: Final = {
    "nothing": Sin([], "connect_error", "disconnected"),
    "nothing-but-reset": Sin([rst], "connect_error", "reset"),
    "silence": Sin([hang], "timeout", "first_byte_timeout", SOON),
    "one-byte-then-silence": Sin([b"H", hang], "timeout", "first_byte_timeout", SOON),
    "status-line-drip": Sin([forever(b"H", 0.05)], "bad_response", "malformed"),
    "head-drip": Sin([b"HTTP/1.1 200 OK\r\nX: ", forever(b"x", 0.05)], "timeout", "first_byte_timeout", SOON),
    "half-head": Sin([b"HTTP/1.1 200 OK\r\nContent-Le"], "connect_error", "disconnected"),
    "half-head-reset": Sin([b"HTTP/1.1 200 OK\r\nContent-Le", 0.1, rst], "connect_error", "reset"),
    "empty-lines-endless": bad([forever(b"\r\n" * 4096)], "header_too_large"),
    "empty-lines-of-returns-endless": bad([forever(b"\r" * 8192)], "header_too_large"),
    "empty-lines-100KiB": fine([b"\r\n" * (50 << 10) + OK, stay]),
    "head-without-end": Sin([b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n"], "connect_error", "disconnected"),
    "garbage-line": bad([b"asdf qwer zxcv\r\n\r\n"]),
    "garbage-binary": bad([bytes(range(256)) * 10]),
    "zeros": bad([bytes(5000)]),
    "html-without-head": bad([b"<html><p>HTTP/0.9</html>"]),
    "tls-alert": bad([b"\x15\x03\x01\x00\x02\x02\x28"]),
    "no-status": bad([b"HTTP/1.1\r\n\r\n"]),
    "status-letters": bad([b"HTTP/1.1 2x0 OK\r\n\r\n"]),
    "status-four-digits": bad([b"HTTP/1.1 2000 OK\r\n\r\n"]),
    "status-two-digits": bad([b"HTTP/1.1 20 OK\r\n\r\n"]),
    "status-negative": bad([b"HTTP/1.1 -200 OK\r\n\r\n"]),
    "status-000": bad([head(0, status="000 None")]),
    "status-099": bad([head(0, status="099 None")]),
    "status-600": fine([head(0, status="600 Odd")], "http_error"),
    "status-999": fine([head(0, status="999 Denied")], "http_error"),
    "version-0.9": bad([b"HTTP/0.9 200 OK\r\nContent-Length: 0\r\n\r\n"]),
    "version-1.2": bad([b"HTTP/1.2 200 OK\r\nContent-Length: 0\r\n\r\n"]),
    "version-2.0": bad([b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n"]),
    "version-9.9": bad([b"HTTP/9.9 200 OK\r\nContent-Length: 0\r\n\r\n"]),
    "version-long": bad([b"HTTP/1.11111111 200 OK\r\nContent-Length: 0\r\n\r\n"]),
    "http2-preface": bad([b"\x00\x00\x12\x04\x00\x00\x00\x00\x00" + bytes(18)]),
    "icy": bad([b"ICY 200 OK\r\n\r\n"]),
    "rtsp": bad([b"RTSP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok"]),
    "ice": bad([b"ICE/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok"]),
    "rtsp-after-interim": bad([b"HTTP/1.1 100 Continue\r\n\r\nRTSP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok"]),
    "lower-case-http": bad([b"http/1.1 200 ok\r\nContent-Length: 0\r\n\r\n"]),
    "no-phrase": fine([b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok"]),
    "empty-phrase": fine([b"HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\nok"]),
    "latin-1-phrase": fine([b"HTTP/1.1 200 tr\xe8s bien\r\nContent-Length: 2\r\n\r\nok"]),
    "long-phrase": bad([b"HTTP/1.1 200 " + b"x" * 100_000 + b"\r\n\r\n"], "header_too_large"),
    "endless-status-line": bad([b"HTTP/1.1 200 ", forever(b"x" * 8192)], "header_too_large"),
    "endless-line-ends": bad([forever(b"\r\n" * 4096)], "header_too_large"),
    "endless-new-lines": bad([forever(b"\n" * 8192)], "header_too_large"),
    "line-ends-first": fine([b"\r\n\r\n" + OK]),
    "space-first": bad([b" HTTP/1.1 200 OK\r\n\r\n"]),
}

HEAD: Final = {
    "line-33KiB": bad([head(2, "X: " + "x" * (33 << 10)) + b"ok"], "header_too_large"),
    "line-31KiB": fine([head(2, "X: " + "x" * (31 << 10)) + b"ok"]),
    "name-33KiB": bad([head(2, "x" * (33 << 10) + ": x") + b"ok"], "header_too_large"),
    "headers-300": bad([head(2, *(f"X-{n}: x" for n in range(300))) + b"ok"], "too_many_headers"),
    "headers-200": fine([head(2, *(f"X-{n}: x" for n in range(200))) + b"ok"]),
    "headers-endless": bad([b"HTTP/1.1 200 OK\r\n", forever(b"A: b\r\n" * 100)], "too_many_headers"),
    "header-endless": bad([b"HTTP/1.1 200 OK\r\nA: ", forever(b"b" * 8192)], "header_too_large"),
    "name-endless": bad([b"HTTP/1.1 200 OK\r\n", forever(b"b" * 8192)], "header_too_large"),
    "fold-endless": bad([b"HTTP/1.1 200 OK\r\nA: b", forever(b"\r\n " + b"c" * 1000)], "header_too_large"),
    "head-500KiB": bad([head(2, *(f"X-{n}: {'x' * 2048}" for n in range(250))) + b"ok"], "header_too_large"),
    "head-over-max-in-one-piece": bad([head(2, "X: " + "x" * 2000) + b"ok"], "header_too_large", max_head=1024),
    "head-over-max-with-interim": bad(
        [head(None, "X: " + "x" * 500, status="103 Hints") + head(2, "X: " + "x" * 500) + b"o"],
        "header_too_large",
        max_head=1024,
    ),
    "head-within-max-body-beyond": fine([head(2000, "X: " + "x" * 500) + b"o" * 2000, stay], max_head=1024),
    "header-without-colon": fine([head(2, "nonsense") + b"ok"]),
    "header-space-before-colon": fine([head(2, "X-A : b") + b"ok", stay]),
    "header-space-before-colon-in-pieces": fine([head(2)[:-2] + b"X-", 0.05, b"A ", 0.05, b" : b\r\n\r\nok", stay]),
    "header-spaces-before-colon-many": fine([head(2, f"X-A{' ' * 9}: b") + b"ok", stay]),
    "header-empty-name": fine([head(2, ": b") + b"ok", stay]),
    "header-control-name": fine([head(2, "X\x01: b") + b"ok", stay]),
    "header-latin-1-name": fine([head(2, "X\xe9: b") + b"ok", stay]),
    "header-names-none-many": bad([head(2, *["a b: c"] * 600) + b"ok"]),
    "header-nul": bad([head(2, "X: a\0b") + b"ok"]),
    "header-bare-cr": bad([head(2, "X: a\rb") + b"ok"]),
    "header-latin-1": fine([head(2, "X: caf\xe9") + b"ok"]),
    "header-tabs": fine([head(2, "X:\t a \t") + b"ok"]),
    "header-empty": fine([head(2, "X:") + b"ok"]),
    "header-folded": fine([head(2, "X: a\r\n b") + b"ok"]),
    "new-lines-only": fine([head(2).replace(b"\r\n", b"\n") + b"ok"]),
    "content-type-twice": fine([head(2, "Content-Type: image/png") + b"ok"]),
    "content-type-nonsense": fine([head(2, mime="//;;==") + b"ok"]),
    "content-type-path": fine([head(2, mime="../../etc/passwd") + b"ok"]),
    "cookie-bomb": fine([head(2, *(f"Set-Cookie: c{n}={'x' * 900}" for n in range(200))) + b"ok"]),
    "cookie-quotes": fine([head(2, *('Set-Cookie: a="' + '\\"' * 4000 for _ in range(8))) + b"ok"]),
    "link-bomb": fine([head(2, "Link: " + "<a>; rel=x, " * 2000) + b"ok"]),
    "date-nonsense": fine([head(2, "Date: yesterday", "Last-Modified: never", "ETag: \\") + b"ok"]),
}

FRAMING: Final = {
    "length-short": Sin([head(100) + b"x" * 50], "truncated", "content_length"),
    "length-short-by-one": Sin([head(100) + b"x" * 99], "truncated", "content_length"),
    "length-nothing-came": Sin([head(100)], "truncated", "content_length"),
    "length-reset": Sin([head(100) + b"x" * 50, 0.1, rst], "truncated", "content_length"),
    "length-silence": Sin([head(100) + b"x" * 50, hang], "timeout", "read_timeout", SILENCE),
    "length-10": Sin([HTTP10.replace(b"\r\n\r\n", b"\r\nContent-Length: 100\r\n\r\n") + b"x"], "truncated", "content_length"),
    "length-negative": bad([head(None, "Content-Length: -5") + b"hello"]),
    "length-plus": bad([head(None, "Content-Length: +5") + b"hello"]),
    "length-hex": bad([head(None, "Content-Length: 0x5") + b"hello"]),
    "length-float": bad([head(None, "Content-Length: 5.0") + b"hello"]),
    "length-letters": bad([head(None, "Content-Length: five") + b"hello"]),
    "length-list": fine([head(None, "Content-Length: 5, 5") + b"hello", stay]),
    "length-list-other": bad([head(None, "Content-Length: 5, 6") + b"hello"]),
    "length-list-and-another": bad([head(6, "Content-Length: 5, 5") + b"hello!"]),
    "length-list-empty-element": bad([head(None, "Content-Length: 5,") + b"hello"]),
    "length-list-plus": bad([head(None, "Content-Length: +5, +5") + b"hello"]),
    "length-inner-space": bad([head(None, "Content-Length: 5 5") + b"hello"]),
    "length-overflow": bad([head(None, "Content-Length: " + "9" * 30) + b"hello"]),
    "length-twice": fine([head(5, "Content-Length: 5") + b"hello", stay]),
    "length-twice-and-chunked": bad([head(5, "Content-Length: 5", "Transfer-Encoding: chunked") + b"5\r\nhello\r\n0\r\n\r\n"]),
    "length-twice-other": bad([head(5, "Content-Length: 6") + b"hello"]),
    "length-exabytes": Sin([head(None, f"Content-Length: {2**62}"), forever(b"x" * 65536)], "too_large", "max_body"),
    "length-zero": fine([head(0), stay]),
    "length-too-small": fine([head(2) + b"ok" + b"more" * 100, hang]),
    "length-and-chunked": bad([head(5, "Transfer-Encoding: chunked") + b"5\r\nhello\r\n0\r\n\r\n"]),
    "transfer-gzip": bad([head(None, "Transfer-Encoding: gzip") + b"hello"]),
    "transfer-gzip-chunked": bad([head(None, "Transfer-Encoding: gzip, chunked") + b"5\r\nhello\r\n0\r\n\r\n"]),
    "transfer-chunked-gzip": bad([head(None, "Transfer-Encoding: chunked, gzip") + b"hello"]),
    "transfer-chunked-twice": bad([head(None, "Transfer-Encoding: chunked, chunked") + b"5\r\nhello\r\n0\r\n\r\n"]),
    "transfer-xchunked": bad([head(None, "Transfer-Encoding: xchunked") + b"5\r\nhello\r\n0\r\n\r\n"]),
    "transfer-identity": fine([head(None, "Transfer-Encoding: identity") + b"hello"]),
    "transfer-upper-case": fine([head(None, "Transfer-Encoding: CHUNKED") + b"5\r\nhello\r\n0\r\n\r\n"]),
    "chunked-good": fine([chunked(b"hello", b"x" * 70_000), stay]),
    "chunked-extensions": fine([CHUNKED + b'5;a=b;c="d"\r\nhello\r\n0;x\r\n\r\n', stay]),
    "chunked-extension-blank": fine([CHUNKED + b"5; name=value\r\nhello\r\n0\r\n\r\n", stay]),
    "chunked-extension-blanks": fine([CHUNKED + b'5 \t;\ta = "b; c" ; d\r\nhello\r\n0 ; last\r\n\r\n', stay]),
    "chunked-extension-bytes": fine([CHUNKED + b"5; a=\xe9\xff\r\nhello\r\n0\r\n\r\n", stay]),
    "chunked-trailers": fine([chunked(b"hello", last=b"0\r\nX-Sum: 1\r\n\r\n"), hang]),
    "chunked-upper-hex": fine([CHUNKED + b"00A\r\nhellohello\r\n0\r\n\r\n", stay]),
    "chunked-no-size": Sin([CHUNKED + b"\r\nhello\r\n0\r\n\r\n"], "truncated", "chunked"),
    "chunked-size-letters": Sin([CHUNKED + b"xyz\r\nhello\r\n"], "truncated", "chunked"),
    "chunked-size-negative": Sin([CHUNKED + b"-5\r\nhello\r\n0\r\n\r\n"], "truncated", "chunked"),
    "chunked-size-0x": Sin([CHUNKED + b"0x5\r\nhello\r\n0\r\n\r\n"], "truncated", "chunked"),
    "chunked-size-overflow": Sin([CHUNKED + b"1" + b"0" * 16 + b"\r\nhello"], "truncated", "chunked"),
    "chunked-size-too-small": Sin([CHUNKED + b"2\r\nhello\r\n0\r\n\r\n"], "truncated", "chunked"),
    "chunked-size-endless": bad([CHUNKED, forever(b"0" * 8192)]),
    "chunked-cut-in-chunk": Sin([CHUNKED + b"a\r\nhello"], "truncated", "chunked"),
    "chunked-cut-after-chunk": Sin([CHUNKED + b"5\r\nhello\r\n"], "truncated", "chunked"),
    "chunked-cut-in-last": Sin([CHUNKED + b"5\r\nhello\r\n0\r\n"], "truncated", "chunked"),
    "chunked-cut-in-trailer": Sin([CHUNKED + b"5\r\nhello\r\n0\r\nX: y\r\n"], "truncated", "chunked"),
    "chunked-cut-at-once": Sin([CHUNKED], "truncated", "chunked"),
    "chunked-reset": Sin([CHUNKED + b"5\r\nhello\r\n", 0.1, rst], "truncated", "chunked"),
    "chunked-silence": Sin([CHUNKED + b"5\r\nhello\r\n", hang], "timeout", "read_timeout", SILENCE),
    "chunked-endless": Sin([CHUNKED, forever(b"2000\r\n" + b"x" * 8192 + b"\r\n")], "too_large", "max_body"),
    "chunked-bytewise": fine([CHUNKED + b"1\r\nx\r\n" * 50_000 + b"0\r\n\r\n", stay]),
    "chunked-bytewise-200000": fine([CHUNKED + b"1\r\nx\r\n" * 200_000 + b"0\r\n\r\n", stay]),
    "chunked-bytewise-endless": Sin([CHUNKED, forever(b"1\r\nx\r\n" * 1000)], "too_large", "max_body", {"max_body": 200_000}),
    "chunked-bytewise-zeros": fine([CHUNKED + b"0001\r\nx\r\n" * 50_000 + b"000\r\n\r\n", stay]),
    "chunked-bytewise-extensions": fine([CHUNKED + b"1 ; a\r\nx\r\n" * 30_000 + b"0\r\n\r\n", stay]),
    "chunked-extension-endless": bad([CHUNKED + b"5;a=", forever(b"b" * 8192)]),
    "chunked-extensions-heavy": bad([CHUNKED, forever(b"1;" + b"b" * 4096 + b"\r\nx\r\n")]),
    "chunked-trailers-endless": Sin([CHUNKED + b"0\r\n", forever(b"A: b\r\n" * 100)], "bad_response", "header_too_large"),
    "chunked-trailer-long": Sin([CHUNKED + b"0\r\nA: ", forever(b"b" * 8192)], "bad_response", "header_too_large"),
    "chunked-new-lines-only": Sin([CHUNKED + b"5\nhello\n0\n\n"], "truncated", "chunked"),
    "chunked-then-garbage": fine([chunked(b"hello") + b"garbage" * 10, hang]),
    "chunked-10": fine([HTTP10.replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n") + b"5\r\nhello\r\n0\r\n\r\n"]),
    "close-good": fine([head() + b"hello"]),
    "close-empty": fine([head()]),
    "close-10": fine([HTTP10 + b"hello"]),
    "close-reset": Sin([head() + b"hello", 0.1, rst], "truncated", "cut"),
    "close-silence": Sin([head() + b"hello", hang], "timeout", "read_timeout", SILENCE),
    "close-endless": Sin([head(), forever(b"x" * 65536)], "too_large", "max_body"),
    "close-drip": Sin([head(), forever(b"x", 0.05)], "timeout", "min_rate", SLOW),
    "length-drip": Sin([head(10**6), forever(b"x" * 100, 0.05)], "timeout", "min_rate", SLOW),
    "chunked-drip": Sin([CHUNKED, forever(b"1\r\nx\r\n", 0.05)], "timeout", "min_rate", SLOW),
    "drip-for-ever": Sin([head(), forever(b"x" * 2_000, 0.05)], "timeout", "total_timeout", {"timeout": 0.6}),
    "204-with-body": fine([head(5, status="204 No Content") + b"hello", hang]),
    "304-with-body": fine([head(5, status="304 Not Modified") + b"hello", hang]),
    "204-chunked": fine([head(None, "Transfer-Encoding: chunked", status="204 No Content") + b"5\r\nhello\r\n0\r\n\r\n", hang]),
    "head-with-body": fine([head(5) + b"hello", hang], method="HEAD"),
    "head-without-body": fine([head(5), stay], method="HEAD"),
    "405-to-head": fine([head(0, status="405 Method Not Allowed"), stay], "http_error", method="HEAD"),
}

INTERIM: Final = {
    "continue-unasked": fine([b"HTTP/1.1 100 Continue\r\n\r\n" + OK]),
    "early-hints": fine([b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", 0.05, OK]),
    "interim-closes": fine([b"HTTP/1.1 100 Continue\r\nConnection: close\r\n\r\n" + OK, stay]),
    "interim-1.0": fine([b"HTTP/1.0 100 Continue\r\n\r\n", 0.05, OK, stay]),
    "interim-unknown-with-length": fine([b"HTTP/1.1 104 Odd\r\nContent-Length: 5\r\n\r\n" + OK, stay]),
    "interim-unknown-chunked": fine([b"HTTP/1.1 150 Odd\r\nTransfer-Encoding: chunked\r\n\r\n" + OK, stay]),
    "interim-8": fine([b"HTTP/1.1 102 Processing\r\n\r\n" * 8 + OK]),
    "interim-9": bad([b"HTTP/1.1 102 Processing\r\n\r\n" * 9 + OK], "too_many_interim"),
    "interim-endless": bad([forever(b"HTTP/1.1 100 Continue\r\n\r\n" * 300)], "too_many_interim"),
    "interim-endless-new-lines": bad([forever(b"HTTP/1.1 100\n\n" * 900)], "too_many_interim"),
    "interim-then-silence": Sin([b"HTTP/1.1 102 Processing\r\n\r\n", hang], "timeout", "first_byte_timeout", SOON),
    "interim-then-end": Sin([b"HTTP/1.1 100 Continue\r\n\r\n"], "connect_error", "disconnected"),
    "interim-with-length": bad([b"HTTP/1.1 100 Continue\r\nContent-Length: 5\r\n\r\nhello" + OK]),
    "upgrade-101": bad([b"HTTP/1.1 101 Switching\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n", hang], "upgrade"),
    "upgrade-101-websocket": bad(
        [b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n\x81\x05hello", hang], "upgrade"
    ),
    "upgrade-offered": fine([head(2, "Upgrade: h2,h2c", "Connection: Upgrade, Keep-Alive") + b"ok", stay]),
}

SECOND_ANSWER: Final = {
    "second-at-once": fine([OK + head(5) + b"WRONG", hang]),
    "second-later": fine([OK, 0.1, head(5) + b"WRONG", hang]),
    "second-half-head": fine([OK + b"HTTP/1.1 200 OK\r\nContent-", 0.1, b"Length: 5\r\n\r\nWRONG", hang]),
    "second-after-chunked": fine([chunked(b"hello") + head(5) + b"WRONG", hang]),
    "second-half-after-chunked": fine([chunked(b"hello") + b"HTTP/1.1 200 OK\r\n", 0.1, b"\r\n", hang]),
    "second-after-204": fine([head(None, status="204 No Content") + head(5) + b"WRONG", hang]),
    "second-interim": fine([OK + b"HTTP/1.1 100 Continue\r\n\r\n", hang]),
    "408-while-idle": fine([OK, 0.05, head(0, "Connection: close", status="408 Request Timeout")]),
    "garbage-later": fine([OK, 0.05, b"garbage", hang]),
    "line-end-after": fine([OK + b"\r\n", hang]),
    "close-after-promise": fine([head(2, "Connection: keep-alive") + b"ok"]),
    "reset-after-promise": fine([head(2, "Connection: keep-alive") + b"ok", 0.05, rst]),
}


def redirect(location: str | None, status: str = "302 Found", *more: str) -> Script:
    fields = () if location is None else (f"Location: {location}",)
    return [head(0, *fields, *more, status=status), stay]


REDIRECTS: Final = {
    "redirect": fine(redirect("/good/1"), "redirect"),
    "redirect-301-relative": fine(redirect("../good/1", "301 Moved"), "redirect"),
    "redirect-308": fine(redirect("//127.0.0.1:1/x", "308 Permanent"), "redirect"),
    "redirect-utf-8": fine([b"HTTP/1.1 302 F\r\nLocation: /caf\xc3\xa9\r\nContent-Length: 0\r\n\r\n"], "redirect"),
    "redirect-credentials": fine(redirect("http://user:secret@127.0.0.1/x"), "redirect"),
    "redirect-nowhere": Sin(redirect(None), "redirect_error", "no_location"),
    "redirect-empty": Sin(redirect(""), "redirect_error", "no_location"),
    "redirect-javascript": Sin(redirect("javascript:alert(1)"), "redirect_error", "bad_location"),
    "redirect-file": Sin(redirect("file:///etc/passwd"), "redirect_error", "bad_location"),
    "redirect-data": Sin(redirect("data:text/html,x"), "redirect_error", "bad_location"),
    "redirect-bad-host": Sin(redirect("http://a b/"), "redirect_error", "bad_location"),
    "redirect-bad-port": Sin(redirect("http://a:99999/"), "redirect_error", "bad_location"),
    "redirect-too-long": Sin(redirect("/" + "x" * 3000), "redirect_error", "bad_location"),
    "redirect-self": Sin(redirect("/sin/redirect-self"), "redirect_error", "loop"),
    "redirect-fragment-self": Sin(redirect("/sin/redirect-fragment-self#x"), "redirect_error", "loop"),
    "redirect-broken-gzip": fine(
        [head(2, "Location: /good/1", "Content-Encoding: gzip", status="302 Found") + b"no", stay], "redirect"
    ),
    "redirect-coding-nobody-undoes": fine(
        [head(2, "Location: /good/1", "Content-Encoding: compress", status="302 Found") + b"no", stay], "redirect"
    ),
    "redirect-endless-body": Sin(
        [head(None, "Location: /good/1", status="302 Found"), forever(b"x" * 65536)], "too_large", "max_body"
    ),
}

SINS: Final[dict[str, Sin]] = STATUS_LINE | HEAD | FRAMING | INTERIM | SECOND_ANSWER | REDIRECTS
