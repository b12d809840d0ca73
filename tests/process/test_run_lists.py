"""Lists as people have them: redirects of every kind, duplicates, lines that are no URLs, hosts that are dead or never answer.

Each line has exactly one final row, and ``results --final`` is the list again, line by line, whatever became of it.
"""

import bz2
import contextlib
import gzip
import json
import ssl
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import orjson
import pytest
import trustme
from support.programs import LOCAL, command, crawler, crawling, rows_of
from support.sinful import Site, hang, head, page, running, stay
from support.sinful_net import name_server

if hasattr(ssl, "HAS_NEVER_CHECK_COMMON_NAME"):
    from backports import zstd

NAMES = ("good.sin.test", "good.www.sin.test")


@contextlib.asynccontextmanager
async def tls(site: Site):
    """``https``: the same site under two names, trusted by who trusts ``ca_pem``."""
    ca = trustme.CA()
    site.ca_pem = ca.cert_pem.bytes()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert(*NAMES, "127.0.0.1").configure_cert(context)
    site.ports["https"] = await site.listen(site.serve, ssl=context)
    yield


def to(location: str, status: str = "301 Moved Permanently") -> list:
    return [head(0, f"Location: {location}", status=status), stay]


@pytest.fixture(scope="module")
def site():
    with running(Site(scripts={}, extras=(tls, name_server))) as site:
        plain, secure = f"http://good.sin.test:{site.ports['http']}", f"https://good.sin.test:{site.ports['https']}"
        www = f"https://good.www.sin.test:{site.ports['https']}"
        moves = {
            "up": f"{secure}/sin/up-2",
            "up-2": f"{www}/good/900",
            "to-known": f"{plain}/good/1",
            "to-later": f"{plain}/sin/later",
            "later": "/good/901",
            "chain-0": "chain-1",
            "chain-1": "chain-2",
            "chain-2": "/good/902#part",
            "self": "self",
            "pair-a": "pair-b",
            "pair-b": "pair-a",
            "ring-a": "ring-b",
            "ring-b": "ring-c",
            "ring-c": "ring-a",
            "into-ring": "ring-b",
            "bad-scheme": "mailto:a@example.org",
            "bad-url": "http://[::1/",
            "private": "http://10.0.0.1/",
            "to-dead": "http://127.0.0.9:1/",
            "to-gone": "gone",
            **{f"long-{n}": f"long-{n + 1}" for n in range(13)},
        }
        site.scripts |= {name: to(location) for name, location in moves.items()}
        site.scripts["nowhere"] = [head(0, status="302 Found"), stay]
        site.scripts["gone"] = [head(0, status="410 Gone"), stay]
        site.scripts["hang"] = [hang]
        yield site


@dataclass
class Line:
    """A line of the list and what must stand in its row of ``results --final``."""

    text: str | bytes
    outcome: str
    reason: str | None = None
    at: str | None = None
    """Canonical URL of the row, where it is not the line's own."""


def the_list(site: Site) -> list[Line]:
    plain = f"http://good.sin.test:{site.ports['http']}"
    www = f"https://good.www.sin.test:{site.ports['https']}"
    direct = f"http://127.0.0.1:{site.ports['http']}"

    def sin(name: str, *rest: str | None) -> Line:
        return Line(f"{plain}/sin/{name}", *rest)

    dead = [Line(f"http://127.0.0.{n}:1/{n}", "connect_error", "refused") for n in range(10, 14)]
    return [
        *(Line(f"{direct}/good/{n}", "ok") for n in range(40)),
        Line(f"{plain}/good/1", "ok"),
        Line(f"{plain}/good/1", "ok"),
        Line(f"{plain}/good/1#fragment", "ok"),
        Line(f"  HTTP://GOOD.sin.test:{site.ports['http']}/x/../good/1  ", "ok"),
        sin("up", "ok", None, f"{www}/good/900"),
        sin("to-known", "ok", None, f"{plain}/good/1"),
        sin("to-later", "ok", None, f"{plain}/good/901"),
        sin("later", "ok", None, f"{plain}/good/901"),
        sin("chain-0", "ok", None, f"{plain}/good/902"),
        sin("chain-2", "ok", None, f"{plain}/good/902"),
        sin("self", "redirect_error", "loop"),
        sin("bad-scheme", "redirect_error", "bad_location"),
        sin("bad-url", "redirect_error", "bad_location"),
        sin("nowhere", "redirect_error", "no_location"),
        sin("private", "blocked", "address", "http://10.0.0.1/"),
        sin("to-dead", "connect_error", "refused", "http://127.0.0.9:1/"),
        sin("to-gone", "http_error", None, f"{plain}/sin/gone"),
        sin("gone", "http_error"),
        sin("long-0", "redirect_error", "too_many_redirects", f"{plain}/sin/long-10"),
        sin("hang", "timeout", "first_byte_timeout"),
        *dead,
        Line("http://nxdomain.sin.test/", "dns_error", "nxdomain"),
        Line("http://servfail.sin.test/", "dns_error", "servfail"),
        Line(f"https://good.other.sin.test:{site.ports['https']}/good/1", "tls_error", "certificate"),
        Line("not a url", "invalid_url", "syntax"),
        Line("ftp://example.org/", "invalid_url", "scheme"),
        Line("http://" + "x" * 3000 + "/", "invalid_url", "too_long"),
        Line("http://example.org/" + "y" * 70_000, "invalid_url", "too_long"),
        Line(b"http://example.org/\xff\xfe", "invalid_url", "encoding"),
        Line('{"url": 7}', "invalid_url", "json"),
        Line(json.dumps({"url": f"{direct}/good/50", "tag": "t", "mine": [1]}), "ok", None, f"{direct}/good/50"),
    ]


