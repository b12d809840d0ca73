"""The whole catalogue of sins and good pages among them in one crawl, by the real command: every good page is stored byte for
byte, every sin ends as it must, and memory hardly grows.

pytest -m slow -s tests/system/test_mixture.py    2,000 good pages, on either request path
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import pytest
from gauges import free_port, scraped, tree_pss
from support.hostile import ALL, filled_in
from support.paths import TESTS
from support.programs import CLEAN, rows_of
from support.sinful import Script, Site, head, page, running, stay
from support.sinful_net import EXTRAS
from support.sins_coding import CODINGS
from warcio.archiveiterator import ArchiveIterator

from crawler.core.urls import name_fault, parse

BY_SESSION: Final = TESTS / "benchmarks" / "session_way.py"
GROWTH_BYTES_MAX: Final = 64 << 20
WARM_PAGES: Final = 300
SETTINGS: Final = (
    *("--depth", "1", "--no-robots", "--workers", "100", "--retries", "0", "--backoff-max", "1s", "--allow-net", "127.0.0.0/8"),
    *("--factor", "0", "--connect-timeout", "7s", "--first-byte-timeout", "5s", "--read-timeout", "4s", "--dns-timeout", "4s"),
    *("--min-rate", "10kB", "--min-rate-grace", "5s", "--timeout", "9s", "--max-body", "1MiB", "--max-decode-ratio", "20"),
    *("--min-free-disk", "1MiB", "--progress", "none", "--memory-limit", "256MiB", "--max-parse", "512KiB"),
    # what comes after the next request was written cannot be told from its answer: so hosts rest for longer than any sin waits
    *("--delay", "0.4"),
)
OTHERWISE: Final[dict[str, tuple[str, str | None]]] = {
    **dict.fromkeys(("head-without-body", "head-chunked", "head-with-body-to-the-end", "head-gzip"), ("timeout", "read_timeout")),
    **{name: ("too_large", "max_decoded") for name in ALL if name.endswith("-bomb") and name in CODINGS},
    "gzip-long-name": ("too_large", "max_body"),
    **{
        name: ("ok", None)
        for name, sin in ALL.items()
        if sin.outcome == "blocked" and {"allow_net", "deny_net"} & set(sin.config)
    },
    "address-any": ("blocked", "address"),
    "chunk-trailer-drip": ("timeout", "read_timeout"),
    "chunked-bytewise-endless": ("timeout", "total_timeout"),
    "dns-silent-for-long": ("dns_error", "dns_timeout"),
    "dns-unreachable": ("blocked", "address"),
    "head-over-max-in-one-piece": ("ok", None),
    "head-over-max-with-interim": ("truncated", "content_length"),
    "tls-unknown-authority": ("ok", None),
    "tls-wrong-host-insecure": ("tls_error", "certificate"),
    "tls-wildcard-insecure": ("tls_error", "certificate"),
    "tls-wildcard-unknown-authority": ("ok", None),
}
"""Where the settings that all share make a sin end in another way than those of its own: HEAD, a larger body or head, a
range that is open, another name server, a known authority."""
UNNAMED: Final = {("dns_error", reason) for reason in ("dns_timeout", "servfail", "resolver_unreachable")}
"""Any of these: c-ares asks for all names anew where the server sent it nonsense for one, and asks for all that it has to
ask by TCP on one connection, where the end of one question is that of all."""


class Quiet(Site):
    """Its index leads nowhere."""

    def index(self) -> Script:
        return [head(0, status="404 Not Found"), stay]


class Mixture:
    """Every sin at a host of its own, and ``pages`` good pages, turn by turn at the hosts of those that sin by HTTP."""

    def __init__(self, pages: int) -> None:
        self.pages = pages
        scripts = {name: sin.script for name, sin in ALL.items()}
        self.site = Quiet(host="0.0.0.0", scripts=scripts, extras=EXTRAS)
        self._plain = [name for name, sin in ALL.items() if sin.given is None]
        self._mixed = [at for at, name in enumerate(self._plain) if "method" not in ALL[name].config]
        """Asked by GET, those that sin by HEAD leave a connection in order that will not answer again."""

    def host(self, number: int, prefix: str = "127.1") -> str:
        return f"{prefix}.{number // 250}.{1 + number % 250}"

    def sins(self) -> dict[str, tuple[str, str | None]]:
        """Name → its URL, and its proxy if any."""
        found, addresses = {}, iter(range(2, 100))  # those that the certificate is for
        for number, (name, sin) in enumerate(ALL.items()):
            url = (sin.given or f"http://{self.host(self._plain.index(name))}:{{http}}/sin/NAME").replace("NAME", name)
            if "{tls-good}" in url or "proxy" in sin.config:
                url = url.replace("//localhost:", f"//127.0.0.{next(addresses)}:") if "//localhost:" in url else url
            proxy = sin.config.get("proxy")
            url = url.replace("//somewhere.test/", f"//{name}.test/")
            if sin.given is not None:  # many of these are one page
                url = f"{url}?{number}"
            found[name] = (filled_in(url, self.site), filled_in(proxy, self.site))
        return found

    def good(self, number: int) -> tuple[str, int]:
        """URL and bytes of a good page."""
        size = 200_000 if number % 25 == 0 else 500 + 37 * number % 20_000
        host = self.host(self._mixed[number % len(self._mixed)])
        return f"http://{host}:{self.site.ports['http']}/good/{number}?bytes={size}", size

    def warm(self, number: int) -> str:
        return f"http://{self.host(number, '127.9')}:{self.site.ports['http']}/good/{number}?bytes=20000"

    def lines(self) -> list[str]:
        """Sins spread evenly among good pages."""
        good = [self.good(number)[0] for number in range(self.pages)]
        sins = [url for url, _ in self.sins().values()]
        places = {(at * len(good)) // len(sins): [] for at in range(len(sins))}
        for at, url in enumerate(sins):
            places[(at * len(good)) // len(sins)].append(url)
        return [line for at, url in enumerate(good) for line in (*places.get(at, ()), url)]

    def config(self, folder: Path) -> Path:
        """Settings that no flag can give: proxies are those of single hosts."""
        self.site.trust(folder / "ca.pem")
        text = f'ca_file = "{folder / "ca.pem"}"\ndns = ["127.0.0.1:{self.site.ports["dns"]}"]\n'
        for url, proxy in self.sins().values():
            if proxy is not None and not name_fault(parse(url).host):  # no table can be for a name that cannot exist
                text += f'[[host]]\nmatch = "{parse(url).host}"\nproxy = "{proxy}"\n'
        path = folder / "crawler.toml"
        path.write_text(text)
        return path

    def wrong_ends(self, rows: Sequence[dict[str, Any]]) -> dict[str, tuple[str, str | None]]:
        """Sins that ended in another way than they must."""
        ends = {row["url"]: (row["outcome"], row["reason"]) for row in rows if row["kind"] == "seed"}
        wrong = {}
        for name, (url, _) in self.sins().items():
            sin = ALL[name]
            reasons = sin.reason if isinstance(sin.reason, tuple) else (sin.reason,)
            allowed = {OTHERWISE[name]} if name in OTHERWISE else {(sin.outcome, reason) for reason in reasons}
            if name.startswith(("dns-", "tls-wildcard")):
                allowed |= UNNAMED
            if name.startswith("dns-tcp"):  # seen once, beside the others that share its connection; alone it must be found
                allowed.add(("dns_error", "no_address"))
            if name.startswith("proxy-no-name"):  # each name twice: whichever comes first gives its host up
                allowed.add(("dns_error", "host_down"))
            if ends.get(url) not in allowed:
                wrong[name] = ends.get(url)
        return wrong

    def missing(self, out: Path) -> set[str]:
        """Good pages that are not in the archive as the site serves them."""
        wanted = dict(map(self.good, range(self.pages)))
        for file in (out / "warc").iterdir():
            with file.open("rb") as stream:
                for record in ArchiveIterator(stream):
                    url = record.rec_headers["WARC-Target-URI"]
                    if record.rec_type == "response" and url in wanted:
                        body = record.content_stream().read()
                        if record.http_headers.get_statuscode() == "200" and body == page(_number(url), wanted[url]):
                            del wanted[url]
        return set(wanted)


def _number(url: str) -> int:
    return int(urlsplit(url).path.rpartition("/")[2])


class Grown:
    """Samples the memory of a process tree: what it was when first asked, and its peak since."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.first = self.peak = tree_pss(pid)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        while not self._ended.wait(0.1):
            self.peak = max(self.peak, tree_pss(self._pid))

    def __enter__(self) -> Grown:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()


