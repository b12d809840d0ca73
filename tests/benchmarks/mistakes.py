"""The three mistakes that a crawler dies of, beside this one: memory over the number of URLs fetched.

    webfarm --port 8900 --hosts 100 --sigma 0 --median 49152 --gzip 0 &
    python tests/benchmarks/mistakes.py --port 8900 --urls 10000 --plot tests/benchmarks/mistakes.png

One task per URL over a queue without bound, bodies kept whole; a session per request; and ``crawler run``. Each runs as a
process of its own over the same list, for at most --seconds. The server is a webfarm of 100 hosts.
Needs matplotlib for --plot.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

import aiohttp
from gauges import free_port, scraped, tree_pss

Samples = list[tuple[float, float]]
"""(URLs fetched, MiB)"""


async def task_per_url(urls: list[str], fetched: Synchronized[int]) -> None:
    """Every URL a task at once, every body whole in memory, every result in a queue that nobody empties in time."""
    queue: asyncio.Queue[bytes] = asyncio.Queue()

    async def fetch(session: aiohttp.ClientSession, url: str) -> None:
        async with session.get(url) as answer:
            await queue.put(await answer.read())
            fetched.value += 1

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=100)) as session:
        await asyncio.gather(*(fetch(session, url) for url in urls), return_exceptions=True)


async def session_per_request(urls: list[str], fetched: Synchronized[int]) -> None:
    """A hundred workers, each of which opens a session, and so a pool and a connection, for every URL; bodies are kept."""
    left, bodies = iter(urls), []

    async def worker() -> None:
        for url in left:
            async with aiohttp.ClientSession() as session, session.get(url) as answer:
                bodies.append(await answer.read())
                fetched.value += 1

    await asyncio.gather(*(worker() for _ in range(100)), return_exceptions=True)


def naive(way: Callable[..., object], urls: list[str], seconds: float) -> Samples:
    spawn = multiprocessing.get_context("spawn")
    fetched = spawn.Value("l", 0)
    process = spawn.Process(target=_run, args=(way, urls, fetched))
    process.start()
    assert process.pid is not None
    return sampled(process.pid, process.is_alive, lambda: fetched.value, seconds, process.kill)


def _run(way: Callable[..., object], urls: list[str], fetched: Synchronized[int]) -> None:
    asyncio.run(way(urls, fetched))  # type: ignore[arg-type]


def ours(urls: list[str], seconds: float) -> Samples:
    port = free_port()
    with tempfile.TemporaryDirectory() as root:
        Path(root, "urls.txt").write_text("\n".join(urls))
        command = [sys.executable, "-m", "crawler", "run", "-i", f"{root}/urls.txt", "-o", f"{root}/out", "--quiet"]
        command += ["--no-robots", "--delay", "0", "--allow-net", "127.0.0.0/8", "--memory-limit", "256MiB"]
        crawl = subprocess.Popen([*command, "--metrics-listen", f"127.0.0.1:{port}"])

        def done() -> int:
            return int(scraped(port).get('crawler_frontier_urls{state="done"}', 0))

        samples = sampled(crawl.pid, lambda: crawl.poll() is None, done, seconds, crawl.terminate)
        crawl.wait()
        return samples


def sampled(pid: int, alive: Callable[[], bool], count: Callable[[], int], seconds: float, stop: Callable[[], None]) -> Samples:
    began, samples = time.monotonic(), []
    while alive() and time.monotonic() - began < seconds:
        time.sleep(0.25)
        if (memory := tree_pss(pid)) and (fetched := count()):
            samples.append((float(fetched), memory / (1 << 20)))
    stop()
    return samples


def plot(series: dict[str, Samples], file: str) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 3.6), dpi=90)
    for name, samples in series.items():
        axes.plot([n for n, _ in samples], [mib for _, mib in samples], label=name)
    axes.axhline(256, color="grey", linestyle=":", linewidth=1, label="--memory-limit 256MiB")
    axes.set(xlabel="URLs fetched", ylabel="memory of the process tree, MiB", ylim=(0, None), xlim=(0, None))
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--urls", type=int, default=20_000)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--plot")
    wanted = parser.parse_args()
    urls = [f"http://127.1.1.{n % 100 + 1}:{wanted.port}/p/{n // 100}" for n in range(wanted.urls)]
    series = {
        "one task per URL, bodies in memory": naive(task_per_url, urls, wanted.seconds),
        "a session per request": naive(session_per_request, urls, wanted.seconds),
        "crawler run": ours(urls, wanted.seconds),
    }
    for name, samples in series.items():
        print(f"{name}: {samples[-1][0]:.0f} URLs, at most {max(mib for _, mib in samples):.0f} MiB")
    if wanted.plot:
        plot(series, wanted.plot)


if __name__ == "__main__":
    main()
