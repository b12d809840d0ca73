"""Sins below HTTP: names, addresses, connections, TLS, proxies."""

from __future__ import annotations

from typing import Any, Final

from support.sinful import cut_tls, forever, hang, head, rst
from support.sinful_net import HANDSHAKES
from support.sins import SILENCE, SLOW, SOON, Sin

CONNECT_SOON: Final = {"connect_timeout": 0.5}
TRUST: Final = {"ca_file": "{ca}"}


def at(url: str, outcome: str, reason: str | tuple[str, ...] | None = None, **config: Any) -> Sin:
    return Sin([], outcome, reason, config, url)


def named(kind: str, outcome: str, reason: str | tuple[str, ...] | None = None, *, port: str = "http", **config: Any) -> Sin:
    """A URL whose name the site's name server answers in its way."""
    return at(f"http://{kind}.sin.test:{{{port}}}/good/1", outcome, reason, dns=("127.0.0.1:{dns}",), **config)


NAMES: Final = {
    "dns-good": named("good", "ok"),
    "dns-nxdomain": named("nxdomain", "dns_error", "nxdomain"),
    "dns-empty": named("empty", "dns_error", "no_address"),
    "dns-servfail": named("servfail", "dns_error", "servfail"),
    "dns-refused": named("refused", "dns_error", "servfail"),
    "dns-formerr": named("formerr", "dns_error", "servfail"),
    "dns-notimp": named("notimp", "dns_error", "servfail"),
    "dns-garbage": named("garbage", "dns_error", "servfail"),
    "dns-lying-count": named("lying-count", "dns_error", "servfail"),
    "dns-cname-loop": named("cname-loop", "dns_error", "no_address"),
    "dns-other-name": named("other-name", "ok"),
    "dns-silent": named("silent", "dns_error", "dns_timeout", dns_timeout=0.4),
    "dns-silent-for-long": named("silent", "timeout", "connect_timeout", **CONNECT_SOON),
    "dns-wrong-id": named("wrong-id", "dns_error", "dns_timeout", dns_timeout=0.4),
    "dns-unreachable": at("http://any.sin.test/", "dns_error", "resolver_unreachable", dns=("127.0.0.1:{closed}",)),
    "dns-many-dead": named("many", "connect_error", "refused", port="closed"),
    "dns-dead": named("dead", "connect_error", "refused", port="closed"),
    "dns-dead-then-good": named("dead-then-good", "ok"),
    "dns-private": named("private", "blocked", "address"),
    "dns-metadata": named("metadata", "blocked", "address"),
    "dns-any": named("any", "blocked", "address"),
    "dns-mapped": named("mapped", "blocked", "address"),
    "dns-nat64": named("nat64", "blocked", "address"),
    "dns-6to4": named("six-to-four", "blocked", "address"),
    "dns-teredo": named("teredo", "blocked", "address"),
    "dns-link-local": named("link-local", "blocked", "address"),
    "dns-all-refused": named("all-refused", "blocked", "address"),
    "dns-some-refused": named("mixed", "ok"),
    "dns-many-addresses": named("thousands", "ok"),
    "dns-many-private-addresses": named("thousands-private", "blocked", "address"),
    "dns-cname-chain": named("cname-chain", "dns_error", "no_address"),
    "dns-pointer-loop": named("pointer-loop", "dns_error", "servfail"),
    "dns-136-years": named("long-ago", "ok"),
    "dns-tcp": named("tcp-good", "ok"),
    "dns-tcp-many-addresses": named("tcp-thousands", "ok"),
    "dns-tcp-silent": named("tcp-silent", "dns_error", "dns_timeout", dns_timeout=0.4),
    "dns-tcp-cut": named("tcp-cut", "dns_error", "dns_timeout", dns_timeout=0.4),
    "dns-tcp-endless": named("tcp-endless", "dns_error", ("servfail", "dns_timeout"), dns_timeout=0.4),
    "dns-tcp-drip": named("tcp-drip", "dns_error", "dns_timeout", dns_timeout=0.4),
    "dns-label-too-long": at(f"http://{'a' * 64}.sin.test/", "dns_error", "nxdomain", dns=("127.0.0.1:{dns}",)),
    "dns-name-too-long": at(f"http://{'.'.join(['a' * 60] * 5)}.test/", "dns_error", "nxdomain", dns=("127.0.0.1:{dns}",)),
    "dns-localhost-denied": at("http://localhost:{http}/good/1", "blocked", "address", allow_net=()),
}


