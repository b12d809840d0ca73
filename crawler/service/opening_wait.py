"""A node that is begun while its cluster's database is away, or a daemon whose disk is full: it waits, as it would while it runs.

Meanwhile it is alive, but not ready, and refuses every other request for the time being; systemd is told that it is there, so
that no start is given up after a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import signal
import time
from collections.abc import Callable
from functools import partial
from typing import Final, Literal

from aiohttp import hdrs, web

from crawler.config.sections import Config
from crawler.service.api_errors import Problem
from crawler.service.listener import health, open_listener
from crawler.service.sd_notify import Notifier
from crawler.service.signals import Signals

TRY_EVERY_S: Final = 1.0
BACK: Final = {"database": "it is there", "disk": "the crawl is opened again"}

Awaited = Literal["database", "disk"]

logger: Final = logging.getLogger(__name__)


async def wait_for(
    what: Awaited, config: Config, why: str, away: Callable[[], str | None], signals: Signals, *, endless: bool
) -> signal.Signals | None:
    """Until ``away`` says that nothing is wrong with it any more (first it was ``why``), or for ``disk_wait`` at most where the
    crawl is not ``endless``: opening it then says what is wrong. The signal that ended it before."""
    stopped: asyncio.Future[signal.Signals] = asyncio.get_running_loop().create_future()
    until = time.monotonic() + (math.inf if endless else config.disk_wait)
    waiting = f"waits for {what}"
    logger.warning("%s: %s; the crawl is opened when %s", what, why, "it is there" if what == "database" else "there is room")
    async with contextlib.AsyncExitStack() as stack:
        stops = (signal.SIGTERM, signal.SIGINT) if endless else (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        calls: dict[signal.Signals, Callable[[], object]] = {number: partial(stopped.set_result, number) for number in stops}
        stack.enter_context(signals.heard(calls | {signal.SIGUSR1: lambda: logger.info("%s", waiting)}))
        for address in filter(None, (config.metrics_listen, config.listen if endless else None)):
            await stack.enter_async_context(open_listener(address, _application(waiting)))
        if endless:
            notifier = Notifier()
            notifier.ready()
            telling = asyncio.create_task(notifier.keep(lambda: None, lambda: waiting), name="notify")
            stack.callback(telling.cancel)
        is_there = False
        while not is_there and time.monotonic() < until:
            await asyncio.wait([stopped], timeout=TRY_EVERY_S)
            if stopped.done():
                break
            is_there = await asyncio.to_thread(away) is None
    await asyncio.sleep(0)  # a signal that came last is heard now
    if stopped.done():
        logger.info("ended by %s while waiting for the %s: the crawl was not opened", stopped.result().name, what)
        return stopped.result()
    if is_there:
        logger.info("%s: %s", what, BACK[what])
    return None


def _application(waiting: str) -> web.Application:
    application = web.Application()

    async def not_yet(request: web.Request) -> web.Response:
        retry = {"Retry-After": f"{math.ceil(TRY_EVERY_S)}"}
        return Problem(503, f"the crawl is not open yet: it {waiting}; try again", headers=retry).response()

    for path, handler in health(lambda: None, lambda: waiting).items():
        application.router.add_get(path, handler)
    application.router.add_route(hdrs.METH_ANY, "/{path:.*}", not_yet)
    return application
