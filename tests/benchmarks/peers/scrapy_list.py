"""Scrapy over a list: ``scrapy runspider scrapy_list.py -a path=LIST -a out=FILE``; bodies appended to one file."""

import scrapy

SETTINGS = {
    "CONCURRENT_REQUESTS": 100,
    "CONCURRENT_REQUESTS_PER_DOMAIN": 4,
    "DOWNLOAD_DELAY": 0,
    "AUTOTHROTTLE_ENABLED": False,
    "RETRY_ENABLED": False,
    "COOKIES_ENABLED": False,
    "TELNETCONSOLE_ENABLED": False,
    "LOG_LEVEL": "WARNING",
    "MEMUSAGE_ENABLED": False,
}


class ListSpider(scrapy.Spider):
    name = "list"
    custom_settings = SETTINGS | {"ROBOTSTXT_OBEY": False}

    def __init__(self, path: str, out: str) -> None:
        super().__init__()
        self.path = path
        self.file = open(out, "ab")  # noqa: SIM115

    async def start(self):
        with open(self.path) as lines:
            for line in lines:
                yield scrapy.Request(line.strip(), dont_filter=True)

    def parse(self, response):
        self.file.write(response.body)