def literal(host: str, **config: Any) -> Sin:
    return at(f"http://{host}:{{http}}/good/1", "blocked", "address", **config)


ADDRESSES: Final = {
    "address-loopback": literal("127.0.0.1", allow_net=()),
    "address-loopback-decimal": literal("2130706433", allow_net=()),
    "address-loopback-hex": literal("0x7f.1", allow_net=()),
    "address-loopback-octal": literal("017700000001", allow_net=()),
    "address-loopback-wide-digits": literal("\uff11\uff12\uff17.\uff10.\uff10.\uff11", allow_net=()),
    "address-denied": literal("127.0.0.1", deny_net=("127.0.0.0/8",)),
    "address-any": literal("0.0.0.0", allow_net=()),
    "address-private": literal("10.0.0.1"),
    "address-metadata": literal("169.254.169.254"),
    "address-cgnat": literal("100.64.0.1"),
    "address-multicast": literal("224.0.0.1"),
    "address-broadcast": literal("255.255.255.255"),
    "address-6-loopback": literal("[::1]"),
    "address-6-any": literal("[::]"),
    "address-6-mapped": literal("[::ffff:10.0.0.1]"),
    "address-6-compatible": literal("[::10.0.0.1]"),
    "address-6-nat64": literal("[64:ff9b::10.0.0.1]"),
    "address-6-6to4": literal("[2002:a00:1::]"),
    "address-6-teredo": literal("[2001:0:808:808:0:0:f5ff:fffe]"),
    "address-6-link-local": literal("[fe80::1]"),
    "address-documentation": literal("192.0.2.1"),
    "address-benchmarking": literal("198.18.0.1"),
    "address-class-e": literal("240.0.0.1"),
    "address-loopback-short": literal("127.1", allow_net=()),
    "address-6-mapped-loopback": literal("[::ffff:127.0.0.1]", allow_net=()),
    "address-6-translated": literal("[::ffff:0:a00:1]"),
    "address-6-nat64-local": literal("[64:ff9b:1::a00:1]"),
    "address-6-isatap": literal("[2001:db8::5efe:a00:1]"),
    "address-6-site-local": literal("[fec0::1]"),
    "address-6-multicast": literal("[ff02::1]"),
    "address-6-discard": literal("[100::1]"),
    "address-6-unique-local": literal("[fd00::1]"),
}

CONNECTIONS: Final = {
    "port-closed": at("http://127.0.0.1:{closed}/", "connect_error", "refused"),
    "port-swallows": at("http://127.0.0.1:{full}/", "timeout", "connect_timeout", **CONNECT_SOON),
    "banner-ssh": at("http://127.0.0.1:{banner-ssh}/", "bad_response", ("unsolicited", "malformed")),
    "banner-smtp": at("http://127.0.0.1:{banner-smtp}/", "bad_response", ("unsolicited", "malformed")),
    "http-on-tls-port": at("http://127.0.0.1:{tls-good}/", "connect_error", ("disconnected", "reset")),
}


def secured(name: str, outcome: str, reason: str | tuple[str, ...] | None = None, **config: Any) -> Sin:
    return at(f"https://localhost:{{tls-{name}}}/good/1", outcome, reason, **TRUST | config)


def over_tls(script: list[Any], outcome: str, reason: str | None = None, **config: Any) -> Sin:
    return Sin(script, outcome, reason, TRUST | config, "https://localhost:{tls-good}/sin/NAME")


