"""Sins of smuggling: heads and framings that two readers would read differently, and redirects meant for a laxer reader.

What a lenient parser lets pass is required to be harmless; what would hide a cut, or a second answer, is no answer.
"""

from __future__ import annotations

from typing import Any, Final

from support.sinful import forever, hang, head, rst, stay
from support.sins import CHUNKED, OK, SILENCE, SLOW, SOON, Sin, bad, chunked, fine, redirect

HELLO: Final = b"5\r\nhello\r\n0\r\n\r\n"
WRONG: Final = head(5) + b"WRONG"


def raw(*fields: bytes, body: bytes = b"", line: bytes = b"HTTP/1.1 200 OK") -> bytes:
    return b"\r\n".join((line, *fields)) + b"\r\n\r\n" + body


def cut(answer: bytes, *more: Any, **config: Any) -> Sin:
    return Sin([answer, *more], "truncated", "chunked", config)


BARE: Final = b"HTTP/1.1 200 OK\nContent-Length: 40\n\n"
"""Its end is seen by the parser, but not by whoever looks for an empty line; that one comes in the body."""

HEADS: Final = {
    "line-nul": fine([raw(b"Content-Length: 2", body=b"ok", line=b"HTTP/1.1 200 O\0K")]),
    "line-escapes": fine([raw(b"Content-Length: 2", body=b"ok", line=b"HTTP/1.1 200 \x1b[2J\x07")]),
    "line-bare-cr": bad([raw(b"Content-Length: 2", body=b"ok", line=b"HTTP/1.1 200 O\rK")]),
    "line-two-spaces": bad([raw(b"Content-Length: 2", body=b"ok", line=b"HTTP/1.1  200 OK")]),
    "line-tab": bad([raw(b"Content-Length: 2", body=b"ok", line=b"HTTP/1.1\t200 OK")]),
    "line-plus": bad([raw(b"Content-Length: 2", body=b"ok", line=b"HTTP/1.1 +200 OK")]),
    "line-wide-digits": bad([raw(b"Content-Length: 2", body=b"ok", line="HTTP/1.1 \uff12\uff10\uff10 OK".encode())]),
    "line-byte-order-mark": bad([b"\xef\xbb\xbf" + OK]),
    "line-version-1.10": bad([raw(b"Content-Length: 2", body=b"ok", line=b"HTTP/1.10 200 OK")]),
    "line-version-1": bad([raw(b"Content-Length: 2", body=b"ok", line=b"HTTP/1 200 OK")]),
    "line-of-a-request": bad([b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"]),
    # white space before the first field: who leaves out the line, as RFC 9112 has it (2.2), reads another response
    "fold-first": bad([raw(b" X: y", b"Content-Length: 2", body=b"ok")]),
    "fold-first-frames": bad([raw(b"\tContent-Length: 2", body=b"ok" + WRONG), hang]),
    "fold-first-in-two": bad([b"HTTP/1.1 200 OK\r\n", 0.05, b" X: y\r\nContent-Length: 2\r\n\r\nok"]),
    "fold-first-of-nothing": bad([raw(b" ", b"Content-Length: 2", body=b"ok")]),
    "fold-first-after-interim": bad([b"HTTP/1.1 100 Continue\r\n\r\n" + raw(b" ", b"Content-Length: 2", body=b"ok")]),
    "fold-in-length": bad([raw(b"Content-Length: 1\r\n 0", body=b"0123456789")]),
    "fold-before-length": fine([raw(b"Content-Length:\r\n 2", body=b"ok" + WRONG), hang]),
    "fold-before-chunked": fine([raw(b"Transfer-Encoding:\r\n chunked", body=HELLO + WRONG), hang]),
    # no empty line, but the end of the head for the parser
    "value-empty-bare-cr": bad([raw(b"X:\r", b"Content-Length: 2", body=b"ok")]),
    "value-empty-bare-cr-in-two": bad([b"HTTP/1.1 200 OK\r\nX:\r\r\n", 0.05, b"Content-Length: 2\r\n\r\nok"]),
    "value-empty-bare-cr-framed": bad([raw(b"Content-Length: 2", b"X: \r", b"Y: z", body=b"ok")]),
    "value-empty-bare-cr-chunked": bad([raw(b"Transfer-Encoding: chunked", b"X:\r", b"Y: z", body=HELLO)]),
    "value-empty-bare-cr-chunked-last": bad([raw(b"Transfer-Encoding: chunked", b"X:\r", b"0", body=HELLO)]),
    "value-empty-bare-cr-interim": bad([b"HTTP/1.1 103 Hints\r\nX:\r\r\n" + OK]),
    "name-with-space": fine([raw(b"X Y: z", b"Content-Length: 2", body=b"ok"), stay]),
    "name-delete": fine([raw(b"X\x7f: z", b"Content-Length: 2", body=b"ok"), stay]),
    # browsers leave out such a line, and others may not
    "name-almost-length": bad([raw(b"Content-Length\0: 2", body=b"ok" + WRONG), hang]),
    "name-almost-length-before": bad([raw(b"\x0bContent-Length: 2", body=b"ok" + WRONG), hang]),
    "name-length-no-colon": bad([raw(b"Content-Length 2", body=b"ok" + WRONG), hang]),
    "name-that-frames-nothing": fine([raw(b"X-Content-Length : 5", b"Content-Length: 2", body=b"ok"), stay]),
    "name-of-another-answer": bad([raw(b"HTTP/1.1 200 OK", b"Content-Length: 2", body=b"ok"), hang]),
    "name-almost-transfer": bad([raw(b"X Transfer-Encoding: chunked", body=HELLO)]),
    "name-with-space-and-length-space": bad([raw(b"X Y: z", b"Content-Length : 2", body=b"ok" + WRONG), hang]),
    "name-with-space-behind-early-end": bad([raw(b"Content-Length: 2", b"X:\r", b"a b: c", body=b"ok")]),
    "name-with-space-folded": fine([raw(b"X Y: z\r\n Content-Length: 9", b"Content-Length: 2", body=b"ok"), stay]),
    "value-escapes": fine([raw(b"X: \x01\x1b[31m", b"Content-Length: 2", body=b"ok")]),
    "lines-mixed": fine([b"HTTP/1.1 200 OK\nContent-Length: 2\r\n\nok"]),
    "lines-bare-cr": bad([b"HTTP/1.1 200 OK\rContent-Length: 2\r\rok", hang], **SOON),
    "head-that-is-none-and-silence": bad([b"HTTP/1.1 abc OK\r\nX: y\r\n", hang], **SOON),
    "head-that-is-none-and-its-end": bad([b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n"]),
    "head-that-is-none-behind-interim": bad(
        [b"HTTP/1.1 103 Hints\r\nX: ".ljust(200, b"x"), 0.05, b"\r\n\r\n", 0.05, b"HTTP/1.1 abc OK\r\nX: y\r\n", hang], **SOON
    ),
    "head-that-goes-on": fine([b"HTTP/1.1 200 OK\r\nContent-Length:\r\n ", 0.05, b"2\r\n\r\nok", stay]),
    "head-that-may-go-on": fine([b"HTTP/1.1 200 OK\r\nContent-Length:\r\n", b" 2\r\n\r\nok", stay]),
    "refresh": fine([raw(b"Refresh: 0; url=file:///etc/passwd", b"Content-Length: 2", body=b"ok")]),
    "close-among-others": fine([raw(b"Connection: foo, close", b"Content-Length: 2", body=b"ok" + WRONG), hang]),
    "keep-alive-nonsense": fine([raw(b"Keep-Alive: timeout=-1, max=0", b"Content-Length: 2", body=b"ok"), stay]),
}

LINE_FEEDS: Final = {
    # heads of bare line feeds, in one piece with what follows
    "feeds-length-too-small": fine([b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok" + WRONG, hang]),
    "feeds-204-with-body": fine([b"HTTP/1.1 204 None\nContent-Length: 5\n\nhello", hang]),
    "feeds-chunk-extension-blank": fine([b"HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n5; a\r\nhello\r\n0\r\n\r\n", stay]),
    "feeds-chunk-size-letters": cut(b"HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\nxyz\r\nhello\r\n"),
    "feeds-mixed-length-too-small": fine([b"HTTP/1.1 200 OK\r\nContent-Length: 2\n\r\nok" + WRONG, hang]),
    "feeds-interim": fine([b"HTTP/1.1 100 C\n\n", 0.05, b"HTTP/1.1 102 P\nX: y\n\n" + OK, stay]),
    "feeds-interim-with-length": fine([b"HTTP/1.1 104 Odd\nContent-Length: 5\n\n" + OK, stay]),
}

LENGTHS: Final = {
    # the parser takes this field for none: a cut would not be seen
    "length-space-before-colon": bad([raw(b"Content-Length : 100", body=b"ok")]),
    "length-space-before-colon-second": bad([raw(b"Content-Length : 2", body=b"ok" + WRONG), hang]),
    "length-space-before-colon-chunked": bad([raw(b"Content-Length : 5", b"Transfer-Encoding: chunked", body=HELLO)]),
    "length-2**63": bad([raw(b"Content-Length: 9223372036854775808", body=b"ok")]),
    # and this one for an empty body
    "length-2**64-1": bad([raw(b"Content-Length: 18446744073709551615", body=b"ok")]),
    "length-2**64-1-endless": bad([raw(b"Content-Length: 18446744073709551615"), forever(b"x" * 65536)]),
    "length-2**64": bad([raw(b"Content-Length: 18446744073709551616", body=b"ok")]),
    "length-2**64+2": bad([raw(b"Content-Length: 18446744073709551618", body=b"ok")]),
    "length-2**63-1": Sin([raw(b"Content-Length: 9223372036854775807", body=b"ok")], "truncated", "content_length"),
    "length-leading-zeros": fine([raw(b"Content-Length: " + b"0" * 40 + b"2", body=b"ok"), stay]),
    "length-5000-zeros": fine([raw(b"Content-Length: " + b"0" * 5000 + b"2", body=b"ok"), stay]),
    "length-5000-digits": bad([raw(b"Content-Length: " + b"9" * 5000, body=b"ok")]),
    "charset-not-ascii": fine([raw(b"Content-Length: 3", b"Content-Type: text/html; charset=\xff\xfe", body=b"<a>"), stay]),
    "head-ends-bare-an-answer-follows": fine([BARE + b"x" * 20 + b"\r\n\r\n" + b"y" * 16 + b"HTTP/1.1 200 OK", stay]),
    "length-tabs": fine([raw(b"Content-Length:\t2\t", body=b"ok"), stay]),
    "length-vertical-tab": bad([raw(b"Content-Length: \x0b2", body=b"ok")]),
    "length-empty": bad([raw(b"Content-Length:", body=b"ok")]),
    "length-underscore": bad([raw(b"Content-Length: 1_0", body=b"0123456789")]),
    "length-wide-digit": bad([raw("Content-Length: \uff15".encode(), body=b"hello")]),
    "length-semicolon": bad([raw(b"Content-Length: 5;", body=b"hello")]),
    "length-twice-in-other-case": bad([raw(b"Content-Length: 5", b"content-length: 6", body=b"hello!")]),
    "length-and-identity": bad([raw(b"Content-Length: 5", b"Transfer-Encoding: identity", body=b"hello" + WRONG)]),
    "length-after-chunked": bad([raw(b"Transfer-Encoding: chunked", b"Content-Length: 5", body=HELLO)]),
    "length-0-then-more": fine([raw(b"Content-Length: 0", body=WRONG), hang]),
    "length-on-304": fine([raw(b"Content-Length: 500", line=b"HTTP/1.1 304 Not Modified"), stay]),
    "part-unasked": Sin([head(2, "Content-Range: bytes 0-1/100", status="206 Partial") + b"ok"], "truncated", "cut"),
    "part-without-range": Sin([head(2, status="206 Partial") + b"ok"], "truncated", "cut"),
    "part-that-is-whole": fine([head(2, "Content-Range: bytes 0-1/2", status="206 Partial") + b"ok", stay]),
    "range-not-satisfiable": fine([head(2, status="416 No") + b"ok", stay], "http_error"),
}

TRANSFERS: Final = {
    "transfer-space-before-colon": bad([raw(b"Transfer-Encoding : chunked", body=HELLO)]),
    "transfer-gzip-space-before-colon": bad([raw(b"Transfer-Encoding : gzip", body=HELLO)]),
    # chunked for who strips all white space, nothing at all for who does not
    "transfer-vertical-tab": bad([raw(b"Transfer-Encoding: \x0bchunked", body=HELLO)]),
    "transfer-no-break-space": bad([raw(b"Transfer-Encoding: \xa0chunked", body=HELLO)]),
    "transfer-nul": bad([raw(b"Transfer-Encoding: chunked\0", body=HELLO)]),
    "transfer-quoted": bad([raw(b'Transfer-Encoding: "chunked"', body=HELLO)]),
    "transfer-parameter": bad([raw(b"Transfer-Encoding: chunked;q=1", body=HELLO)]),
    "transfer-comma": bad([raw(b"Transfer-Encoding: chunked,", body=HELLO)]),
    "transfer-empty": fine([raw(b"Transfer-Encoding: ", body=b"hello")]),
    "transfer-two-fields": bad([raw(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked", body=HELLO)]),
    "transfer-identity-and-chunked": bad([raw(b"Transfer-Encoding: identity", b"Transfer-Encoding: chunked", body=HELLO)]),
    "transfer-underscore": fine([raw(b"Transfer_Encoding: chunked", body=HELLO)]),
    # HTTP/1.0 knows no chunks: read, but never used again
    "transfer-10-keep-alive": fine(
        [raw(b"Transfer-Encoding: chunked", b"Connection: keep-alive", body=HELLO, line=b"HTTP/1.0 200 OK"), hang]
    ),
    "transfer-on-304": fine([raw(b"Transfer-Encoding: chunked", body=HELLO, line=b"HTTP/1.1 304 Not Modified"), hang]),
    "transfer-on-100": bad([raw(b"Transfer-Encoding: chunked", body=HELLO, line=b"HTTP/1.1 100 Continue") + OK]),
    "head-chunked": fine([raw(b"Transfer-Encoding: chunked"), stay], method="HEAD"),
    "head-chunked-with-body": fine([raw(b"Transfer-Encoding: chunked", body=HELLO), hang], method="HEAD"),
    "head-with-body-to-the-end": fine([raw(b"X: y", body=b"hello"), hang], method="HEAD"),
    "head-gzip": fine([raw(b"Content-Encoding: gzip", b"Content-Length: 100"), stay], method="HEAD"),
}

CHUNKS: Final = {
    "chunk-size-space-first": cut(CHUNKED + b" 5\r\nhello\r\n0\r\n\r\n"),
    "chunk-size-plus": cut(CHUNKED + b"+5\r\nhello\r\n0\r\n\r\n"),
    "chunk-size-underscore": cut(CHUNKED + b"1_0\r\nhello\r\n0\r\n\r\n"),
    "chunk-size-2**64-1": cut(CHUNKED + b"ffffffffffffffff\r\nhello"),
    "chunk-size-2**63-1": cut(CHUNKED + b"7fffffffffffffff\r\nhello"),
    "chunk-size-2**63-1-endless": Sin([CHUNKED + b"7fffffffffffffff\r\n", forever(b"x" * 65536)], "too_large", "max_body"),
    "chunk-size-many-zeros": fine([CHUNKED + b"0" * 1000 + b"5\r\nhello\r\n0\r\n\r\n"]),
    "chunk-extension-line-end": cut(CHUNKED + b'5;a="\r\n"\r\nhello\r\n0\r\n\r\n'),
    "chunk-extension-new-line": cut(CHUNKED + b"5;a\nb\r\nhello\r\n0\r\n\r\n"),
    "chunk-extension-nul": cut(CHUNKED + b"5;a=\0\r\nhello\r\n0\r\n\r\n"),
    "chunk-extension-drip": Sin([CHUNKED + b"5;a=", forever(b"b", 0.05)], "timeout", "read_timeout", SILENCE),
    "chunk-new-line-after-size": cut(CHUNKED + b"5\nhello\r\n0\r\n\r\n"),
    "chunk-nothing-after-data": cut(CHUNKED + b"5\r\nhello0\r\n\r\n"),
    "chunk-last-new-lines": cut(CHUNKED + b"5\r\nhello\r\n0\n\n"),
    "chunk-last-then-silence": Sin([CHUNKED + b"5\r\nhello\r\n0\r\n", hang], "timeout", "read_timeout", SILENCE),
    "chunk-last-then-reset": cut(CHUNKED + b"5\r\nhello\r\n0\r\n", 0.1, rst),
    "chunk-last-twice": fine([CHUNKED + b"0\r\n\r\n5\r\nhello\r\n0\r\n\r\n", hang]),
    "chunk-trailers-that-frame": fine(
        [chunked(b"hello", last=b"0\r\nContent-Length: 99\r\nTransfer-Encoding: gzip\r\n\r\n"), hang]
    ),
    "chunk-trailer-without-colon": fine([chunked(b"hello", last=b"0\r\nnonsense\r\n\r\n"), hang]),
    "chunk-trailer-drip": Sin([CHUNKED + b"5\r\nhello\r\n0\r\nA: ", forever(b"b", 0.05)], "timeout", "min_rate", SLOW),
    "chunk-trailer-folds": bad([CHUNKED + b"0\r\nA: b", forever(b"\r\n " + b"c" * 1000)], "header_too_large"),
}

INTERIMS: Final = {
    "interim-199": fine([b"HTTP/1.1 199 Odd\r\n\r\n" + OK]),
    "interim-large": bad([raw(*(b"A: " + b"b" * 30_000,) * 5, line=b"HTTP/1.1 103 Hints") * 4 + OK], "header_too_large"),
    "interim-links-endless": bad([b"HTTP/1.1 103 Hints\r\n", forever(b"Link: </a>\r\n" * 100)], "too_many_headers"),
    "interim-drip": bad([forever(b"HTTP/1.1 100 Continue\r\n\r\n", 0.02)], "too_many_interim"),
    "upgrade-101-bare": bad([b"HTTP/1.1 101 Switching\r\n\r\n", hang], "upgrade"),
    "upgrade-101-then-answer": bad([b"HTTP/1.1 101 Switching\r\n\r\n" + OK, hang], "upgrade"),
    "426": fine([head(2, "Upgrade: h2", status="426 Upgrade Required") + b"ok", stay], "http_error"),
    "407-of-a-server": fine([head(2, "Proxy-Authenticate: Basic", status="407 No") + b"ok", stay], "http_error"),
    "305": fine([head(0, "Location: http://127.0.0.1:1/", status="305 Use Proxy"), stay], "http_error"),
    "300": fine([head(0, "Location: /good/1", status="300 Multiple Choices"), stay], "http_error"),
}


def to(location: bytes) -> Sin:
    return fine([raw(b"Location: " + location, b"Content-Length: 0", line=b"HTTP/1.1 302 Found"), stay], "redirect")


def nowhere(location: str) -> Sin:
    return Sin(redirect(location), "redirect_error", "bad_location")


LOCATIONS: Final = {
    "location-escapes": to(b"/a\x01b\x1b[31m"),
    "location-latin-1": to(b"/caf\xe9\xff\xfe"),
    "location-surrogate": to(b"/\xed\xa0\x80"),
    "location-twice": to(b"/a\r\nLocation: /b"),
    "location-200-times": to(b"/a" + b"\r\nLocation: /a" * 200),
    "location-backslashes": to(b"\\\\127.0.0.1\\x"),
    "location-slashes": to(b"////127.0.0.1/x"),
    "location-tab-in-scheme": to(b"ht\ttp://127.0.0.1/"),
    "location-many-credentials": to(b"http://" + b"a:b@" * 300 + b"127.0.0.1/"),
    "location-hash": Sin(redirect("#"), "redirect_error", "loop"),
    "location-1MiB": bad([raw(b"Location: /" + b"x" * (1 << 20), line=b"HTTP/1.1 302 Found")], "header_too_large"),
    "location-mailto": nowhere("mailto:a@example.org"),
    "location-ftp": nowhere("ftp://127.0.0.1/"),
    "location-blob": nowhere("blob:http://127.0.0.1/x"),
    "location-gopher": nowhere("gopher://127.0.0.1:6379/_x"),
    "location-zone": nowhere("http://[fe80::1%25eth0]/"),
}

SMUGGLED: Final[dict[str, Sin]] = HEADS | LINE_FEEDS | LENGTHS | TRANSFERS | CHUNKS | INTERIMS | LOCATIONS
