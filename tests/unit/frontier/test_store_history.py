"""Long random histories: every store against a model that is nothing but lists, through give-backs, rewinds, clean and
unclean ends. An unclean end is the directory copied as it lies while the store is open: what SIGKILL leaves."""

import shutil
import tempfile
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec.structs import replace
from support.stores import REST, TIMEOUT, Driver, done, link, packed, retry, revive

from crawler.core.batch import EXPAND, HOST_BUDGET, KNOWN, NEW, QUERY_EXPLOSION, HostRest
from crawler.core.model import EXPANDED, THERE, Done, Input, Known, Lease, Link, Outcome, Retry
from crawler.frontier.host_state import CRASHES_MAX
from crawler.frontier.recrawl import RecrawlOrder
from crawler.frontier.rocksdb.reader import manifest
from crawler.frontier.store import Limits

FRUITFUL = ("ok", "redirect", "truncated", "too_large")
DOWN = ("connect_error", "host_down")


@dataclass
class Item:
    """A link that waits: in a queue, in ``due`` (then ``at`` is set), or out."""

    link: Link
    lane: int
    ticket: int
    failed: bool = False
    settled_before: bool = False
    recrawl: bool = False
    at: float | None = None
    out: bool = False
    crashes: int = 0


@dataclass
class Host:
    due: float
    since: float
    rest: HostRest = field(default_factory=lambda: HostRest(0.0))
    admitted: int = 0

    @property
    def ready_at(self) -> float:
        return self.since if self.rest.down else self.due


