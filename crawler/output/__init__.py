"""What a crawl writes, and how it is read back."""

from crawler.output.directory import crawl_in, is_crawl, locked, make_tmp, open_directory
from crawler.output.journal import Journal
from crawler.output.reader import CrawlReader, StoreReader
from crawler.output.results import Result, Results, Row, row_at
from crawler.output.retention import Retention
from crawler.output.uploads import Uploads

# fmt: off
__all__ = [
    "CrawlReader", "Journal", "Result", "Results", "Retention", "Row", "StoreReader", "Uploads", "crawl_in", "is_crawl",
    "locked", "make_tmp", "open_directory", "row_at",
]
# fmt: on
