"""Fetching: one HTTP exchange at a time over one shared session, each of them bounded in bytes and time.

``open_fetcher`` gives a Fetcher; ``Fetcher.fetch(lease)`` gives a Page.

fetcher      one exchange from request to page; exchange is what an attempt learns on its way
session      the one session, opened and closed; transport: two ways to send a request over it
request      the head sent; cookies (set_cookie, cookie_file) are those of a login
connector    the pool; certificates: names that OpenSSL does not check
connection   one connection, and whether its response ended as framed; framing and chunks: heads and bodies
resolver     names to addresses, by channels of c-ares; guard: which may be connected to; ipv6: what this machine's is good for
deadline     when a fetch ends; pace: the crawl-wide rates; tls_waste: TLS that carries nothing
decoding     is the body what it claims to be
errors       which exception of a library means what
"""

from crawler.fetch.fetcher import Fetcher, FetchStats
from crawler.fetch.session import open_fetcher

__all__ = ["FetchStats", "Fetcher", "open_fetcher"]