LOOPS = ("pair-a", "pair-b", "ring-a", "ring-c", "into-ring")
"""Listed loops: which of them is asked first decides where the loop is found."""


def written(site: Site, path: Path, lines: list[Line]) -> dict[int, Line]:
    """The list as a file with a BOM, comments, blank lines and line ends of both kinds; its lines by number."""
    texts = [b"\xef\xbb\xbf# a list", b""]
    numbers = {}
    for line in lines:
        texts.append(line.text if isinstance(line.text, bytes) else line.text.encode())
        numbers[len(texts)] = line
        if len(texts) % 7 == 0:
            texts += [b"   ", b"# between"]
    for name in LOOPS:
        texts.append(f"http://good.sin.test:{site.ports['http']}/sin/{name}".encode())
    path.write_bytes(b"".join(text + (b"\r\n" if at % 2 else b"\n") for at, text in enumerate(texts)))
    return numbers


def flags(site: Site, ca: Path) -> tuple[str, ...]:
    ca.write_bytes(site.ca_pem)
    network = ("--dns", f"127.0.0.1:{site.ports['dns']}", "--ca-file", str(ca))
    return (*LOCAL, *network, "--first-byte-timeout", "400ms", "--backoff-max", "300ms", "--retries", "1", "--min-free-disk", "0")


def final_of(out: Path) -> list[dict]:
    return [orjson.loads(line) for line in command("results", str(out), "--final").stdout.splitlines()]


def check(site: Site, out: Path, numbers: dict[int, Line]) -> None:
    rows = rows_of(out)
    last = max(numbers) + len(LOOPS)
    loops = range(max(numbers) + 1, last + 1)
    listed = sorted([*numbers, *loops])
    assert sorted(row["input"]["line"] for row in rows if row["final"]) == listed, "one final row a line"
    final = {row["input"]["line"]: row for row in final_of(out)}
    assert sorted(final) == listed and len(final_of(out)) == len(listed), "and the list again"
    for number, line in numbers.items():
        row = final[number]
        assert (row["outcome"], row["reason"]) == (line.outcome, line.reason), line
        if line.at is not None:
            assert row["canonical"] == line.at
        if line.outcome != "invalid_url" and row["kind"] == "seed":
            text = line.text.decode() if isinstance(line.text, bytes) else line.text
            assert row["url"] == (json.loads(text)["url"] if text.startswith("{") else text.strip())
    for number in loops:
        assert final[number]["outcome"] in ("redirect_error", "skipped", "redirect"), final[number]
    fetched = Counter(row["canonical"] for row in rows if row["canonical"] and row["outcome"] != "skipped")
    assert set(fetched.values()) == {1}, "no URL has two rows of its own"


def test_every_line_has_one_final_row_whatever_becomes_of_it(site, tmp_path):
    numbers = written(site, tmp_path / "list", the_list(site))
    ended = command("run", "-i", str(tmp_path / "list"), "-o", str(tmp_path / "out"), *flags(site, tmp_path / "ca"))
    assert ended.returncode == 0, ended.stderr
    check(site, tmp_path / "out", numbers)
    rows = {row["canonical"]: row for row in rows_of(tmp_path / "out") if row["outcome"] != "skipped"}
    end = rows[f"https://good.www.sin.test:{site.ports['https']}/good/900"]
    assert end["hops"] == 2 and end["depth"] == 0 and end["kind"] == "redirect" and end["ip"] == "127.0.0.1"
    assert command("verify", str(tmp_path / "out")).returncode == 0


def test_it_is_the_same_after_kills(site, tmp_path):
    numbers = written(site, tmp_path / "list", the_list(site))
    words = ("run", "-i", str(tmp_path / "list"), "-o", str(tmp_path / "out"), *flags(site, tmp_path / "ca"))
    for wanted in ("good/7 ", "sin/up-2 ", "sin/chain-2 ", "good/902 "):
        site.requests.clear()
        with crawling(*words, "--workers", "2") as process:
            while process.poll() is None and not any(f"/{wanted}".encode() in request for request in site.requests):
                time.sleep(0.002)
            process.kill()
    assert command(*words).returncode == 0
    check(site, tmp_path / "out", numbers)


def packed(form: str, data: bytes) -> bytes:
    return {"gz": gzip.compress, "zst": zstd.compress, "txt": bytes}[form](data)


