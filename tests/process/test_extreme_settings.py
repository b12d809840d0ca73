"""Every number that a setting may be either is refused in words or crawls."""

from __future__ import annotations

import asyncio
import math
import sys

import pytest
from support.daemons import PLAIN, daemon
from support.programs import command
from support.webs import Web, page

from crawler.config.fields import shape_of
from crawler.config.load import load
from crawler.config.sections import RELOADABLE, Config
from crawler.core.errors import ConfigError
from crawler.crawl.wiring import open_crawl

NUMBERS = {key: field for key, field in Config.fields.items() if field.is_number}
FLOATS = (0.0, math.ulp(0.0), 1e-9, sys.float_info.max)
INTS = (0, 1, (1 << 63) - 1)
NONE = (-math.inf, math.inf, math.nan, 10**400, "9" * 400, "9" * 5000, "nan", "1e999", True)
"""Numbers that no setting may be."""
AT_ONCE = 16


def faults_of(key: str, value: object) -> tuple[str, ...]:
    try:
        load({key: value}, environ={})
    except ConfigError as error:
        return error.faults
    return ()


EXTREMES = [
    (key, value)
    for key, field in NUMBERS.items()
    for value in (FLOATS if shape_of(field.annotation).base is float else INTS)
    if not faults_of(key, value)
]


@pytest.fixture(scope="module")
def web():
    made = Web(default=lambda host, path: page(f"http://next.{host}:{made.port}/" if len(host) < 20 else "/"))
    with made.running():
        yield made


def test_a_number_that_cannot_be_meant_is_refused_by_the_name_of_its_setting():
    for key in NUMBERS:
        for value in NONE:
            (fault,) = faults_of(key, value)
            assert fault.startswith(f"--{key.replace('_', '-')}") and ": must" in fault
    assert "at least 1e-09" in faults_of("rate", 1e-10)[0]


async def test_every_other_number_crawls(web, tmp_path):
    """A rate of 5e-324 ended the crawl with a ZeroDivisionError, and was none at all for two processes; with a dns_timeout of 100
    days no name could be looked up."""
    turns = asyncio.Semaphore(AT_ONCE)

    async def crawled(number: int, key: str, value: float) -> None:
        urls = [web.url(f"{name}.{number}.example") for name in "ab"]
        plain = PLAIN | {"parsers": 0, "depth": 1, "scope": "any", "max_time": 1, "grace": 0, "archive": "discard"}
        settings = plain | {"dns": (web.dns,), "urls": urls, "output": str(tmp_path / str(number)), "store": "memory"}
        config = load(settings | {key: value}, environ={}).config
        async with turns:
            try:
                async with open_crawl(config) as crawl:
                    await crawl.run()
            except ConfigError as error:
                assert "memory_limit" in str(error)
            except BaseException as error:
                error.add_note(f"{key} = {value!r}")
                raise

    async with asyncio.TaskGroup() as tasks:
        for number, (key, value) in enumerate(EXTREMES):
            tasks.create_task(crawled(number, key, value))


async def test_every_other_number_may_be_set_while_it_crawls(web, tmp_path):
    async with daemon(tmp_path / "crawl", parsers=0, dns=(web.dns,)) as talk:
        for number, (key, value) in enumerate(EXTREMES):
            if key in RELOADABLE - {"max_bytes"}:  # which would end it
                url = web.url(f"{number}.example")
                seeded = {"data": url, "headers": {"Content-Type": "text/plain"}}
                for method, path, options in (
                    ("PATCH", "/v1/settings", {"json": {key: value}}),
                    ("POST", "/v1/seeds", seeded),
                    ("GET", f"/v1/urls?url={url}", {}),
                    ("GET", "/v1/hosts?sort=waiting", {}),
                    ("PATCH", "/v1/settings", {"json": {key: PLAIN.get(key)}}),
                ):
                    status, told = await talk.ask(method, path, **options)
                    assert status == 200, (key, value, told)
        await talk.until(waiting=0, retrying=0)


@pytest.mark.parametrize("every", [1e12, sys.float_info.max])
def test_a_page_that_is_due_when_there_is_no_date_is_told_of(web, tmp_path, every):
    """why ended with an internal error."""
    out, file = tmp_path / "crawl", tmp_path / "crawler.toml"
    file.write_text(f"recrawl_every = {every!r}\nallow_net = ['127.0.0.0/8']\nrobots = false\nmin_free_disk = 0\n")
    assert command("run", web.url("127.0.0.1"), "-o", str(out), "--config", str(file)).returncode == 0
    assert "visited again after the year 9999" in command("why", web.url("127.0.0.1"), "--data", str(out)).stdout