def crawled(mixture: Mixture, folder: Path, program: Sequence[str]) -> Grown:
    """One crawl of all: warmed up by good pages, then measured."""
    port, out = free_port(), folder / "out"
    command = [sys.executable, *program, "run", "-i", "-", "-o", str(out), "-c", str(mixture.config(folder)), *SETTINGS]
    command += ["--metrics-listen", f"127.0.0.1:{port}"]
    with (
        (folder / "said").open("w+") as said,
        subprocess.Popen(command, env=CLEAN, stdin=subprocess.PIPE, stdout=said, stderr=said, text=True) as crawl,
    ):
        try:
            assert crawl.stdin is not None
            crawl.stdin.write("".join(f"{mixture.warm(number)}\n" for number in range(WARM_PAGES)))
            crawl.stdin.flush()
            while scraped(port).get('crawler_frontier_urls{state="done"}', 0) < WARM_PAGES:
                assert crawl.poll() is None, (folder / "said").read_text()
                time.sleep(0.05)
            with Grown(crawl.pid) as grown:
                crawl.stdin.write("\n".join(mixture.lines()))
                crawl.stdin.close()
                code = crawl.wait(600)
        finally:
            crawl.kill()
    words = (folder / "said").read_text()
    assert code == 0, words
    assert "Traceback" not in words
    return grown


def check(mixture: Mixture, folder: Path, program: Sequence[str]) -> None:
    with running(mixture.site):
        began = time.monotonic()
        grown = crawled(mixture, folder, program)
        took = time.monotonic() - began
        assert mixture.missing(folder / "out") == set()
        assert mixture.wrong_ends(rows_of(folder / "out")) == {}
    growth = grown.peak - grown.first
    mib = 1 << 20
    print(f"{len(ALL)} sins, {mixture.pages} good pages, {took:.0f} s: {grown.first / mib:.1f} MiB, {growth / mib:+.1f} MiB")
    assert growth < GROWTH_BYTES_MAX


def test_good_pages_among_all_sins(tmp_path: Path) -> None:
    check(Mixture(200), tmp_path, ["-m", "crawler"])


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("program", [["-m", "crawler"], [str(BY_SESSION)]], ids=["lean", "session"])
def test_two_thousand_good_pages_among_all_sins(tmp_path: Path, program: list[str]) -> None:
    check(Mixture(2000), tmp_path, program)