CHUNK: Final = head(None, "Transfer-Encoding: chunked") + b"5\r\nhello\r\n"
TLS: Final = {
    "tls-good": secured("good", "ok"),
    "tls-only-1.2": secured("only-1.2", "ok"),
    "tls-unknown-authority": secured("good", "tls_error", "certificate", ca_file=None),
    "tls-self-signed": secured("self-signed", "tls_error", "certificate"),
    "tls-expired": secured("expired", "tls_error", "certificate"),
    "tls-not-yet": secured("not-yet", "tls_error", "certificate"),
    "tls-wrong-host": secured("wrong-host", "tls_error", "certificate"),
    "tls-wrong-host-insecure": secured("wrong-host", "ok", insecure=True),
    **{
        f"tls-wildcard-{n}": at(f"https://{name}:{{tls-wildcard}}/good/1", *end, dns=("127.0.0.1:{dns}",), **TRUST)
        for n, (name, end) in enumerate(
            {
                "good.sin.test": ("ok",),
                "good_.sin.test": ("ok",),
                "good__a-b.sin.test": ("ok",),
                "GOOD_X.sin.test": ("ok",),
                "good_.sin.test.": ("ok",),
                "good.a_b.sin.test": ("tls_error", "certificate"),
                "good_.a.sin.test": ("tls_error", "certificate"),
                "good_.sin.test.other.test": ("tls_error", "certificate"),
                "good_xsin.test": ("tls_error", "certificate"),
                "good.other_.test": ("tls_error", "certificate"),
            }.items()
        )
    },
    "tls-wildcard-unknown-authority": at(
        "https://good_.sin.test:{tls-wildcard}/good/1", "tls_error", "certificate", dns=("127.0.0.1:{dns}",)
    ),
    "tls-wildcard-insecure": at("https://good_.a.sin.test:{tls-wildcard}/good/1", "ok", dns=("127.0.0.1:{dns}",), insecure=True),
    "tls-wants-certificate": secured("wants-certificate", "tls_error", "handshake"),
    **{
        f"tls-{name}": secured(name, "tls_error", "handshake")
        for name in HANDSHAKES
        if name not in ("hang", "drip", "endless-records")
    },
    "tls-hang": secured("hang", "timeout", "connect_timeout", **CONNECT_SOON),
    "tls-drip": secured("drip", "timeout", "connect_timeout", **CONNECT_SOON),
    "tls-endless-records": secured("endless-records", "tls_error", "handshake", **CONNECT_SOON),
    "tls-to-plain-port": at("https://localhost:{http}/good/1", "timeout", "connect_timeout", **CONNECT_SOON),
    "tls-only-1.1": secured("only-1.1", "tls_error", "handshake"),
    "tls-long-chain": secured("long-chain", "tls_error", "handshake"),
    "tls-refuses-name": secured("refuses-name", "tls_error", "handshake"),
    "tls-other-protocol": secured("other-protocol", "ok"),
    "tls-tickets": at("https://localhost:{tls-tickets}/", "bad_response", "malformed", first_byte_timeout=5, **TRUST),
    "tls-head-cut": over_tls([head(100)[:40], 0.05, cut_tls], "connect_error", "disconnected"),
    "tls-head-drip": over_tls([b"HTTP/1.1 200 OK\r\nX: ", forever(b"x", 0.05)], "timeout", "first_byte_timeout", **SOON),
    "tls-short-then-close-notify": over_tls([head(100) + b"hello"], "truncated", "content_length"),
    "tls-chunked-reset": over_tls([CHUNK, 0.05, rst], "truncated", "chunked"),
    "tls-body-drip": over_tls([head(10**6), forever(b"x" * 100, 0.05)], "timeout", "min_rate", **SLOW),
    "tls-close-notify": over_tls([head() + b"hello"], "ok"),
    "tls-close-without-notify": over_tls([head() + b"hello", 0.05, cut_tls], "truncated", "cut"),
    "tls-length-cut": over_tls([head(100) + b"hello", 0.05, cut_tls], "truncated", "content_length"),
    "tls-length-whole-then-cut": over_tls([head(5) + b"hello", 0.05, cut_tls], "ok"),
    "tls-chunked-cut": over_tls([CHUNK, 0.05, cut_tls], "truncated", "chunked"),
    "tls-reset": over_tls([head(100) + b"hello", 0.05, rst], "truncated", "content_length"),
    "tls-nothing": over_tls([], "connect_error", "disconnected"),
    "tls-silence": over_tls([hang], "timeout", "first_byte_timeout", **SOON),
    "tls-body-silence": over_tls([head(100) + b"hello", hang], "timeout", "read_timeout", **SILENCE),
    "tls-endless": over_tls([head(), forever(b"x" * 65536)], "too_large", "max_body"),
    "tls-second-later": over_tls([head(2) + b"ok", 0.1, head(5) + b"WRONG", hang], "ok"),
    "tls-second-at-once": over_tls([head(2) + b"ok" + head(5) + b"WRONG", hang], "ok"),
}


NO_NAMES: Final = [
    "a..test",
    "..test",
    ".a.test",
    "a.test..",
    "a" * 64 + ".test",
    "b." + "a" * 64,
    ".".join(["a" * 63] * 4),
    "..",
    ".",
]
"""URLs may have these names, and no host can (RFC 1035 2.3.4)."""


