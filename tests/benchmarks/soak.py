"""A soak: one crawl at full speed over webfarm's good web and the misbehaving site at once, for as long as asked; what its
process tree holds is sampled.

    nice python tests/benchmarks/soak.py --seconds 1200 > soak.csv

Prints the samples as CSV, then the slope of each over the second half of the time, with its standard error. Ends with 0 if
none can be told from zero: none grows by more than CERTAIN standard errors. The files of the store are told apart from the other
descriptors: they become more with what is known, up to a bound that follows from the limit of descriptors.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import math
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from gauges import free_port, scraped, tree_pss
from measure import HERE, farm, prepare, tree

sys.path.insert(0, str(HERE.parent))

from support.sins import SINS
from support.sins_coding import CODINGS
from support.sins_net import NET
from support.sins_smuggled import SMUGGLED

SINNERS = {name: sin for name, sin in (SINS | CODINGS | NET | SMUGGLED).items() if "proxy" not in sin.config}
EVERY_S = 5.0
SINS_A_SECOND = 40
GOOD_FOR_ONE_SIN = 4
"""Seeds, each of which links to some 20 more: more than can be fetched."""
FARM_HOSTS = 200
BLOCKS = 12
"""Samples that follow one another are alike. The mean of a block hardly depends on that of the block before."""
CERTAIN = 3.0
LIMITS = ("--connect-timeout", "3s", "--first-byte-timeout", "3s", "--read-timeout", "3s", "--min-rate-grace", "3s")
LIMITS += ("--timeout", "20s", "--dns-timeout", "2s", "--max-body", "2MiB")
GENTLE = ("--delay", "0", "--factor", "0", "--per-host", "2", "--backoff-max", "2s", "--min-free-disk", "1MiB")
LIGHT = ("--memory-limit", "256MiB", "--insecure", "--quiet", "--log-level", "error")


@contextlib.contextmanager
def sinful_site() -> Iterator[dict[str, str]]:
    """The site at every address of 127.0.0.0/8, in a process of its own; its ports by name."""
    port = free_port()
    command = [sys.executable, str(HERE.parent / "site.py"), "--host", "0.0.0.0", "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as site:
        assert site.stdout is not None
        ports: dict[str, str] = {}
        while "dns" not in ports:  # the last
            name, where = site.stdout.readline().split()
            ports[name] = where.rpartition(":")[2]
        try:
            yield ports
        finally:
            site.terminate()


def sin_url(name: str, number: int, ports: dict[str, str]) -> str:
    """A sin at a host of its own: the ``number``-th."""
    url = (SINNERS[name].given or "http://127.0.0.1:{http}/sin/NAME").replace("NAME", name)
    for port, value in ports.items():
        url = url.replace(f"{{{port}}}", value)
    host = f"127.{2 + (number >> 16) % 250}.{number >> 8 & 255}.{number & 255}"
    url = url.replace("//127.0.0.1:", f"//{host}:").replace("//localhost:", f"//{host}:")
    return f"{url.replace('.sin.test', f'.s{number}.sin.test')}?{number}"


def feed(out: BinaryIO, farm_port: int, ports: dict[str, str]) -> None:
    """Lines for ever: good ones and sins."""
    sins = itertools.cycle(SINNERS)
    began = time.monotonic()
    with contextlib.suppress(OSError):
        for number in itertools.count():
            goods = range(number * GOOD_FOR_ONE_SIN, (number + 1) * GOOD_FOR_ONE_SIN)
            lines = [f"http://127.1.1.{1 + n % FARM_HOSTS}:{farm_port}/p/{n // FARM_HOSTS}" for n in goods]
            out.write("\n".join([*lines, sin_url(next(sins), number, ports), ""]).encode())
            out.flush()
            time.sleep(max(0.0, began + number / SINS_A_SECOND - time.monotonic()))


def sampled(pid: int, port: int) -> dict[str, float]:
    """What the process tree holds now; empty if it does not answer."""
    gauges, descriptors, store_files, threads = scraped(port), 0, 0, 0
    for each in tree(pid):
        with contextlib.suppress(OSError):
            for path in Path(f"/proc/{each}/fd").iterdir():
                with contextlib.suppress(FileNotFoundError):  # closed since it was listed
                    store_files += os.readlink(path).endswith(".sst")
                    descriptors += 1
            threads += len(list(Path(f"/proc/{each}/task").iterdir()))
    if not gauges:
        return {}
    held = {"pss_bytes": float(tree_pss(pid)), "descriptors": descriptors - store_files, "store_files": store_files}
    held |= {"tasks": gauges["asyncio_tasks"], "threads": threads}
    done = {"done": gauges['crawler_frontier_urls{state="done"}'], "ok": gauges['crawler_fetches_total{outcome="ok"}']}
    accounts = ("base", "store", "parsers", "bench", "robots", "idle")
    done |= {name: gauges[f'crawler_memory_used_bytes{{account="{name}"}}'] for name in accounts}
    known = sum(value for name, value in gauges.items() if name.startswith("crawler_frontier_urls{"))
    return held | done | {"known": known}


def slope(times: Sequence[float], values: Sequence[float]) -> tuple[float, float]:
    """Least squares over the means of BLOCKS blocks: change a second, and its standard error."""
    size = len(times) // BLOCKS
    xs, ys = ([statistics.fmean(data[k * size : (k + 1) * size]) for k in range(BLOCKS)] for data in (times, values))
    line = statistics.linear_regression(xs, ys)
    rest = sum((y - line.slope * x - line.intercept) ** 2 for x, y in zip(xs, ys, strict=True))
    spread = sum((x - statistics.fmean(xs)) ** 2 for x in xs)
    return line.slope, math.sqrt(rest / (BLOCKS - 2) / spread)


def soaked(seconds: float, command: list[str], port: int, farm_port: int, ports: dict[str, str]) -> list[dict[str, float]]:
    samples: list[dict[str, float]] = []
    crawl = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    threading.Thread(target=feed, args=(crawl.stdin, farm_port, ports), daemon=True).start()
    began = time.monotonic()
    try:
        while (now := time.monotonic() - began) < seconds:
            time.sleep(EVERY_S)
            assert crawl.poll() is None, f"the crawl ended with {crawl.returncode}"
            if found := sampled(crawl.pid, port):
                if not samples:
                    print("seconds", *found, sep=",", flush=True)
                samples.append({"seconds": now} | found)
                print(f"{now:.1f}", *(f"{value:.0f}" for value in found.values()), sep=",", flush=True)
    finally:
        crawl.terminate()
        assert crawl.wait(60) == 5, crawl.returncode
    return samples


def judged(samples: list[dict[str, float]]) -> bool:
    """Print every slope over the second half; whether none is certainly above zero."""
    half = samples[len(samples) // 2 :]
    assert len(half) >= BLOCKS, "too short to say anything"
    flat = True
    for name in ("pss_bytes", "descriptors", "tasks", "threads"):
        change, error = slope([sample["seconds"] for sample in half], [sample[name] for sample in half])
        mean, peak = statistics.fmean(sample[name] for sample in half), max(sample[name] for sample in samples)
        grows = change > CERTAIN * error
        flat = flat and not grows
        words = f"mean {mean:,.1f}, peak {peak:,.0f}, slope {change * 3600:+,.2f} ± {error * 3600:,.2f} an hour"
        print(f"{name}: {words}{': GROWS' if grows else ''}")
    done, seconds = (samples[-1][name] - samples[0][name] for name in ("done", "seconds"))
    print(f"{done:,.0f} settled, {done / seconds:,.0f} a second; {samples[-1]['known']:,.0f} known")
    return flat


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1200)
    parser.add_argument("--farm-port", type=int, default=0, help="default: one that is free")
    parser.add_argument("--dir", type=Path, help="where the crawl is kept while it lasts (default: /tmp)")
    parser.add_argument("--archive", default="warc")
    options: Any = parser.parse_args()
    prepare()
    port = free_port()
    with (
        farm(options.farm_port, "--hosts", str(FARM_HOSTS), "--p404=0.02", "--ptrunc=0.01", "--pchunked=0.2") as web,
        sinful_site() as ports,
        tempfile.TemporaryDirectory(prefix="soak-", dir=options.dir) as root,
    ):
        command = [sys.executable, str(HERE / "counted.py"), "run", "-i", "-", "-o", str(Path(root, "out")), "--depth", "1"]
        command += [*LIMITS, *GENTLE, *LIGHT, "--archive", options.archive, "--dns", f"127.0.0.1:{ports['dns']}"]
        command += ["--allow-net", "127.0.0.0/8", "--workers", "200", "--metrics-listen", f"127.0.0.1:{port}"]
        samples = soaked(options.seconds, command, port, web.port, ports)
    return 0 if judged(samples) else 1


if __name__ == "__main__":
    sys.exit(main())
