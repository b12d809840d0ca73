"""Every setting, once: name, type, default, bound, help. The command line, the TOML file, the environment, the schema and
``deploy/crawler.toml`` are all made from these fields.

One flat frozen ``Config`` is what the operator writes; it is composed of sections, and each part of the crawler is typed
to its own section only. The first line of a section's docstring is its title. How a Config comes to be is in ``load``.
"""

from typing import TYPE_CHECKING, Annotated, Final, Literal

from crawler.config.fields import Field, Section
from crawler.config.types import (
    AUTO,
    ApiUrl,
    AsAuto,
    AsSize,
    Bytes,
    ClusterUrl,
    Contact,
    Count,
    Deadline,
    HeaderLine,
    HeaderText,
    HostHeaders,
    HostMatch,
    Listen,
    MimeRange,
    NameServer,
    Network,
    Positive,
    ProductToken,
    Proxy,
    Rate,
    Regex,
    Seconds,
    StoreUrl,
    Text,
    TokenText,
    bounds,
    matching,
)

if TYPE_CHECKING:
    from crawler.core.urls import UrlRules


class HostConfig(Section):
    """A [[host]] table: settings for the hosts that match. The first table that matches a host wins."""

    match: HostMatch = Field(examples=["*.example.org"], description="a host, the hosts below a domain, or * for all")
    delay: Seconds | None = Field(None, examples=[5], description="rest after each visit")
    per_host: Positive | None = Field(None, examples=[2], description="visits at a time")
    headers: HostHeaders = Field(
        {},
        examples=[{"Authorization": "Bearer ..."}],
        description="request headers for these hosts only, secrets included",
        secret=True,
    )
    proxy: Proxy | None = Field(
        None, examples=["http://proxy.example:3128"], description="HTTP proxy for these hosts", secret=True
    )
    robots: bool | None = Field(None, examples=[False], description="obey robots.txt")
    block: bool | None = Field(None, examples=[True], description="visit nothing of these hosts")


class InputConfig(Section):
    """What to crawl"""

    urls: tuple[Text, ...] = Field((), description="URLs to begin with", secret=True)
    input: tuple[Text, ...] = Field((), description="URL lists: files (plain, .gz, .zst, JSON lines) or - for standard input")


class ScopeConfig(Section):
    """Which links to follow"""

    depth: Annotated[int, bounds(ge=-1)] = Field(0, description="how many links away from a seed to go; -1 means without limit")
    scope: Literal["host", "domain", "prefix", "any"] = Field(
        "host",
        description="which links belong: of the seed's host, of all hosts of its domain, below the seed's folder, or any",
    )
    include: tuple[Regex, ...] = Field((), description="only links matching one of these regular expressions", reloadable=True)
    exclude: tuple[Regex, ...] = Field((), description="no links matching one of these regular expressions", reloadable=True)
    redirects: Literal["any", "scope"] = Field("any", description="redirects of seeds: anywhere, or only within scope")
    max_redirects: Count = Field(10, description="redirects followed from one URL")
    max_url: Annotated[int, bounds(ge=16)] = Field(2083, description="longest URL, in bytes")
    max_outlinks: Count = Field(100_000, description="links taken from one page")
    max_path_depth: Count = Field(32, description="path segments in a followed link; 0 = no limit")
    max_repeated_segments: Count = Field(3, description="times one path segment may appear in a followed link; 0 = no limit")
    max_queries_per_path: Count = Field(
        10_000, description="different query strings followed for one path of a host; 0 = no limit"
    )
    max_pages_per_host: Count = Field(0, description="links admitted for one host; 0 = no limit")
    drop_params: tuple[Text, ...] = Field((), description="query parameters dropped from links, such as utm_source or utm_*")
    sort_query: bool = Field(False, description="sort the query parameters of links")
    requisites: bool = Field(
        False, description="also fetch what pages need to be shown: images, styles, scripts, fonts, frames, from any host"
    )
    sitemaps: bool = Field(
        False,
        description="visit what sitemaps name: those that robots.txt names, /sitemap.xml, and sitemaps and feeds among the start "
        "URLs",
    )

    def url_rules(self) -> "UrlRules":
        """What canonical means for the URLs of this crawl."""
        from crawler.core.urls import UrlRules  # not needed to show help

        return UrlRules(self.max_url, self.drop_params, self.sort_query)


