"""A small closed crawl over a durable store, run as a process of its own by test_rocks.py, which kills it.

    python killed_crawl.py STORE ACKNOWLEDGED PAGES

Page i links to seven others. After each commit the settled pages are appended to ACKNOWLEDGED in one write; after the
first, a line says so.
"""

import os
import random
import sys
import time
from pathlib import Path

from support.stores import Driver, done, link, retry

FANOUT = 7


def outlinks(page: int, pages: int) -> list[int]:
    return [(page * FANOUT + i + 1) % pages for i in range(FANOUT)]


def name(page: int) -> str:
    return f"h{page % 23}/{page}"


def main(path: str, acknowledged: str, pages: int) -> None:
    driver = Driver("embedded", Path(path), now=time.time())
    driver.store.rewind()
    acks = os.open(acknowledged, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    driver.commit([link(name(0), "seed")])
    begins = True
    chance = random.Random(time.time_ns())
    while (counts := driver.store.stats()).waiting + counts.retrying:
        driver.now = max(driver.now + 2.0, driver.store.next_due() or 0.0)
        leases = driver.claim(hosts=4, per_host=2)
        settled = []
        for lease in leases:
            if chance.random() < 0.1:
                settled.append((lease, retry(chance.random())))
            elif chance.random() < 0.9:
                page = int(lease.link.url.rpartition("/")[2])
                settled.append((lease, done(*(link(name(other)) for other in outlinks(page, pages)))))
        driver.commit((), settled)
        driver.store.give_back(leases)
        lines = [f"{lease.link.url}\n" for lease, outcome in settled if not hasattr(outcome, "after")]
        os.write(acks, "".join(lines).encode())
        if begins:
            print("under way", flush=True)
            begins = False
    driver.store.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