@pytest.mark.parametrize("form", ["txt", "gz", "zst"])
def test_a_longer_list_continues_and_a_changed_one_is_refused(site, tmp_path, form):
    urls = [f"http://127.0.0.1:{site.ports['http']}/good/{n}" for n in range(30)]
    path = tmp_path / f"list.{form}"
    words = ("run", "-i", str(path), "-o", str(tmp_path / "out"), *LOCAL)
    path.write_bytes(packed(form, "\n".join(urls[:20]).encode()))  # no line end behind the last
    assert command(*words).returncode == 0
    path.write_bytes(packed(form, "\n".join(urls).encode() + b"\n"))
    assert command(*words).returncode == 0
    assert sorted((row["input"]["line"], row["url"]) for row in rows_of(tmp_path / "out")) == list(enumerate(urls, 1))
    path.write_bytes(packed(form, "\n".join([urls[0], "http://127.0.0.1/somewhere/else", *urls[2:]]).encode() + b"\n"))
    ended = command(*words)
    assert ended.returncode == 2 and f"list {path}: it was changed" in ended.stderr and "Traceback" not in ended.stderr
    path.write_bytes(packed(form, "\n".join(urls[:5]).encode() + b"\n"))
    ended = command(*words)
    assert ended.returncode == 2 and str(path) in ended.stderr and "shorter" in ended.stderr
    assert command("run", "-o", str(tmp_path / "out"), *LOCAL).returncode == 0, "without it the crawl goes on"


def test_standard_input_is_read_up_to_its_position_again(site, tmp_path):
    urls = [f"http://127.0.0.1:{site.ports['http']}/good/{n}" for n in range(12)]
    words = ("run", "-i", "-", "-o", str(tmp_path), *LOCAL)
    assert crawler(*words, input="\n".join(urls[:5]) + "\n").returncode == 0
    assert crawler(*words, input="\n".join(urls) + "\n").returncode == 0
    assert [row["input"] for row in sorted(rows_of(tmp_path), key=lambda row: row["input"]["line"])] == [
        {"list": "-", "line": line} for line in range(1, 13)
    ]
    ended = crawler(*words, input="\n".join(reversed(urls)) + "\n")
    assert ended.returncode == 2 and "standard input: it was changed" in ended.stderr


def test_several_lists_and_urls_of_the_command_line_are_one_crawl(site, tmp_path):
    base = f"http://127.0.0.1:{site.ports['http']}/good"
    (tmp_path / "a").write_text(f"{base}/1\n{base}/2\n")
    (tmp_path / "b").write_text(f"{base}/2\n{base}/3\n")
    ended = command("run", f"{base}/3", "-i", str(tmp_path / "a"), "-i", str(tmp_path / "b"), "-o", str(tmp_path / "out"), *LOCAL)
    assert ended.returncode == 0
    rows = [(row["input"]["list"], row["input"]["line"], row["outcome"]) for row in final_of(tmp_path / "out")]
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    assert sorted(rows) == sorted([("argv", 1, "ok"), (a, 1, "ok"), (a, 2, "ok"), (b, 1, "ok"), (b, 2, "ok")])
    assert command("cat", str(tmp_path / "out"), f"{base}/2").stdout.encode() == page(2, 2000)


def test_how_long_a_url_of_the_command_line_may_be_is_a_setting(site, tmp_path):
    url = f"http://127.0.0.1:{site.ports['http']}/good/1?" + "n" * 3000
    assert command("run", url, "-o", str(tmp_path / "out"), "--max-url", "4000", *LOCAL).returncode == 0
    (tmp_path / "toml").write_text(f'max_url = 4000\nurls = ["{url}"]\n')
    assert command("config", "check", str(tmp_path / "toml")).returncode == 0
    for shorter in ([], ["--max-url", "100"]):
        ended = command("run", url[: 3000 if not shorter else 101], "-o", str(tmp_path / "no"), *shorter, *LOCAL)
        assert (ended.returncode, "(too_long)" in ended.stderr, (tmp_path / "no").exists()) == (2, True, False)


def test_what_cannot_be_read_sets_no_crawl_aside(site, tmp_path):
    """--fresh takes URLs and lists only once it has looked at them: a name that is none, a format that is not read."""
    out, packed = tmp_path / "out", tmp_path / "list.bz2"
    assert command("run", *site.good(1), "-o", str(out), *LOCAL).returncode == 0
    before = rows_of(out)
    packed.write_bytes(bz2.compress(b"http://example.org/"))
    for said, *given in (("is no whole URL", "example.org"), ("bzcat FILE | crawler ... -i -", "-i", str(packed))):
        ended = command("run", *given, "-o", str(out), *LOCAL, "--fresh", "--keep-previous", "0")
        assert ended.returncode == 2 and said in ended.stderr
        assert rows_of(out) == before and not list(out.glob("previous-*"))
    ended = command("run", "-i", str(packed), "-o", str(tmp_path / "new"), *LOCAL)
    assert ended.returncode == 2 and not (tmp_path / "new").exists()
