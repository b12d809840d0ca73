"""Scrapy following links: ``scrapy runspider scrapy_crawl.py -a path=SEEDS -a out=FILE -s CLOSESPIDER_PAGECOUNT=N``."""

import scrapy
from scrapy.linkextractors import LinkExtractor
from scrapy_list import SETTINGS


class CrawlSpider(scrapy.Spider):
    name = "crawl"
    custom_settings = SETTINGS | {
        "ROBOTSTXT_OBEY": True,
        "SCHEDULER_PRIORITY_QUEUE": "scrapy.pqueues.DownloaderAwarePriorityQueue",
        "DEPTH_LIMIT": 0,
    }

    def __init__(self, path: str, out: str) -> None:
        super().__init__()
        self.path = path
        self.file = open(out, "ab")  # noqa: SIM115
        self.links = LinkExtractor(tags=("a",), attrs=("href",))

    async def start(self):
        with open(self.path) as lines:
            for line in lines:
                yield scrapy.Request(line.strip())

    def parse(self, response):
        self.file.write(response.body)
        for link in self.links.extract_links(response):
            yield scrapy.Request(link.url)