def through(proxy: str, url: str, outcome: str, reason: str | tuple[str, ...] | None = None, **config: Any) -> Sin:
    return at(url, outcome, reason, proxy=f"http://127.0.0.1:{{{proxy}}}", **TRUST | config)


PLAIN: Final = "http://somewhere.test/good/1"
SECURE: Final = "https://localhost:{tls-good}/good/1"
PROXIED: Final = {
    "proxy-http": through("proxy-good", PLAIN, "ok"),
    "proxy-https": through("proxy-good", SECURE, "ok"),
    "proxy-over-tls": at(PLAIN, "ok", proxy="https://localhost:{proxy-tls}", **TRUST),
    "proxy-over-tls-https": at(SECURE, "ok", proxy="https://localhost:{proxy-tls}", **TRUST),
    "proxy-over-tls-wrong-host": at(SECURE, "tls_error", "certificate", proxy="https://localhost:{tls-wrong-host}", **TRUST),
    "proxy-https-wrong-host": through("proxy-good", "https://localhost:{tls-wrong-host}/", "tls_error", "certificate"),
    "proxy-wildcard": through("proxy-good", "https://good_.sin.test:{tls-wildcard}/good/1", "ok"),
    "proxy-wildcard-too-deep": through(
        "proxy-good", "https://good_.a.sin.test:{tls-wildcard}/good/1", "tls_error", "certificate"
    ),
    **{
        f"proxy-no-name-{scheme}-{n}": through("proxy-good", f"{scheme}://{name}/", "dns_error", "nxdomain")
        for scheme in ("http", "https")
        for n, name in enumerate(NO_NAMES)
    },
    "proxy-http-403": through("proxy-403", PLAIN, "http_error"),
    "proxy-http-407": through("proxy-407", PLAIN, "connect_error", "proxy"),
    "proxy-http-garbage": through("proxy-garbage", PLAIN, "bad_response", "malformed"),
    "proxy-http-close": through("proxy-close", PLAIN, "connect_error", "disconnected"),
    "proxy-http-hang": through("proxy-hang", PLAIN, "timeout", "first_byte_timeout", **SOON),
    "proxy-https-403": through("proxy-403", SECURE, "connect_error", "proxy"),
    "proxy-https-407": through("proxy-407", SECURE, "connect_error", "proxy"),
    "proxy-https-garbage": through("proxy-garbage", SECURE, "connect_error", "proxy"),
    "proxy-https-close": through("proxy-close", SECURE, "connect_error", "proxy"),
    "proxy-https-hang": through(
        "proxy-hang", SECURE, "timeout", ("connect_timeout", "first_byte_timeout"), **CONNECT_SOON, **SOON
    ),
    "proxy-https-endless-head": through("proxy-endless-head", SECURE, "connect_error", "proxy"),
    "proxy-https-not-tls": through("proxy-not-tls", SECURE, "tls_error", "handshake"),
    "proxy-https-closed-in-the-tunnel": through("proxy-tunnel-closed", SECURE, "tls_error", "handshake"),
    "proxy-https-more-than-its-answer": through("proxy-tunnel-spoilt", SECURE, "tls_error", "handshake"),
    "proxy-https-no-chunks": through("proxy-tunnel-chunked", SECURE, "connect_error", "proxy"),
    "proxy-https-407-of-the-host": through("proxy-good", "https://localhost:{tls-good}/sin/407-of-a-server", "http_error"),
    "proxy-closed": through("closed", PLAIN, "connect_error", "proxy"),
    "proxy-closed-https": through("closed", SECURE, "connect_error", "proxy"),
    "proxy-swallows": through("full", PLAIN, "timeout", "connect_timeout", **CONNECT_SOON),
    "proxy-to-private": through("proxy-good", "http://10.0.0.1/good/1", "blocked", "address"),
    "proxy-to-metadata": through("proxy-good", "http://169.254.169.254/good/1", "blocked", "address"),
    "proxy-to-6-loopback": through("proxy-good", "http://[::1]/good/1", "blocked", "address"),
    "proxy-to-6-mapped": through("proxy-good", "https://[::ffff:10.0.0.1]/good/1", "blocked", "address"),
}

NET: Final[dict[str, Sin]] = NAMES | ADDRESSES | CONNECTIONS | TLS | PROXIED
