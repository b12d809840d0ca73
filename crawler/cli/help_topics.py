"""``crawler help TOPIC``: what a manual page would say of what a crawl writes and how it ends. Pure text."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Callable, Mapping
from typing import Final

from crawler.core.errors import REASONS, Exit

WIDTH_MAX: Final = 100

FIELDS: Final[Mapping[str, str]] = {
    "schema": "1; fields are only ever added",
    "url": "as given or found, absolute",
    "canonical": "as it was fetched",
    "outcome": "how the visit ended: see crawler help outcomes",
    "status": "the HTTP status, if there was a response",
    "reason": "why, from a closed set of each outcome",
    "kind": "how it came: seed, link, redirect, embed, recrawl, sitemap or robots",
    "input": "{list, line} of the line it descends from",
    "final": "true for exactly one row of every listed line, and of every page found besides; after retry and recrawl for one "
    "of each visit",
    "via": "the page it was found on",
    "depth": "links from the seed",
    "hops": "redirects on the way",
    "location": "where a redirect leads",
    "mime": "media type as declared",
    "charset": "likewise",
    "bytes_wire": "of the body as sent",
    "bytes_decoded": "of the body with its content codings undone",
    "sha256": "of the body as archived",
    "truncated": "length, time or disconnect, if the body is cut",
    "fetched_at": "wall time, UTC",
    "attempt": "from 1; the latest row of a URL wins in --final",
    "timings": "{queue, first_byte, total} in seconds",
    "ip": "the address connected to",
    "archive": "{file, offset, length} of the record, and revisit_of, the earlier one that holds its body; or {path} of the body",
    "tag": "your own label, from the list",
    "robots": "what X-Robots-Tag and meta robots say to us",
    "listed": "the URL exactly as the list gave it",
    "extra": "the other keys of its JSON line, up to 1 KiB",
    "encoding": "what a page or sitemap was read by",
    "cut": "the rules by which not all of it was read",
    "fault": "the same in words, and where",
    "change": "against the last visit that could tell: new (nothing was known to be there), changed, unchanged or gone",
}
OUTCOMES: Final[Mapping[str, str]] = {
    "ok": "fetched, and kept",
    "redirect": "its target is a link of its own",
    "http_error": "any other status of 400 and above",
    "truncated": "the body ended too early",
    "too_large": "the body is longer than max_body; its beginning is kept",
    "timeout": "no connection, response, or progress in time",
    "connect_error": "no connection, or it broke",
    "dns_error": "no address",
    "tls_error": "no TLS",
    "bad_response": "what came is no response that can be read",
    "redirect_error": "a redirect that leads nowhere",
    "robots_denied": "robots.txt forbids it, or is refused to us just now (429, 5xx, or where it redirects to)",
    "blocked": "every address is in a network that may not be connected to (--allow-net)",
    "invalid_url": "a listed line that is no URL",
    "skipped": "not wanted: known already, excluded, of another type, or it ended the process three times",
}
EXITS: Final[Mapping[Exit, str]] = {
    Exit.OK: "every line is settled, and at most --max-failed percent of what was fetched failed; a daemon was drained",
    Exit.INTERNAL: "a fault of the program, with a traceback; of a client command: the daemon does not respond, or cannot "
    "just now; healthcheck: it is not well",
    Exit.USAGE: "the command line or the configuration; of a client command: what the daemon refused",
    Exit.STORAGE: "the disk or the memory, or full files that could not be stored; verify: there are faults",
    Exit.NOTHING_FETCHED: "nothing could be fetched; why, cat: there is nothing of the URL",
    Exit.STOPPED: "stopped early by a signal or a --max-* limit: the same command continues, and counts anew",
    Exit.FAILURES: "every line is settled, and more failed than --max-failed allows",
    Exit.LOCKED: "another process uses the directory",
    Exit.INTERRUPTED: "Ctrl-C in a command that does not crawl",
}


def _table(rows: Mapping[str, str]) -> str:
    width = max(map(len, rows)) + 2
    columns = max(40, min(WIDTH_MAX, shutil.get_terminal_size().columns)) - width - 2
    lines = []
    for name, said in rows.items():
        first, *rest = textwrap.wrap(said, columns) or [""]
        lines += [f"  {name:<{width}}{first}", *(" " * (width + 2) + line for line in rest)]
    return "\n".join(lines)


def _rows() -> str:
    return f"""\
A result row is one settled URL: one JSON object a line, in DIR/results/. Every field is always there,
null where it does not apply.

{_table(FIELDS)}

crawler results DIR            all rows              crawler results DIR --final      one for each line of your lists,
crawler results DIR --outcome timeout,dns_error                                       and each page found besides
crawler results DIR --format csv                     as a table
Over HTTP: GET /v1/results?cursor=&outcome=&reason=&kind=&status=&tag=&host=&list="""


def _outcomes() -> str:
    told = {name: said + (f" ({', '.join(REASONS[name])})" if REASONS.get(name) else "") for name, said in OUTCOMES.items()}
    return f"""\
Every settled URL has one outcome of a closed set, and most a reason of the outcome's own set. A host that is
given up settles its URLs with the outcome that it earned, and reason host_down.

{_table(told)}

Time-outs, failed connections and lookups, cut bodies, 408, 425, 429 and every 5xx but 501 and 505 are tried again
(retries) before that is the outcome. ok, redirect, skipped and robots_denied are no failures."""


def _exit_codes() -> str:
    return _table({str(int(code)): said for code, said in EXITS.items()})


def _memory() -> str:
    return """\
--memory-limit is one budget in bytes for the whole process tree: 512 MiB, or 80 % of the smallest limit of
the control groups above the process if that is less. It is divided into accounts at the start; a limit that
is too small is refused with the smallest that would do.

  crawler config show --memory --memory-limit 256MiB

base, store, parsers, bench, robots, dns, idle, write, upload and control are fixed. connection, body and
outcome are reserved by every visit at their worst case, so --workers is a ceiling: what finds no room waits,
and no deadline passes.

  high      above 85 %    fewer visits at a time
  critical  above 95 %    none is begun; caches are emptied
  over      above 100 %   a tenth of the visits in flight is given up, which is no attempt
  single    above 95 % for 30 s with nothing in flight: one visit at a time; after 11 minutes exit 3

Which account is short: the page at / of the control API, crawler status, or the metric
crawler_memory_used_bytes{account}."""


TOPICS: Final[Mapping[str, tuple[Callable[[], str], str]]] = {
    "rows": (_rows, "the fields of a result row"),
    "outcomes": (_outcomes, "how a visit can end, and why"),
    "exit-codes": (_exit_codes, "what a command's exit code says"),
    "memory": (_memory, "the budget, and what happens as it fills"),
}


def topics() -> str:
    """The list of them."""
    return "crawler help TOPIC:\n" + _table({name: said for name, (_, said) in TOPICS.items()})
