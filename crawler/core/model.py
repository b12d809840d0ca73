"""The values that travel: Link → Lease → Outcome → rows and records. Frozen; nothing here touches a socket or a disk.

They are msgspec structs, so that a queue entry is one msgpack array. Fields are only ever added at the end: that is
what keeps an older store readable.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypeAlias, get_args

from msgspec import Struct
from msgspec.structs import replace

if TYPE_CHECKING:
    from crawler.core.link_block import LinkBlock
    from crawler.core.page import Page

LinkKind: TypeAlias = Literal["seed", "link", "redirect", "sitemap", "robots", "expand", "expand_sitemap", "embed"]
"""robots: visited for robots rules. That is no visit of the page at its URL, and is made as often as it is asked for."""

KINDS: Final = ("seed", "link", "redirect", "sitemap", "robots", "recrawl", "embed")
"""Of result rows."""
NOT_PAGES: Final = frozenset(("robots", "sitemap", "expand_sitemap"))
"""Kinds of what is fetched for the crawl's own sake: left out of counts of pages, exports and tables unless asked for."""
EMBED: Final = "embed"
"""Kind of what a page needs to be shown (``--requisites``): read for what it needs itself, never for links."""
PAGES: Final = frozenset(KINDS) - NOT_PAGES - {EMBED}
"""Kinds of result rows that are pages."""
SITEMAPS: Final = frozenset(("sitemap", "expand_sitemap"))
"""Kinds of links that are read as sitemaps."""
EXPANDED: Final = frozenset(("expand", "expand_sitemap"))
"""Kinds of links to known URLs that are visited once more for what they link to: without a row or record of their own."""

OutcomeName: TypeAlias = Literal[
    "ok",
    "redirect",
    "http_error",
    "truncated",
    "too_large",
    "timeout",
    "connect_error",
    "dns_error",
    "tls_error",
    "bad_response",
    "redirect_error",
    "robots_denied",
    "blocked",
    "invalid_url",
    "skipped",
]

NO_FAILURE: Final = frozenset(("ok", "redirect", "skipped", "robots_denied"))
"""Outcomes that do not count for ``--max-failed``."""

RETRIED: Final = ("timeout", "connect_error", "dns_error", "tls_error", "bad_response", "truncated", "blocked")
"""Outcomes that another attempt or other settings may change; they say nothing about the page itself."""


def failed(outcomes: Mapping[str, int]) -> int:
    """How many URLs failed, by their counts by outcome."""
    return sum(count for outcome, count in outcomes.items() if outcome not in NO_FAILURE)


NOT_FETCHED: Final = frozenset({"skipped", "robots_denied", "invalid_url"})
"""Outcomes of links that no request was sent for."""
READABLE: Final = frozenset({"ok", "truncated", "too_large"})
"""Outcomes of pages that are read for links."""
RESPONDED: Final = frozenset({"ok", "redirect", "http_error", "truncated", "too_large", "bad_response", "redirect_error"})
"""Outcomes of links whose host responded."""
THERE: Final = READABLE | {"redirect"}
"""Outcomes of links that lead to something."""
CODING_FAULTS: Final = frozenset({"content_coding", "decode_ratio", "trailing_data", "coding_cut", "max_decoded"})
"""Reasons of a body that came whole and cannot be read."""

Change: TypeAlias = Literal["new", "changed", "unchanged", "gone"]
"""What a visit found against the last one that could tell. new: there is something where nothing was known to be · changed:
something else, by the digest of its body or by where it redirects to · gone: 404 or 410, where there was something."""
CHANGES: Final = get_args(Change)

PRIORITY_ROBOTS: Final = 0
PRIORITY_REDIRECT: Final = 16
PRIORITY_EMBED: Final = 64
"""And above, by as much as it is nested: 65 is needed by a page, 66 by what that page needs, ..."""
PRIORITY_DEFAULT: Final = 128
EMBED_DEPTH: Final = 0xFFFF
"""How far away what a page needs counts as, beside links: one that leads there is always nearer, and makes a page of it."""


Tag: TypeAlias = str | int | float
"""A person's own label for a line: it comes back as it was given."""


def text_bytes(text: str) -> int:
    """Most that a text holds in memory."""
    return len(text) if text.isascii() else 4 * len(text)


class Input(Struct, frozen=True, array_like=True, gc=False):
    """Where a person named a URL: the list as the person named it (``-`` is standard input) and the line, from 1."""

    list: str
    line: int


class LineFault(NamedTuple):
    """A line of a list that is no URL. ``reason`` is one of errors.REASONS."""

    input: Input
    text: str
    reason: str
    tag: Tag | None


