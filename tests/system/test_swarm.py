"""The heaviest responses there are, at once, under a small memory limit: it holds, and each ends as it must.

tests/benchmarks/swarm.py is the large version."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import swarm
from serving import serving
from support.sins_heavy import HEAVY
from swarm import crawled, lines, report

LIMIT = "160MiB"
WIDE = ("heavy-br-thrice", "heavy-br-bomb", "heavy-zstd-bomb", "heavy-zstd", "headers-endless", "header-endless")


@pytest.mark.timeout(900)  # seconds of work, and minutes on a machine that has much else to do
@pytest.mark.parametrize(
    ("kinds", "each", "options"),
    [(tuple(HEAVY), 2, ("--archive", "warc")), (WIDE, 6, ("--archive", "files"))],
    ids=["every kind", "wide windows"],
)
def test_the_limit_holds_against_a_swarm(tmp_path: Path, kinds: Sequence[str], each: int, options: Sequence[str]) -> None:
    with serving(swarm.__file__) as port:
        result = crawled(lines(port, each, kinds), tmp_path, "--memory-limit", LIMIT, "--no-robots", *options)
    assert not result.wrong, result.said
    watcher = result.watcher
    assert len(watcher.samples) > 5 and len(watcher.gauges) > 2
    assert watcher.peak.pss < watcher.gauges[-1][1]["crawler_memory_limit_bytes"], report(result, LIMIT)
    for account in ("connection", "body", "head", "parse", "outcome", "write"):
        assert watcher.largest(account) <= watcher.gauges[-1][1][f'crawler_memory_budget_bytes{{account="{account}"}}'], account
