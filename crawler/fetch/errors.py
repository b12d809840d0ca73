"""The one place where errors of aiohttp, ssl, DNS and the system are named, and become ours.

Invariants: what this machine lacks is a StorageError; what one URL's other side did, and whatever a library says of it, is a
FetchError; an error of our own code passes as it is. No detail quotes foreign text that could hold a header, a URL or a
password.
"""

from __future__ import annotations

import errno
import socket
import ssl
from typing import Final

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError

from crawler.core.errors import OUR_ERRNOS, CrawlerError, FetchError, StorageError
from crawler.fetch.exchange import Exchange

_BY_ERRNO: Final = {
    errno.ECONNREFUSED: "refused",
    errno.ECONNRESET: "reset",
    errno.EPIPE: "reset",
    errno.ECONNABORTED: "reset",
    errno.ETIMEDOUT: "connect_timeout",
}
_FOREIGN: Final = (aiohttp.ClientError, HttpProcessingError, OSError, MemoryError)
_OF_TLS: Final = (ssl.SSLError, aiohttp.ClientSSLError, ssl.CertificateError)
_TLS_ENDINGS: Final = frozenset({None, errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED})
_PACKAGE: Final = __name__.partition(".")[0]
_PROXY_REFUSES_US: Final = 407


def raise_ours(error: Exception, exchange: Exchange, *, tls: bool) -> None:
    """The border: of an error met during ``exchange``, raise what it becomes. Whatever this lets pass is to be raised as it is:
    only FetchError, StorageError, cancellation and bugs come out."""
    if isinstance(error, _FOREIGN):
        raise translated(error, exchange, tls=tls) from None
    if not isinstance(error, CrawlerError) and _is_foreign(error):
        raise unforeseen(error, exchange) from None


def unforeseen(error: Exception, exchange: Exchange) -> FetchError:
    """What a library said of a URL or a response in no word that it promises: UnicodeError of a host name, ValueError of a
    status, RuntimeError of a connection that is closed just now. Only its type is told: the message quotes its input."""
    if exchange.connecting:  # uvloop says so of a tunnel that is closed just as TLS is to begin in it
        return tls_closed() if exchange.is_through and exchange.ending is None else _no_tunnel()
    if exchange.ending is not None:
        return FetchError(*exchange.ending)
    name = type(error).__name__
    if exchange.is_sent:
        return FetchError("malformed", name)
    return FetchError("syntax" if isinstance(error, ValueError) else "unreachable", name)


def _is_foreign(error: Exception) -> bool:
    """Raised in a library, or a ValueError: our code calls none with anything but foreign text here."""
    if isinstance(error, ValueError):
        return True
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and str(trace.tb_frame.f_globals.get("__name__", "")).partition(".")[0] != _PACKAGE


def translated(error: BaseException, exchange: Exchange, *, tls: bool) -> FetchError | StorageError:
    """What an error met during ``exchange`` means; ``tls`` says whether the URL is https."""
    number = error.errno if isinstance(error, OSError) else None
    if isinstance(error, MemoryError):
        return StorageError("out of memory while fetching", errno=errno.ENOMEM)
    if exchange.our_errno or _is_ours(error, number, exchange):
        return lacking(exchange.our_errno or number or 0)
    if exchange.refused is not None:
        return FetchError("address", exchange.refused)
    if exchange.connecting and exchange.ending is not None:  # of the proxy's response, not of the host's
        return _no_tunnel()
    if exchange.connecting and not exchange.is_through and not isinstance(error, _OF_TLS):
        status = error.status if isinstance(error, aiohttp.ClientHttpProxyError) else 0
        return FetchError("proxy", f"status {status}", shared=status == _PROXY_REFUSES_US) if status else _no_tunnel()
    if exchange.unasked:
        return FetchError("unsolicited", "data came before the request")
    if exchange.ending is not None:
        return FetchError(*exchange.ending)
    if isinstance(error, aiohttp.ClientProxyConnectionError):
        return FetchError("proxy", _words(number))
    if isinstance(error, (ssl.SSLCertVerificationError, aiohttp.ClientConnectorCertificateError)):
        return FetchError("certificate", _certificate_words(error))
    if isinstance(error, (ssl.SSLError, aiohttp.ClientSSLError)):
        return FetchError("handshake", str(getattr(error, "reason", None) or ""))
    if isinstance(error.__cause__, ssl.SSLError) and not exchange.received:
        words = str(error.__cause__.reason or "")
        # TLS 1.3 refuses a client after its handshake, by an alert; of another fault loops keep nothing that came before it
        return FetchError("handshake" if "_ALERT_" in words else "disconnected", words)
    if isinstance(error, aiohttp.InvalidURL):
        return FetchError("syntax", "the URL cannot be requested")
    if isinstance(error, aiohttp.ClientConnectorError):
        if tls and number in _TLS_ENDINGS:
            return tls_closed()
        return FetchError(_BY_ERRNO.get(number or 0, "unreachable"), _words(number))
    if exchange.is_through:  # asyncio, of TLS within the proxy's
        return tls_closed()
    if isinstance(error, (aiohttp.ClientResponseError, HttpProcessingError)):
        return FetchError("malformed")
    if isinstance(error, (aiohttp.ServerDisconnectedError, aiohttp.ClientPayloadError)):
        return FetchError("disconnected")
    if isinstance(error, aiohttp.ClientConnectionResetError) or number in (errno.ECONNRESET, errno.EPIPE):
        return FetchError("reset")
    return FetchError("disconnected", _words(number))


def _no_tunnel() -> FetchError:
    return FetchError("proxy", "no tunnel")


def tls_closed() -> FetchError:
    return FetchError("handshake", "closed during the TLS handshake")


def lacking(number: int) -> StorageError:
    """What this machine lacked while it fetched."""
    return StorageError(f"network: {_words(number)}", errno=number)


def _is_ours(error: BaseException, number: int | None, exchange: Exchange) -> bool:
    """EADDRNOTAVAIL is ours where ports run out, but also what connecting to IPv6 says where there is no IPv6 (any more)."""
    if number == errno.EADDRNOTAVAIL and isinstance(error, aiohttp.ClientConnectorError):
        return any(family != socket.AF_INET6 for family, *_ in exchange.tried)
    return number in OUR_ERRNOS


def _words(number: int | None) -> str:
    return errno.errorcode.get(number, f"errno {number}") if number else ""


def _certificate_words(error: BaseException) -> str:
    inner = getattr(error, "certificate_error", error)
    return str(getattr(inner, "verify_message", "") or "")
