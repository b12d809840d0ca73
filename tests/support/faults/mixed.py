"""A mixed crawl to be broken: pages, links, redirects, errors, duplicates and invalid lines; and what must be true of it
once it was continued to its end, whatever happened on the way."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit

import orjson
from warcio.archiveiterator import ArchiveIterator

from support.programs import LOCAL, command, rows_of
from support.sinful import Script, Site, head, page, stay

HOSTS = 20
"""127.0.0.1 to 127.0.0.20."""


def moved(target: str) -> Script:
    return [head(0, f"Location: {target}", status="301 Moved Permanently"), stay]


def linking(numbers: Iterable[int]) -> Script:
    body = "".join(f'<a href="/good/{number}">{number}</a>' for number in numbers).encode()
    return [head(len(body)) + body, stay]


class MixedCrawl:
    """``pages`` good pages and a tenth as many of each other kind. The site must be ``running``."""

    def __init__(self, pages: int) -> None:
        self.pages = pages
        few = range(pages // 10)
        scripts: dict[str, Script] = {f"gone{n}": [head(4, status="410 Gone") + b"gone", stay] for n in few}
        scripts |= {f"moved{n}": moved(f"/good/{20_000 + n}") for n in few}
        scripts |= {f"chain{n}": moved(f"/sin/moved{n}") for n in few}
        scripts |= {f"links{n}": linking(range(30_000 + 3 * n, 30_009 + 3 * n)) for n in few}
        scripts |= {f"big{n}": [head(300_000) + page(n, 300_000), stay] for n in range(pages // 50)}
        self.site = Site(host="0.0.0.0", scripts=scripts)

    def url(self, number: int, path: str) -> str:
        return f"http://127.0.0.{1 + number % HOSTS}:{self.site.ports['http']}/{path}"

    def lines(self) -> list[str]:
        """The list: each line is a URL, or none."""
        lines = [self.url(n, f"good/{n}") for n in range(self.pages)]
        for kind in ("gone", "moved", "chain", "links", "big"):
            lines += [self.url(n, f"sin/{kind}{n}") for n in range(self.pages // 10) if f"{kind}{n}" in self.site.scripts]
        lines += [self.url(n, f"good/{n}") for n in range(self.pages // 10)]
        lines += ["ftp://example.org/", "http://", "not a URL"]
        random.Random(1).shuffle(lines)
        return lines

    def command(self, folder: Path, out: Path, *options: str) -> list[str]:
        """``crawler ...`` without its first word."""
        path = folder / "list.txt"
        if not path.exists():
            path.write_text("\n".join(self.lines()))
        settings = ["--per-host", "4", "--factor", "0", "--depth", "1", "--parsers", "0", "--roll-size", "300kB"]
        settings += ["--min-free-disk", "1MiB", "--progress", "plain"]
        return ["run", "-i", str(path), "-o", str(out), *LOCAL, *settings, *options]

    def found(self) -> set[str]:
        """Every URL that is not in the list and must be found."""
        few = range(self.pages // 10)
        targets = {self.url(n, f"good/{20_000 + n}") for n in few} | {self.url(n, f"sin/moved{n}") for n in few}
        linked = {self.url(n, f"good/{number}") for n in few for number in range(30_000 + 3 * n, 30_009 + 3 * n)}
        return (targets | linked) - set(self.lines())

    def blamed(self, out: Path) -> list[str]:
        """Rows that say something else than what the site answers: the trouble was ours, and never a page's fate."""
        wanted = {"good": "ok", "links": "ok", "big": "ok", "gone": "http_error", "moved": "redirect", "chain": "redirect"}
        wrong = []
        for row in rows_of(out):
            if row["canonical"] and row["reason"] != "duplicate":
                _, folder, name = urlsplit(row["canonical"]).path.split("/")
                if row["outcome"] != wanted["good" if folder == "good" else name.rstrip("0123456789")]:
                    wrong.append(f"{row['canonical']}: {row['outcome']} {row['reason']}")
        return wrong

    def check(self, out: Path, acknowledged: dict[str, float] | None = None) -> None:
        """The crawl has ended: all is there, once. ``acknowledged``: URL → when the visit was that had been committed."""
        rows = rows_of(out)
        assert self.blamed(out) == []
        lines = self.lines()
        answers = Counter(row["input"]["line"] for row in rows if row["final"] and row["input"])
        wrong = {number: answers[number] for number in range(1, len(lines) + 1) if answers[number] != 1}
        assert not wrong, f"final rows by line, where not 1: {wrong}"
        settled = Counter(row["canonical"] for row in rows if row["reason"] != "duplicate" and row["outcome"] != "invalid_url")
        wanted = {line for line in lines if line.startswith("http://127.")} | self.found()
        assert {url: settled[url] for url in wanted | set(settled) if settled[url] != 1 or url not in wanted} == {}
        assert Counter(responses(out)) == settled
        visits = {row["canonical"]: datetime.fromisoformat(row["fetched_at"]).timestamp() for row in rows if row["attempt"]}
        again = {url: at for url, at in (acknowledged or {}).items() if abs(visits[url] - at) > 0.002}
        assert not again, f"fetched again after it was committed: {again}"
        verified = command("verify", str(out))
        assert verified.returncode == 0, verified.stdout + verified.stderr


def responses(out: Path) -> list[str]:
    """URIs of all response records, their bodies compared with what the site serves."""
    found = []
    for file in sorted((out / "warc").iterdir()):
        with file.open("rb") as stream:
            for record in ArchiveIterator(stream):
                if record.rec_type != "response":
                    continue
                url = record.rec_headers["WARC-Target-URI"]
                found.append(url)
                _, kind, name = urlsplit(url).path.split("/")
                if kind == "good":
                    assert record.content_stream().read() == page(int(name), 2000), url
    return found


def acknowledged_by(notes: Iterable[str]) -> dict[str, float]:
    """From the notes of ``noted.py``."""
    return {url: at for note in notes for url, at in orjson.loads(note)}
