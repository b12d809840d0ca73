"""``crawler`` whose /metrics tell the loop's tasks as well."""

import asyncio
import sys

from prometheus_client import Gauge

from crawler.cli import main
from crawler.crawl.metrics import Metrics

watch_lag = Metrics.watch_lag


async def counting(self: Metrics) -> None:
    loop = asyncio.get_running_loop()
    tasks = Gauge("asyncio_tasks", "Tasks of the event loop.", registry=self.registry)
    tasks.set_function(lambda: len(asyncio.all_tasks(loop)))
    await watch_lag(self)


Metrics.watch_lag = counting
sys.exit(main.main(sys.argv[1:]))