class Model:
    """The same promises, held by looking at everything every time."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.depths: dict[str, int] = {}
        self.roles: set[tuple[str, str | None]] = set()
        self.items: list[Item] = []
        self.pages: dict[str, Known] = {}
        self.hosts: dict[str, Host] = {}
        self.refused: dict[str, int] = {}
        self.queries: dict[str, set[str]] = {}
        self.tickets = 0

    def ticket(self) -> int:
        self.tickets += 1
        return self.tickets

    def verdicts(self, links: list[Link], ended: dict[str, Outcome]) -> list[int]:
        """And takes over the depths at once: whoever gives up the batch restores them from a copy."""
        fresh, expanded, before = [], set(), dict(self.depths)
        for one in links:
            host = self.hosts.get(one.host)
            path, _, query = one.url.partition("?")
            admitted = (host.admitted if host else 0) + self.new_in(fresh, links, one.host)
            queries = self.queries.setdefault(path, set())
            bounded = one.kind in ("link", "sitemap")
            is_listed_sitemap = one.input is not None and "sitemap" in one.url
            role = (one.url, one.anchor or one.url) if one.kind == "sitemap" or is_listed_sitemap else None
            if one.url in self.depths:
                verdict = KNOWN
                if self.limits.depth_limited and one.depth < self.depths[one.url]:
                    self.depths[one.url] = one.depth
                    if one.url in before and one.url not in expanded and self.fruitful(one.url, ended):
                        expanded.add(one.url)
                        verdict = EXPAND
            elif bounded and 0 < self.limits.pages_per_host <= admitted:
                verdict = HOST_BUDGET
            elif bounded and query and 0 < self.limits.queries_per_path <= len(queries):
                verdict = QUERY_EXPLOSION
            else:
                verdict = NEW
                self.depths[one.url] = one.depth
                if query:
                    queries.add(query)
            if role is not None and role not in self.roles and verdict not in (HOST_BUDGET, QUERY_EXPLOSION):
                self.roles.add(role)
                verdict = EXPAND if verdict == KNOWN else verdict
            fresh.append(verdict)
        return fresh

    def new_in(self, fresh: list[int], links: list[Link], host: str) -> int:
        return sum(verdict == NEW and one.host == host for verdict, one in zip(fresh, links, strict=False))

    def fruitful(self, url: str, ended: dict[str, Outcome]) -> bool:
        if url in ended:
            return isinstance(ended[url], Done) and ended[url].outcome in FRUITFUL
        if any(item.out and item.link.url == url for item in self.items):
            return True
        return url in self.pages and self.pages[url].outcome in FRUITFUL

    def host(self, name: str, now: float) -> Host:
        return self.hosts.setdefault(name, Host(now, now))

    def rest(self, name: str, rest: HostRest, now: float) -> None:
        host = self.host(name, now)
        has_responded = host.rest.has_responded or rest.has_responded
        host.rest, host.since, host.due = replace(rest, has_responded=has_responded), now, rest.due

    def enter(self, one: Link, verdict: int, now: float) -> None:
        host = self.host(one.host, now)
        if verdict == EXPAND:
            again = replace(one, kind="expand_sitemap" if one.kind == "sitemap" else "expand")
            self.items.append(Item(again, one.priority, self.ticket(), settled_before=True))
            return
        host.admitted += 1
        self.items.append(Item(one, one.priority, self.ticket()))
        if one.kind == "seed" and host.rest.down:
            host.rest = replace(host.rest, failures=max(0, host.rest.failures - 1), down=None)

    def promote(self, now: float) -> None:
        for item in sorted(self.items, key=lambda item: (item.at or 0.0, item.link.priority, item.ticket)):
            if item.at is not None and item.at <= now:
                item.at, item.lane, item.ticket = None, max(item.link.priority - 1, 0), self.ticket()

    def waiting(self, host: str) -> list[Item]:
        """In the order they must come out."""
        here = [item for item in self.items if item.link.host == host and item.at is None]
        return sorted(here, key=lambda item: (item.lane, item.ticket))

    def free_hosts(self) -> list[str]:
        """With links waiting and none out."""
        hosts = {item.link.host for item in self.items if item.at is None}
        return [host for host in hosts if not any(item.out for item in self.waiting(host))]


def copy_as_it_lies(source: Path, target: Path) -> None:
    """At one instant: again, if the database merged files meanwhile."""
    while True:
        before = manifest(source)
        try:
            shutil.copytree(source, target)
        except shutil.Error:
            pass
        else:
            if manifest(source) == before:
                return
        shutil.rmtree(target, ignore_errors=True)


PATHS = [f"{host}/{path}" for host in "abc" for path in ("", "1", "2", "3", "x?1", "x?2", "x?3", "x?4", "sitemap")]
paths = st.sampled_from(PATHS)
priorities = st.sampled_from([128, 128, 128, 127, 16, 0])
sites = st.sampled_from(["http://a.test/", "http://b.test/"])
links = st.one_of(
    st.builds(
        link,
        paths,
        st.sampled_from(["link", "link", "link", "seed", "redirect"]),
        depth=st.integers(0, 3),
        priority=priorities,
    ),
    st.builds(link, paths, st.sampled_from(["seed", "redirect"]), priority=priorities, input=st.just(Input("list", 1))),
    st.builds(link, paths, st.just("sitemap"), anchor=sites, depth=st.integers(0, 1), priority=priorities),
)
VIA = "http://via.test/"
found = links.map(lambda one: replace(one, via=VIA, anchor=VIA))
outcomes = st.one_of(
    st.builds(
        lambda outlinks, outcome: done(*outlinks, outcome=outcome),
        st.lists(found, max_size=4),
        st.sampled_from(["ok", "http_error"]),
    ),
    st.just(TIMEOUT),
    st.builds(retry, st.floats(0.0, 30.0)),
)
rests = st.builds(
    lambda wait, failures, down, busy, has_responded: (wait, failures, DOWN if down else None, busy, has_responded),
    st.floats(0.0, 20.0),
    st.integers(0, 9),
    st.integers(0, 5).map(lambda n: n == 0),
    st.integers(0, 3),
    st.booleans(),
)


class StoreHistory(RuleBasedStateMachine):
    kind = "memory"

    @initialize(depth=st.booleans(), pages=st.sampled_from([0, 0, 5]), queries=st.sampled_from([0, 2]))
    def begin(self, depth: bool, pages: int, queries: int) -> None:
        self.root = Path(tempfile.mkdtemp())
        self.turn = 0
        limits = Limits(depth, pages, queries, sitemaps=True)
        self.model = Model(limits)
        with (  # or no history could be replayed
            patch("crawler.frontier.rocksdb.opening.secrets.randbits", return_value=7),
            patch("secrets.token_bytes", return_value=bytes((0, 0, 0, 0, 0, 0, 0, 7))),
        ):
            self.driver = Driver(self.kind, self.root / "0", limits)
        self.opened_at = self.driver.now
        self.out: dict[bytes, tuple[Lease, Item]] = {}

    def teardown(self) -> None:
        if hasattr(self, "driver"):
            self.driver.store.close()
            shutil.rmtree(self.root)

    def settle(self) -> None:
        """Before all that is not committed is forgotten."""

    def keys(self) -> list[bytes]:
        return sorted(self.out, key=lambda key: self.out[key][1].ticket)

    # -- steps ----------------------------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([0.01, 1.0, 7.0, 3600.0]))
    def wait(self, seconds: float) -> None:
        self.driver.now += seconds

    @rule(hosts=st.integers(0, 4), per_host=st.integers(1, 5), low=st.dictionaries(st.sampled_from("abcd"), st.integers(1, 4)))
    def claim(self, hosts: int, per_host: int, low: dict[str, int]) -> None:
        model, now = self.model, self.driver.now
        wanted = {f"{name}.test": count for name, count in low.items()}
        leases = self.driver.claim(hosts, per_host, wanted)
        model.promote(now)
        by_host: dict[str, list[Lease]] = {}
        for lease in leases:
            by_host.setdefault(lease.link.host, []).append(lease)
        asked = {host for host in wanted if any(not item.out for item in model.waiting(host))}
        assert asked <= by_host.keys()
        free = [host for host in model.free_hosts() if model.hosts[host].ready_at <= now and host not in asked]
        assert len(by_host.keys() - asked) == min(hosts, len(free))
        assert by_host.keys() - asked <= set(free)
        for host, got in by_host.items():
            expected = [item for item in model.waiting(host) if not item.out][
                : wanted.get(host, per_host) if host in asked else per_host
            ]
            assert len(got) == len(expected)
            for lease, item in zip(got, expected, strict=True):
                self.check(lease, item, model.hosts[host])
                item.out = True
                self.out[lease.key] = lease, item

    def check(self, lease: Lease, item: Item, host: Host) -> None:
        depth = item.link.depth
        if self.model.limits.depth_limited:
            depth = min(depth, self.model.depths[item.link.url])
        assert lease.link == replace(item.link, depth=depth, attempt=item.link.attempt + item.crashes)
        crashed = ("skipped", "crashed") if item.crashes >= CRASHES_MAX else None
        down, failures = host.rest.down, host.rest.failures
        is_old = self.kind != "memory" and host.since <= self.opened_at
        if down and is_old:
            down, failures = None, max(0, failures - 1)
        assert lease.suspect == (item.crashes > 0) and lease.down == (down or crashed)
        assert (lease.failures, lease.busy, lease.has_responded) == (failures, host.rest.busy, host.rest.has_responded)
        assert lease.recrawl == item.recrawl
        assert lease.known == (self.model.pages.get(lease.link.url) if item.settled_before else None)
        due = 0.0 if down else host.due
        if is_old:
            due = max(due, self.opened_at + REST)
        assert lease.due == due
        assert lease.key not in self.out

    @rule(
        data=st.data(), admitted=st.lists(links, max_size=8), between=st.booleans(), give_up=st.integers(0, 7), pack=st.booleans()
    )
    def commit(self, data: st.DataObject, admitted: list[Link], between: bool, give_up: int, pack: bool) -> None:
        keys = data.draw(st.lists(st.sampled_from(self.keys()), unique=True, max_size=8)) if self.out else []
        settled = [(self.out[key][0], data.draw(outcomes)) for key in keys]
        self.driver.now += 0.001
        now = self.driver.now
        hosts = {}
        for lease, _ in settled:
            wait, *rest = data.draw(rests)
            hosts[lease.link.host] = HostRest(now + wait, *rest)
        found = [one for _, outcome in settled if isinstance(outcome, Done) for one in outcome.outlinks]
        before = (
            dict(self.model.depths),
            set(self.model.roles),
            {path: set(queries) for path, queries in self.model.queries.items()},
        )
        secret = self.driver.store.secret()
        given = [(lease, packed(outcome, secret) if pack else outcome) for lease, outcome in settled]
        prepared = self.driver.prepare(admitted, given, hosts)
        fresh = self.model.verdicts(found + admitted, {lease.link.url: outcome for lease, outcome in settled})
        assert list(prepared.verdicts) == fresh
        if give_up == 0:
            self.model.depths, self.model.roles, self.model.queries = before
            return self.rewind(data)
        if between:
            self.claim(3, 1, {})
        self.driver.make_true(prepared)
        self.take_over(keys, settled, hosts, found + admitted, fresh, now)

    def take_over(
        self,
        keys: list[bytes],
        settled: list[tuple[Lease, Outcome]],
        hosts: dict[str, HostRest],
        found: list[Link],
        fresh: list[int],
        now: float,
    ) -> None:
        model = self.model
        for key, (lease, outcome) in zip(keys, settled, strict=True):
            item = self.out.pop(key)[1]
            if isinstance(outcome, Retry):
                item.link, item.out, item.crashes = lease.link.retried(), False, 0
                item.at, item.failed, item.ticket = now + outcome.after, True, model.ticket()
                continue
            model.items.remove(item)
            if item.link.kind not in EXPANDED:
                model.pages[lease.link.url] = Known(lease.link, outcome.outcome, outcome.reason, 200, 5.0)
        for host, rest in hosts.items():
            model.rest(host, rest, now)
        again = [
            lease.recrawl and lease.known is not None and lease.known.outcome in THERE
            for lease, outcome in settled
            if isinstance(outcome, Done)
            for _ in outcome.outlinks
        ]
        for one, verdict, is_read_again in zip_longest(found, fresh, again, fillvalue=False):
            if verdict in (NEW, EXPAND):
                model.enter(one, verdict, now)
            elif verdict != KNOWN and not is_read_again:
                name = "host_budget" if verdict == HOST_BUDGET else "query_explosion"
                model.refused[name] = model.refused.get(name, 0) + 1

    @precondition(lambda self: self.out)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        keys = data.draw(st.lists(st.sampled_from(self.keys()), unique=True))
        self.driver.store.give_back([self.out[key][0] for key in keys])
        for key in keys:
            self.out.pop(key)[1].out = False

    @rule(data=st.data())
    def rewind(self, data: st.DataObject) -> None:
        held = data.draw(st.lists(st.sampled_from(self.keys()), unique=True)) if self.out else []
        self.settle()
        self.driver.store.rewind([self.out[key][0] for key in held])
        for key in self.out.keys() - set(held):
            self.out.pop(key)[1].out = False
        self.opened_at = max(self.opened_at, self.driver.store.clock())

    @rule(outcome=st.sampled_from(["timeout", "ok", "dns_error"]))
    def revive(self, outcome: str) -> None:
        model = self.model
        queued = {item.link.url for item in model.items if item.link.kind not in EXPANDED}
        chosen = {url: page for url, page in model.pages.items() if page.outcome == outcome and url not in queued}
        for page in chosen.values():
            host = model.hosts[page.link.host]
            host.rest = replace(host.rest, failures=0, down=None)
        assert revive(self.driver.store, outcome) == len(chosen)
        order = {url: at for at, url in enumerate(model.pages)}
        if self.kind != "memory":  # by fingerprint: any order is right, this one has to be known to compare
            order = {lease_url: at for at, lease_url in enumerate(self.driver.by_fingerprint(model.pages))}
        for url in sorted(chosen, key=order.__getitem__):
            again = chosen[url].link.retried()
            model.items.append(Item(again, again.priority, model.ticket(), settled_before=True))

    @rule(outcome=st.sampled_from(["timeout", "ok", "dns_error"]), pages=st.integers(1, 4))
    def recrawl(self, outcome: str, pages: int) -> None:
        model, store, now = self.model, self.driver.store, self.driver.now
        queued = {item.link.url for item in model.items if item.link.kind not in EXPANDED}
        chosen = {url: page for url, page in model.pages.items() if page.outcome == outcome and url not in queued}
        for page in chosen.values():
            host = model.hosts[page.link.host]
            if host.rest.down and host.since < now:
                host.rest = replace(host.rest, failures=0, down=None)
        store.order(RecrawlOrder(now, 9e9, (outcome,)))
        assert sum(iter(lambda: store.fulfil(pages), None)) == len(chosen)
        order = self.driver.by_fingerprint(model.pages) if self.kind != "memory" else list(model.pages)
        for url in sorted(chosen, key=order.index):
            again = chosen[url].link.recrawled()
            model.items.append(Item(again, again.priority, model.ticket(), settled_before=True, recrawl=True))

    @precondition(lambda self: self.kind != "memory")
    @rule(killed=st.booleans(), suspected=st.booleans())
    def end_and_begin_again(self, killed: bool, suspected: bool) -> None:
        store = self.driver.store
        self.settle()
        if killed:
            self.turn += 1
            self.unclean_end(self.root / str(self.turn))
            self.driver.path = self.root / str(self.turn)
        store.close()
        self.driver.store = store = self.driver.open()
        self.opened_at = max(self.driver.now, store.clock())
        if suspected:
            store.set_suspects({key: store.suspects().get(key, 0) + 1 for key in self.out})
        for _, item in self.out.values():
            item.out = False
            item.crashes += suspected
        self.out = {}

    def unclean_end(self, left: Path) -> None:
        copy_as_it_lies(self.driver.path, left)

    # -- what always holds ----------------------------------------------------------------------------------------

    @invariant()
    def counts_are_right(self) -> None:
        if not hasattr(self, "driver"):
            return
        counts, model = self.driver.store.stats(), self.model
        queued = {item.link.url for item in model.items if item.link.kind not in EXPANDED}
        settled = [page for url, page in model.pages.items() if url not in queued and page.link.kind != "sitemap"]
        waiting = {item.link.url for item in model.items if item.link.kind == "sitemap"}
        sitemaps = waiting | {url for url, page in model.pages.items() if page.link.kind == "sitemap" and url not in queued}
        assert counts.known == len(model.depths.keys() - sitemaps)
        assert counts.waiting == sum(not item.failed for item in model.items)
        assert counts.retrying == sum(item.failed for item in model.items)
        assert counts.done == len(settled) == sum(counts.outcomes.values())
        assert all(counts.outcomes[name] == sum(page.outcome == name for page in settled) for name in counts.outcomes)
        assert counts.hosts == len(model.hosts) and counts.refused == model.refused

    @invariant()
    def every_url_is_known_as_what_it_is(self) -> None:
        if not hasattr(self, "driver"):
            return
        failed = {item.link.url for item in self.model.items if item.failed and item.link.kind not in EXPANDED}
        for name in PATHS:
            url = link(name).url
            state = "retrying" if url in failed else "waiting" if url in self.model.depths else None
            assert self.driver.store.lookup(url) == self.model.pages.get(url, state)

    @invariant()
    def what_comes_next_is_known(self) -> None:
        if not hasattr(self, "driver"):
            return
        times = [self.model.hosts[host].ready_at for host in self.model.free_hosts()]
        times += [item.at for item in self.model.items if item.at is not None]
        assert self.driver.store.next_due() == min(times, default=None)


class DurableHistory(StoreHistory):
    kind = "embedded"


class ClusterHistory(DurableHistory):
    """A working copy: its truth is what was committed, whatever is left of the copy."""

    kind = "cluster"

    def settle(self) -> None:
        """What became due since the last commit is promoted here alone, and once more by whoever loads the slot: perhaps later
        than other links come, which is right, but the model does not know it."""
        self.driver.commit()

    def unclean_end(self, left: Path) -> None:
        """The disk is lost every other time."""
        if self.turn % 2:
            copy_as_it_lies(self.driver.path, left)
        self.driver.copy.mirror._has_left = True
        self.driver.copy.truth.close()


quick = settings(deadline=None, suppress_health_check=list(HealthCheck))
TestMemory = StoreHistory.TestCase
TestMemory.settings = settings(quick, max_examples=40, stateful_step_count=80)
TestEmbedded = DurableHistory.TestCase
TestEmbedded.settings = settings(quick, max_examples=8, stateful_step_count=60)
TestCluster = pytest.mark.slow(pytest.mark.timeout(600)(ClusterHistory.TestCase))
TestCluster.settings = settings(quick, max_examples=40, stateful_step_count=40)
