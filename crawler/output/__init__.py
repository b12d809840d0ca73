"""What a crawl writes, and how it is read back.

Written by a commit   journal: what one batch adds to archive/ and results (rows, changes)
In the directory      directory, file_names; retention deletes, uploads and bucket store elsewhere, checkpoint copies
Read back             reader; final_rows, filters, summary (summary_page), verify
For other programs    export, pages, csv_rows, parquet; archive/wacz
"""

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
