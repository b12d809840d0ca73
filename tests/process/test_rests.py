"""Rests that hold from one process to the next."""

from itertools import pairwise

from support.daemons import daemon
from support.webs import Web, page


async def test_a_domain_that_was_just_visited_rests_after_a_start_though_its_next_host_is_new(tmp_path):
    """What is kept is kept of hosts, and of this one there was nothing."""
    delay, web = 2.0, Web(default=lambda host, path: page())
    with web.running():
        for name in ("a", "b"):
            async with daemon(tmp_path, politeness_by="domain", delay=delay, factor=0, dns=(web.dns,)) as told:
                await told.ask("POST", "/v1/seeds", data=web.url(f"{name}.site.test"), headers={"Content-Type": "text/plain"})
                await told.until(waiting=0, in_flight=0, done=1 + (name == "b"))
    assert [visit.host for visit in web.visits] == ["a.site.test", "b.site.test"]
    assert all(other.begun - one.ended >= delay - 0.001 for one, other in pairwise(web.visits))
