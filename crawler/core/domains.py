"""Which registrable domain a host belongs to, by the public suffix list. Pure."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Final

from crawler.core.remembered import remembered

if TYPE_CHECKING:
    from publicsuffixlist import PublicSuffixList

_DOMAINS_MAX: Final = 4096


def _domain_of(host: str) -> str:
    """The registrable domain of a host key: ``shop.example.co.uk:8443`` → ``example.co.uk``.

    Private suffixes count: a page of one author on github.io does not speak for all of github.io. A host without such a
    domain (an address, a bare name, a suffix itself) is its own."""
    name = host if host.endswith("]") else host.rpartition(":")[0] or host
    if name.startswith("[") or name.rpartition(".")[2].isdigit():
        return name
    return _suffixes().privatesuffix(name) or name


domain_of: Final = remembered(_domain_of, _DOMAINS_MAX)


@cache
def _suffixes() -> PublicSuffixList:
    from publicsuffixlist import PublicSuffixList  # some MiB, and only for crawls of whole domains

    return PublicSuffixList()