class PolitenessConfig(Section):
    """Politeness"""

    per_host: Positive = Field(1, description="visits at one host at a time", reloadable=True)
    delay: Seconds = Field(1.0, description="rest of a host after each visit", reloadable=True)
    factor: Annotated[float, bounds(ge=0)] = Field(
        1.0, description="rest at least this times the time to first byte", reloadable=True
    )
    crawl_delay_cap: Seconds = Field(30.0, description="longest Crawl-delay honoured", reloadable=True)
    politeness_by: Literal["host", "domain"] = Field("host", description="domain: one delay for all hosts of a domain as well")
    robots: bool = Field(True, description="obey robots.txt (RFC 9309)")
    retries: Count = Field(2, description="further attempts after a failure that may pass", reloadable=True)
    backoff_max: Seconds | None = Field(
        None, examples=["5min"], description="longest back-off of a host (default 5 min in run, 1 h in serve)", reloadable=True
    )
    host_failures: Positive = Field(8, description="failures in a row after which a host is given up", reloadable=True)
    host: tuple[HostConfig, ...] = Field((), description="[[host]] tables: other settings for some hosts", reloadable=True)


class FetchConfig(Section):
    """How to fetch"""

    method: Literal["GET", "HEAD"] = Field("GET", description="HEAD checks links without fetching bodies")
    workers: Annotated[int, bounds(ge=1, le=100_000)] = Field(100, description="fetches at a time, at most")
    processes: Annotated[int, bounds(ge=0, le=64), AsAuto] = Field(
        AUTO, description="processes that share the crawl; auto: as it was begun, and a new crawl as many as help (run says why)"
    )
    rate: Rate = Field(0.0, description="requests per second over the whole crawl; 0 = no limit", reloadable=True)
    bandwidth: Bytes = Field(0, description="bytes per second over the whole crawl; 0 = no limit", reloadable=True)
    timeout: Deadline = Field(600.0, description="whole attempt, from name lookup to last byte", reloadable=True)
    connect_timeout: Deadline = Field(10.0, description="name lookup, connect and TLS handshake", reloadable=True)
    first_byte_timeout: Deadline = Field(30.0, description="request sent until the response begins", reloadable=True)
    read_timeout: Deadline = Field(20.0, description="silence within a body", reloadable=True)
    min_rate: Bytes = Field(
        1024, description="slowest body, bytes per second, after min_rate_grace; 0 = no limit", reloadable=True
    )
    min_rate_grace: Seconds = Field(30.0, description="how long a body may be slower than min_rate", reloadable=True)
    max_body: Annotated[int, bounds(ge=1), AsSize] = Field(
        64 << 20, description="longest body kept, as sent and as decoded", reloadable=True
    )
    max_decode_ratio: Annotated[float, bounds(ge=1)] = Field(1000.0, description="decoded to sent bytes of a body over 1 MiB")
    max_codings: Annotated[int, bounds(ge=0, le=8)] = Field(3, description="stacked content codings undone")
    max_robots: Annotated[int, bounds(ge=1024, le=500 << 10), AsSize] = Field(
        500 << 10, description="bytes of a robots.txt that are read"
    )
    max_sitemap: Annotated[int, bounds(ge=1024, le=50 << 20), AsSize] = Field(
        50 << 20, description="bytes of a sitemap that are read, as sent and as decoded"
    )
    max_header_line: Annotated[int, bounds(ge=256), AsSize] = Field(32 << 10, description="longest header line of a response")
    max_headers: Positive = Field(256, description="header lines of a response")
    max_head: Annotated[int, bounds(ge=1024), AsSize] = Field(
        256 << 10, description="header bytes of a response, with those of its interim (1xx) responses"
    )
    max_interim: Count = Field(8, description="interim (1xx) responses before the response")
    accept_mime: tuple[MimeRange, ...] = Field(
        (),
        description="keep only bodies of these types, such as text/html or image/*; of others no link is read",
        reloadable=True,
    )
    user_agent: HeaderText | None = Field(
        None,
        examples=["example-bot/1.0 (+https://example.org/bot)"],
        description="whole User-Agent (default: made from name, version and contact)",
    )
    name: ProductToken = Field("flatcrawler", description="product token: what robots.txt rules are matched against")
    contact: Contact | None = Field(
        None, examples=["https://example.org/bot"], description="a URL or mail address in the User-Agent, for webmasters"
    )
    header: tuple[HeaderLine, ...] = Field((), description="further request headers for all hosts, as 'Name: value'", secret=True)
    cookies: Text | None = Field(
        None,
        examples=["/etc/crawler/cookies.txt"],
        description="file of cookies to send (Netscape format); what hosts set is kept as well, and sent back to them alone",
    )
    proxy: Proxy | None = Field(
        None, examples=["http://proxy.example:3128"], description="HTTP proxy for all requests", secret=True
    )
    proxy_file: Text | None = Field(
        None, examples=["/etc/crawler/proxy"], description="file holding the proxy's URL, where it contains a password"
    )
    ca_file: Text | None = Field(
        None, examples=["/etc/ssl/private-ca.pem"], description="certificates trusted in addition to the system's"
    )
    insecure: bool = Field(False, description="do not verify TLS certificates")
    allow_net: tuple[Network, ...] = Field((), description="address ranges (CIDR) that may be connected to although private")
    deny_net: tuple[Network, ...] = Field((), description="address ranges (CIDR) never connected to")
    dns: tuple[NameServer, ...] = Field((), description="name servers, ADDRESS or ADDRESS:PORT (default: the system's)")
    dns_timeout: Deadline = Field(5.0, description="whole name lookup")
    max_addresses: Positive = Field(4, description="addresses of a name that are tried")


