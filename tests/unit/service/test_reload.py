"""Settings that are changed while a crawl runs."""

import asyncio
import threading
from functools import partial
from types import SimpleNamespace

import pytest

from crawler.config.load import load
from crawler.core.errors import ConfigError
from crawler.crawl import plan_of
from crawler.service.parts.opening import check_memory
from crawler.service.reload import Changes


async def test_what_is_in_effect_is_written_down_though_not_everybody_has_said_so_in_time(tmp_path):
    crawl = SimpleNamespace(config=load({"output": str(tmp_path)}, environ={}).config)

    async def reconfigure(config):
        crawl.config = config
        raise TimeoutError  # a process stands still

    crawl.reconfigure = reconfigure
    with pytest.raises(TimeoutError):
        await Changes(crawl, tmp_path).patch({"rate": 3})
    assert "rate = 3" in (tmp_path / "crawl.toml").read_text()


async def test_a_reload_that_no_thread_is_left_to_write_down_holds(tmp_path, monkeypatch, caplog):
    """It ended the daemon."""
    crawl = SimpleNamespace(config=load({"output": str(tmp_path)}, environ={}).config)
    begin = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name.startswith("asyncio_"):
            raise RuntimeError("can't start new thread")
        begin(thread)

    async def reconfigure(config):
        crawl.config = config

    crawl.reconfigure = reconfigure
    monkeypatch.setattr(threading.Thread, "start", refuse)
    changes = Changes(crawl, tmp_path)
    await changes.reload(lambda: load({"output": str(tmp_path), "retries": 5}, environ={}).config)
    assert (crawl.config.retries, changes.last_reload_successful) == (5, True)
    assert "was not written down" in caplog.text and "ulimit -u" in caplog.text


async def test_a_reload_from_a_disk_that_hangs_leaves_other_changes_their_turn(tmp_path):
    """They waited for it as long as it hung, and were refused with 504, untried. A second reload comes after the first."""
    crawl = SimpleNamespace(config=load({"output": str(tmp_path)}, environ={}).config)

    async def reconfigure(config):
        crawl.config = config

    crawl.reconfigure = reconfigure
    changes, begun, hangs, files = Changes(crawl, tmp_path), threading.Event(), threading.Event(), iter((4, 5))

    def read():
        retries = next(files)
        begun.set()
        hangs.wait()
        return load({"output": str(tmp_path), "retries": retries}, environ={}).config

    reloads = [asyncio.ensure_future(changes.reload(read)) for _ in range(2)]
    await asyncio.to_thread(begun.wait)
    try:
        async with asyncio.timeout(10):
            assert (await changes.patch({"retries": 1}))["retries"] == 1
    finally:
        hangs.set()
    await asyncio.gather(*reloads)
    assert (crawl.config.retries, changes.last_reload_successful) == (5, True)


@pytest.mark.parametrize(
    ("plan", "limit"), [(partial(plan_of, endless=True), "244MiB"), (partial(check_memory, parts=2, endless=True), "356MiB")]
)
async def test_what_the_memory_limit_is_too_small_for_is_refused_at_once(plan, limit, tmp_path, caplog):
    """It was taken, and the next start refused it: with several processes the whole crawl ended with the first part that died."""
    told = {"output": str(tmp_path), "depth": 1, "memory_limit": limit, "parsers": 2, "workers": 20}
    many = [f"/{n}/" + "x" * 900 for n in range(400)]
    crawl = SimpleNamespace(config=load(told, environ={}).config)

    async def reconfigure(config):
        crawl.config = config

    crawl.reconfigure = reconfigure
    changes = Changes(crawl, tmp_path, plan)
    for change in (changes.patch({"exclude": many}), changes.exclude(many, [])):
        with pytest.raises(ConfigError, match="too small"):
            await change
    await changes.reload(lambda: load(told | {"exclude": many}, environ={}).config)
    assert not changes.last_reload_successful and "too small" in caplog.text
    assert crawl.config.exclude == ()
    await changes.exclude(many[:30], ["a.example"])
    assert len(crawl.config.exclude) == 30
    crawl.config = crawl.config.replaced(exclude=tuple(many))  # of a limit that was too small before, nothing is refused
    await changes.exclude(["/a"], [])
    assert "/a" in crawl.config.exclude
