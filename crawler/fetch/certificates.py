"""Whether a certificate was made for a name that OpenSSL's own check takes for none: one with an underscore.

OpenSSL lets a wildcard stand for letters, digits and hyphens only (``wildcard_match`` in x509/v3_utl.c), and takes no pattern
that has an underscore itself. Such names are no host names (RFC 952), but they are found in the web, and browsers accept
them: RFC 9525 6.3 asks for one whole label, whatever is in it. Everything else of the verification stays OpenSSL's.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def is_odd(hostname: str) -> bool:
    """Whether OpenSSL's check of the name cannot be relied on."""
    return "_" in hostname


def names(certificate: Any) -> list[str]:
    """The DNS names in a certificate as ``SSLObject.getpeercert`` gives it."""
    return [value for kind, value in (certificate or {}).get("subjectAltName", ()) if kind == "DNS"]


def matches(hostname: str, presented: Iterable[str]) -> bool:
    """RFC 9525 6.3 and 6.4: letters of either case; ``*`` as the whole first label stands for exactly one label, never for that
    of a name of two labels (``*.test``)."""
    name = hostname.rstrip(".").lower()
    first, _, rest = name.partition(".")
    for pattern in presented:
        pattern = pattern.rstrip(".").lower()
        if pattern == name:
            return True
        if pattern.startswith("*.") and first and "." in rest and pattern[2:] == rest:
            return True
    return False