class ArchiveConfig(Section):
    """What to keep"""

    archive: Literal["warc", "files", "discard"] = Field(
        "warc", description="how pages are kept: as records of WARC files, as files of their decoded bodies, or not at all"
    )
    roll_size: Annotated[int, bounds(ge=1), AsSize] = Field(
        1 << 30, description="archive and result files are rolled at this size"
    )
    roll_time: Seconds | None = Field(
        None, examples=["1h"], description="and after this long; 0 = never (default: never, with a store_url 10 min)"
    )
    retain_age: Seconds = Field(
        0.0, description="delete full files of the archive and the results after this long; 0 = never", reloadable=True
    )
    retain_bytes: Bytes = Field(0, description="delete the oldest of them above this size in all; 0 = no limit", reloadable=True)
    operator: Text | None = Field(
        None,
        examples=["Example Archive <archive@example.org>"],
        description="who runs this crawl: in the first record of archives",
    )
    description: Text | None = Field(
        None, examples=["The autumn crawl"], description="what this crawl is for: in the first record of archives"
    )
    warc_prefix: Annotated[str, matching(r"^[A-Za-z0-9_]{1,32}$")] = Field(
        "CRAWL", description="first part of the names of WARC files"
    )


class StorageConfig(Section):
    """Where to keep it"""

    output: Text | None = Field(None, examples=["/var/lib/crawler"], description="the crawl's directory")
    store: Literal["embedded", "memory"] = Field("embedded", description="where known URLs are kept; memory forgets on exit")
    cluster: ClusterUrl | None = Field(
        None,
        examples=["postgresql://crawler@db.example/crawls?schema=my_crawl&sslmode=verify-full"],
        description="database through which machines share this crawl, each with a directory of its own",
        secret=True,
    )
    cluster_lease: Annotated[Deadline, bounds(ge=2, le=30 * 86400)] = Field(
        15.0, description="after how long without a sign of a machine the others of the cluster take its hosts"
    )
    fresh: bool = Field(False, description="move what an earlier crawl left aside and begin anew")
    keep_previous: Count | None = Field(
        None, examples=[7], description="earlier crawls kept beside by fresh; older ones are deleted (default: all are kept)"
    )
    min_free_disk: Bytes = Field(
        1 << 30,
        description="pause below this much free disk, or a twentieth of a smaller disk mounted on a folder of the crawl",
        reloadable=True,
    )
    disk_wait: Seconds = Field(600.0, description="how long run waits for a full disk before it gives up")
    store_url: StoreUrl | None = Field(
        None,
        examples=["s3://bucket/prefix"],
        description="where copies of full files are stored, s3://BUCKET/PREFIX or file:///DIR (also: --store URL)",
        secret=True,
    )
    store_wait: Seconds = Field(600.0, description="how long run waits at its end until all is stored")


