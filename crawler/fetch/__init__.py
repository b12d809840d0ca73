"""Fetching: one HTTP exchange at a time over one shared session, each of them bounded in bytes and time.

``open_fetcher`` gives a Fetcher; ``Fetcher.fetch(lease)`` gives a Page. Below: ``exchange`` (what one attempt learns),
``deadline``, ``resolver`` (names), ``connection`` and ``connector`` (the pool), ``request`` (the head sent), ``framing`` (the
head received), ``transport``, ``errors`` (which exception of a library means what), ``decoding`` (is the body what it claims
to be).
"""

from crawler.fetch.fetcher import Fetcher, FetchStats
from crawler.fetch.session import open_fetcher

__all__ = ["FetchStats", "Fetcher", "open_fetcher"]