class Link(Struct, frozen=True, array_like=True, gc=False):
    """A URL to visit, with how it was found. ``url`` is canonical, ``host`` its politeness key (``urls.host_key``)."""

    url: str
    host: str
    kind: LinkKind = "seed"
    depth: int = 0
    priority: int = PRIORITY_DEFAULT
    hops: int = 0
    """Redirects already followed on the way to this link."""
    given: str | None = None
    """Exactly as given or found, where that differs from ``url``."""
    via: str | None = None
    input: Input | None = None
    tag: Tag | None = None
    anchor: str | None = None
    """The seed (canonical) whose scope this link lives in; None for a seed itself. A seed's redirect moves its anchor."""
    chain: bytes = b""
    """8-byte unsalted fingerprints of the URLs of this redirect chain, oldest first."""
    attempt: int = 1
    listed: str | None = None
    """Of a redirect that descends from a listed line: the URL exactly as the list gave it."""
    extra: str | None = None
    """Further keys of the listed line, a JSON object as text."""

    @property
    def as_listed(self) -> str | None:
        """The URL of the line this link descends from, exactly as the list gave it; None if it descends from none."""
        if self.input is None or self.kind == "redirect":
            return self.listed
        return self.listed or self.given or self.url

    @property
    def text_bytes(self) -> int:
        """Most that its texts hold in memory. Those of a listed line may be long, and in any script."""
        size = len(self.url) + len(self.host) + len(self.via or "") + len(self.anchor or "")
        if self.input is not None:
            size += 4 * len(self.input.list)
        if self.given is None and self.listed is None and self.extra is None and self.tag is None:
            return size  # of nearly all
        texts = (self.given, self.listed, self.extra, self.tag)
        return size + sum([text_bytes(text) for text in texts if isinstance(text, str)])

    @property
    def nesting(self) -> int:
        """How many documents lie between what is embedded and its page, itself included; 0 for anything else."""
        return self.priority - PRIORITY_EMBED if self.kind == EMBED else 0

    def found_nearer(self, depth: int) -> Link:
        """The same link, as its URL was found at this depth meanwhile; of what was embedded, by a link."""
        if self.kind == EMBED:
            return self if depth >= EMBED_DEPTH else replace(self, kind="link", depth=depth)
        return self if depth >= self.depth else replace(self, depth=depth)

    def retried(self) -> Link:
        """The same link, one attempt later."""
        return replace(self, attempt=self.attempt + 1)

    def revived(self) -> Link:
        """The same link, settled long ago and wanted once more: where redirects led then says nothing of today."""
        return replace(self, attempt=self.attempt + 1, chain=b"")

    def recrawled(self) -> Link:
        """The same link, to be visited as if for the first time."""
        return replace(self, attempt=1, chain=b"")


class Ref(Struct, frozen=True, array_like=True, gc=False):
    """A place in a file of the crawl's directory; ``file`` is relative to it and final (never ends in ``.open``)."""

    file: str
    offset: int
    length: int


VALIDATORS_CHARS_MAX: Final = 512
"""Of ETag and Last-Modified together; longer ones are not kept, so the next visit is unconditional."""


class Known(Struct, frozen=True, array_like=True, gc=False):
    """What the store keeps of a settled URL: for ``why``, ``cat``, ``retry``, duplicates and conditional requests."""

    link: Link
    outcome: str
    reason: str | None
    status: int | None
    fetched_at: float
    """Wall time, seconds since the epoch."""
    archive: Ref | None = None
    """Where its body stands."""
    row: Ref | None = None
    """Where its result row stands."""
    location: str | None = None
    """Canonical target of a redirect."""
    etag: str | None = None
    last_modified: str | None = None
    digest: bytes | None = None
    """sha1 of the payload as archived."""
    archived_at: float | None = None
    """When ``archive`` was fetched, where that was an earlier visit: this one found it unchanged, or found nothing."""
    change: Change | None = None
    """What the last visit found against the one before it; None if it could not tell."""
    content: bytes | None = None
    """What the last visit that could tell had found there (see ``crawler.output.changes``), where a later one could not."""
    interval: float | None = None
    """Seconds from this visit to the next by schedule, and below the crawl-clock time of that; None: there is none."""
    due: float | None = None
    line_has_ended: bool = False
    """The line that named it had ended, here or elsewhere, before the last visit, and is counted so: it has redirected, or what
    redirects to it has led elsewhere before."""
    coding: str | None = None
    """Content coding of its body as it stands in ``archive``; "" for none. None: only the record says."""

    @property
    def text_bytes(self) -> int:
        """As that of a link."""
        return self.link.text_bytes + len(self.location or "") + len(self.etag or "") + len(self.last_modified or "")

    @property
    def can_be_confirmed(self) -> bool:
        """Whether there is something that a server can mean by "not modified", asked or not: a whole page. What was cut, an error
        or a redirect becomes none by that."""
        return self.outcome == "ok"


