"""How much a batch holds before it is full."""

import pytest
from msgspec.structs import replace
from support.stores import link

from crawler.core.batch import Admitted, HostRest, Settled
from crawler.core.model import Dropped, Input, Known, Lease, LineFault
from crawler.frontier.batch import LINKS_BYTES_MAX, OpenBatch

LONG = "\N{EARTH GLOBE EUROPE-AFRICA}" * (16 << 10)
"""The longest a line may be: 64 KiB in a list and in memory."""
LINES = 10 * LINKS_BYTES_MAX // (4 * len(LONG))


def line(n: int) -> Input:
    return Input("list", n)


def lease(n: int) -> Lease:
    return Lease(replace(link(f"a/{n}"), given=LONG, input=line(n)), b"")


def of_known(n: int) -> Lease:
    known = Known(lease(n).link, "ok", None, 200, 0.0)
    return Lease(link(f"a/{n}"), b"", known=known)


@pytest.mark.parametrize("what", ["links", "faults", "extras", "settled", "known", "robots"])
def test_a_batch_of_long_lines_is_full_with_few(what: str) -> None:
    batch = OpenBatch()
    for n in range(LINES):
        if batch.is_full():
            break
        if what in ("settled", "known"):
            ended = lease(n) if what == "settled" else of_known(n)
            batch.settle(Settled(ended, Dropped("skipped", "excluded")), HostRest(0.0))
        elif what == "robots":
            batch.learn(f"http://h{n}.test", bytes(4 * len(LONG)))
        elif what == "links":
            batch.admit(Admitted((lease(n).link,)))
        else:
            text, extras = (LONG, {}) if what == "faults" else ("", {line(n): LONG})
            batch.admit(Admitted((), (LineFault(line(n), text, "json", None),), extras=extras))
    assert n == LINES / 10
    failed, batch = batch, OpenBatch()
    batch.prepend(failed)
    assert batch.is_full() or what in ("settled", "known"), "visits are made again"
