"""A crawl begins only where there are threads for it."""

import subprocess
import sys
import threading

import pytest

from crawler.config import Config
from crawler.core.errors import StorageError
from crawler.core.threads import CRAWL_THREADS, try_threads
from crawler.crawl.wiring import open_crawl


def test_threads_that_were_tried_are_gone(monkeypatch):
    before = threading.active_count()
    try_threads(CRAWL_THREADS)
    assert threading.active_count() == before
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if threading.active_count() - before >= CRAWL_THREADS - 1:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(StorageError, match="ulimit -u"):
        try_threads(CRAWL_THREADS)
    assert threading.active_count() == before


async def test_a_crawl_without_them_begins_no_directory(tmp_path, monkeypatch):
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(StorageError, match="ulimit -u"):
        async with open_crawl(Config(output=str(tmp_path / "out"))):
            raise AssertionError
    assert not (tmp_path / "out").exists()


THREADS_OF_A_CONNECTION = """
import asyncio, os, sys, uvloop
from crawler.config import Config
from crawler.crawl.wiring import open_crawl

async def main():
    async with open_crawl(Config(output=sys.argv[1], parsers=0)):
        before = set(os.listdir("/proc/self/task"))
        await asyncio.get_running_loop().getaddrinfo("127.0.0.1", 80)  # as each connection does
        print(len(set(os.listdir("/proc/self/task")) - before))

uvloop.run(main())
"""


def test_a_connection_begins_no_thread(tmp_path):
    """libuv would abort the process for want of one, and the link be suspected that was to be visited."""
    arguments = [sys.executable, "-c", THREADS_OF_A_CONNECTION, str(tmp_path / "out")]
    ended = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=60)
    assert ended.stdout == "0\n", ended