class Mark(Struct, frozen=True, array_like=True, gc=False):
    """A file's length as of the last commit. While not ``closed`` more may follow. ``retired``: it is about to be deleted, or
    has gone; then its mark goes as well (crawler.output.file_names). ``stored``: a copy of all of it stands where the crawl's
    ``store_url`` said (crawler.output.uploads), at ``place``; earlier versions did not say at which."""

    length: int
    closed: bool = False
    retired: bool = False
    stored: bool = False
    place: str = ""

    def is_stored_at(self, place: str) -> bool:
        return self.stored and self.place in ("", place)


class Lease(Struct, frozen=True, gc=False):
    """The right to visit a link once. ``key`` is the store's own handle; pass it back unchanged."""

    link: Link
    key: bytes
    due: float = 0.0
    """No visit of its host before this time (monotonic crawl clock, seconds)."""
    suspect: bool = False
    """It was out when the process died: such links run one at a time."""
    down: tuple[str, str] | None = None
    """(outcome, reason) if its host was given up: settle it unfetched."""
    known: Known | None = None
    """What is known from an earlier visit (retry)."""
    failures: int = 0
    """Of its host, in a row (see ``HostRest``); only meaningful when the host comes onto the bench, as the next two are."""
    busy: int = 0
    has_responded: bool = False
    recrawl: bool = False
    """Its URL was settled, and is visited again to see what has changed."""
    line_has_ended: bool = False
    """As of ``Known``, of a redirect's target that is new."""

    @property
    def text_bytes(self) -> int:
        """As that of its link, and of what is known."""
        return self.link.text_bytes + (self.known.text_bytes if self.known is not None else 0)


HostSign: TypeAlias = Literal["alive", "busy", "mute", "failed", "gone", "silent"]
"""What a visit tells of its host. alive: it responded · busy: it asked us to slow down (429, 503) · mute: it took the request
and gave no response, which is the URL's own · failed: no address, no connection or no TLS · gone: no such name (NXDOMAIN) ·
silent: the visit says nothing, for the host was not asked."""
NO_RESPONSE: Final = frozenset({"mute", "failed", "gone"})
"""Of these, those after which nothing had come."""


class Done(Struct, frozen=True):
    """Settled with a response: row, record, outlinks. ``outcome`` is judged from the page."""

    page: Page
    outcome: str
    reason: str | None = None
    outlinks: tuple[Link, ...] = ()
    refused: dict[str, int] | None = None
    """Links left out, by the rule that refused them."""
    sign: HostSign = "alive"
    retry_after_s: float = 0.0
    """What the Retry-After field of the response asks for."""
    robots: str | None = None
    """What X-Robots-Tag and, where the page was read for links, meta robots say to us: ``nofollow,noindex``."""
    block: LinkBlock | None = None
    """The links of a page, packed; they come behind ``outlinks``."""
    encoding: str | None = None
    """What its text was decoded by (WHATWG name), where it was read."""
    cut: tuple[tuple[str, str], ...] = ()
    """(rule, words) of each cause why it was not read whole, or not as it stands."""


class Dropped(Struct, frozen=True):
    """Settled without a response: a row, no record."""

    outcome: str
    reason: str | None = None
    detail: str = ""
    sign: HostSign = "silent"
    first_byte_s: float = 0.0
    """As of a ``Retry``."""


class Retry(Struct, frozen=True):
    """Not settled: due again after a back-off, as the next attempt. Neither row nor record."""

    outcome: str
    reason: str | None
    sign: HostSign = "failed"
    detail: str = ""
    first_byte_s: float = 0.0
    """From the request sent to the head of the response, if there was one."""
    retry_after_s: float = 0.0


class Unvisited(Struct, frozen=True):
    """The lease given back: not an attempt (drain, our own trouble)."""

    rest_s: float = 0.0
    """Its host rests so long, if its delay is not longer."""
    sign: HostSign = "silent"


Outcome: TypeAlias = Done | Dropped | Retry | Unvisited


def is_miscoded(ended: Done | Known) -> bool:
    """Whether a page is wrong in its content coding alone: what could be decoded of it is read for links, as of those that are
    READABLE. Many such pages are whole, as all browsers show them: bytes follow the end of the coding."""
    if ended.outcome != "bad_response" or ended.reason not in CODING_FAULTS:
        return False
    status = ended.page.status if isinstance(ended, Done) else ended.status
    return status is not None and 200 <= status < 300