class RecrawlConfig(Section):
    """When to come back"""

    recrawl_every: Seconds = Field(
        0.0, examples=["7d"], description="visit each settled URL again after about this long; 0 = never"
    )
    recrawl_min: Seconds = Field(3600.0, description="shortest interval: after each change found it is halved")
    recrawl_max: Seconds = Field(30 * 86400.0, description="longest interval: where nothing has changed it grows by half")


class LimitsConfig(Section):
    """When to stop"""

    memory_limit: Bytes | None = Field(
        None, examples=["512MiB"], description="for the whole process tree (default 512 MiB, or 80 % of the cgroup's)"
    )
    max_pages: Count = Field(0, description="stop after this many pages, at each start; 0 = no limit")
    max_bytes: Bytes = Field(0, description="stop after this many body bytes, at each start; 0 = no limit", reloadable=True)
    max_time: Seconds = Field(0.0, description="stop after this long; 0 = no limit")
    max_failed: Annotated[float, bounds(ge=0, le=100)] = Field(
        100.0, description="exit 8 if more than this percentage failed", reloadable=True
    )
    grace: Seconds = Field(30.0, description="how long a drain may take", reloadable=True)


class ParseConfig(Section):
    """How links are found"""

    parsers: Count | None = Field(
        None, examples=[1], description="parser processes; 0 parses in the loop (default: from cores and memory)"
    )
    parse_timeout: Deadline = Field(2.0, description="whole reading of one document")
    max_parse: Bytes = Field(4 << 20, description="bytes of a document that are parsed")


class ControlConfig(Section):
    """How to watch and steer it"""

    metrics_listen: Listen | None = Field(
        None, examples=["127.0.0.1:9701"], description="HOST:PORT for /metrics, /livez and /readyz"
    )
    listen: Listen = Field("127.0.0.1:9700", description="HOST:PORT of the control API of serve")
    api_token: TokenText | None = Field(
        None, examples=["..."], description="bearer token of the control API; needed unless it listens on loopback", secret=True
    )
    api_token_file: Text | None = Field(None, examples=["/etc/crawler/token"], description="file holding the bearer token")
    server_names: tuple[Text, ...] = Field(
        (), description="host names by which a reverse proxy asks for the control API, such as crawler.example.org"
    )
    api: ApiUrl | None = Field(
        None,
        examples=["https://example.org/crawler"],
        description="where status, add and the like reach the control API, if not at listen: behind a reverse proxy",
    )
    progress: Literal["auto", "bar", "plain", "none"] = Field("auto", description="auto: a live line on a terminal, else lines")
    log_format: Literal["auto", "text", "json"] = Field("auto", description="auto: text in run and on a terminal, else JSON")
    log_file: Text | None = Field(
        None,
        examples=["/var/log/crawler/crawler.log"],
        description="where to log; reopened after a rename (default: stderr)",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="minimum severity of what is logged", reloadable=True
    )


SECTIONS: Final = (
    InputConfig,
    StorageConfig,
    ArchiveConfig,
    ScopeConfig,
    PolitenessConfig,
    FetchConfig,
    RecrawlConfig,
    LimitsConfig,
    ParseConfig,
    ControlConfig,
)
"""In the order in which they are shown."""

SECRET_FILES: Final = {"api_token": "api_token_file", "proxy": "proxy_file"}
"""Secrets, and the setting that names a file to read each from."""


class Config(
    InputConfig,
    ScopeConfig,
    PolitenessConfig,
    FetchConfig,
    ArchiveConfig,
    StorageConfig,
    RecrawlConfig,
    LimitsConfig,
    ParseConfig,
    ControlConfig,
):
    """All sections as one flat, frozen value: the keys of the TOML file."""


RELOADABLE: Final = frozenset(key for key, field in Config.fields.items() if field.reloadable)
"""What may change while a crawl runs. All others are read once, at the start."""
