"""Cookies go where they belong, and nowhere else; what hosts set is bounded."""

import asyncio
import os
import threading
import tracemalloc
from http.cookiejar import Cookie, CookieJar, DefaultCookiePolicy, MozillaCookieJar
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crawler.core.errors import ConfigError
from crawler.fetch.cookie_file import FILE_BYTES_MAX
from crawler.fetch.cookies import (
    BYTES_MAX,
    COOKIE_COST_BYTES,
    GONE_MAX,
    HOST_BYTES_MAX,
    Cookies,
    check_file,
    open_cookies,
)
from crawler.fetch.set_cookie import SET_MAX

HOME = "https://www.example.org/a/b"


def set_by(href: str, *values: str) -> Cookies:
    cookies = Cookies(MozillaCookieJar())
    cookies.received(href, values)
    return cookies


def listed(tmp_path: Path, *lines: str) -> Path:
    file = tmp_path / "login.txt"
    file.write_text("# Netscape HTTP Cookie File\n" + "".join("\t".join(line.split()) + "\n" for line in lines))
    return file


@pytest.mark.parametrize(
    ("value", "sent"),
    [
        ("a=1", "a=1"),
        ("a=1; Path=/a", "a=1"),
        ("a=1; Path=/other", None),
        ("a=1; Max-Age=0", None),
        ("a=1; Max-Age=100", "a=1"),
        ("a=1; Expires=Thu, 01 Jan 1970 00:00:00 GMT", None),
        ("a=1; Secure; HttpOnly; SameSite=Lax", "a=1"),
        ("a=1; Domain=example.org", "a=1"),
        ("a=1; Domain=.org", None),
        ("a=1; Domain=elsewhere.example", None),
        ("a=1; Domain=other.example.org", None),
        ("a=" + "x" * 5000, None),
        ("a=\u00e9", None),
        ("a=\udcff", None),
        ("a=b\tc", None),
        ("a=1; Path=/\udcff", None),
        (f"a=1; Max-Age=1{'0' * 400}", "a=1"),
        ("", None),
        ("a", None),
        ("=1", None),
    ],
)
def test_a_cookie_goes_back_to_the_host_that_set_it_alone(value: str, sent: str | None) -> None:
    cookies = set_by(HOME, value)
    assert cookies.header(HOME) == sent
    for other in (
        "https://example.org/a/b",
        "https://sub.www.example.org/a/b",
        "https://other.example.org/a/b",
        "https://evil.example/",
    ):
        assert cookies.header(other) is None


@pytest.mark.parametrize(
    "attributes",
    [
        *("Max-Age", "Max-Age=", "Max-Age=soon", "Max-Age=3600.5", "Max-Age=0; Max-Age=100"),
        *("Domain=", "Domain", "Expires", "Expires=0", "Path=/other; Path=/a", "Path=/other; Path"),
        *("Path", "Path=", "Path=other", 'Path="/"', "Version", "Version=x", "Port=x", 'Port="80"', "; ;"),
    ],
)
def test_an_attribute_that_is_none_costs_no_cookie(attributes: str, recwarn: pytest.WarningsRecorder) -> None:
    """RFC 6265 5.2: ignore the cookie-av; 5.2.4: a path that does not begin with "/" is the default path; the last one counts."""
    assert set_by(HOME, "b=2", f"a=1; {attributes}", "c=3").header(HOME) == "b=2; a=1; c=3"
    assert not recwarn.list, "the jar has not stumbled"


@pytest.mark.parametrize(
    ("date", "is_over"),
    [
        *((date, True) for date in ("Thu, 01-Jan-70 00:00:01 GMT", "Thu, 1 Jan 1970 0:0:0 GMT", "Fri Dec 31 23:59:59 2010")),
        *((date, True) for date in ("Thu Jan 01 1970 00:00:00 GMT+0000 (UTC)", "Thursday, January 1, 1970 00:00:00 GMT")),
        *((date, True) for date in ("Mon, 26 Jul 1997 05:00:00 CET", "Mon, 01 Jan 1601 00:00:00 GMT", "31-dec-99 10:11:12x")),
        *((date, False) for date in ("Wed, 09-Jun-69 10:18:14 GMT", "Fri, 31 Dec 9999 23:59:59 GMT", "Thu, 01 Jan 1600 0:0:0")),
        *((date, False) for date in ("0", "-1", "1970-01-01T00:00:00Z", "30 Feb 1970 00:00:00", "1 Jan 1970 24:00:00")),
    ],
)
def test_a_date_is_read_as_user_agents_read_it(date: str, is_over: bool) -> None:
    """RFC 6265 5.1.1: a year of two digits from 70 on is of the last century; 5.2.1: what is no date says nothing."""
    cookies = set_by(HOME, "a=1; Path=/")
    cookies.received(HOME, [f"a=2; Path=/; Expires={date}"])
    assert cookies.header(HOME) == (None if is_over else "a=2")


def test_cookies_of_one_name_are_sent_by_their_paths() -> None:
    """RFC 6265 5.3, 11: another path is another cookie; 5.4, 2: the longest path goes first."""
    for values in ("s=root; Path=/", "s=app; Path=/a"), ("s=app; Path=/a", "s=root; Path=/"):
        cookies = set_by(HOME, *values)
        assert cookies.header(HOME) == "s=app; s=root"
        assert cookies.header("https://www.example.org/other") == "s=root"


def test_a_cookie_of_the_domain_above_can_be_taken_back() -> None:
    """RFC 6265 5.3, 11 and the end of 4.1.2.2: a date that has passed, with the same name, domain and path."""
    for domain in ("example.org", ".example.org", "www.example.org", "WWW.Example.org"):
        cookies = set_by(HOME, f"a=1; Domain={domain}; Path=/")
        assert cookies.header(HOME) == "a=1"
        cookies.received(HOME, [f"a=; Domain={domain}; Path=/; Max-Age=0"])
        assert cookies.header(HOME) is None


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "[::1]:8000", "localhost", "xn--bcher-kva.example"])
def test_every_kind_of_host_has_its_cookies(host: str) -> None:
    assert set_by(f"http://{host}/", "a=1", "b=2").header(f"http://{host}/x") == "a=1; b=2"


@pytest.mark.parametrize(
    ("value", "sent"),
    [
        ("a=evil", "a=1"),
        ("a=evil; Path=/", "a=1"),
        ("a=evil; Path=/a/b/c", "a=1"),
        ("a=; Max-Age=0; Path=/a", "a=1"),
        ("a=2; Path=/", "a=1; a=2"),
        ("b=2", "b=2; a=1"),
    ],
)
@pytest.mark.parametrize("is_listed", [False, True])
def test_what_is_secure_is_neither_hidden_nor_deleted_without_tls(tmp_path: Path, value: str, sent: str, is_listed: bool) -> None:
    """RFC 6265bis 5.7: only a cookie of a path beside or above that of the Secure one may be set by its name."""
    path = "/a" if sent.endswith("a=2") else "/"
    cookies = set_by(HOME, f"a=1; Secure; Path={path}")
    if is_listed:
        file = MozillaCookieJar()
        file.load(str(listed(tmp_path, f".example.org TRUE {path} TRUE 9999999999 a 1")))
        cookies = Cookies(file)
    cookies.received(HOME.replace("https", "http"), [value])
    if is_listed:  # there one hides another by its name alone
        sent = "a=1; b=2" if "b=2" in sent else "a=1"
    assert cookies.header(HOME + "/c") == sent


def test_what_is_secure_is_sent_by_tls_only() -> None:
    assert set_by(HOME, "a=1; Secure=").header(HOME.replace("https", "http")) is None, "RFC 6265 5.2.5: whatever it says"
    cookies = set_by(HOME, "a=1; Secure", "b=2; Path=/")
    assert cookies.header("http://www.example.org/") == "b=2"
    assert set_by(HOME, "a=1", "a=2").header(HOME) == "a=2", "the last one counts"


@pytest.mark.parametrize(
    ("value", "is_kept"),
    [
        ("__Secure-a=1; Secure", True),
        ("__Secure-a=1", False),
        ("__secure-a=1", False),
        ("__Host-a=1; Secure; Path=/", True),
        ("__Host-a=1; Path=/", False),
        ("__Host-a=1; Secure", False),
        ("__Host-a=1; Secure; Path=/a", False),
        ("__Host-a=1; Secure; Path=/; Domain=www.example.org", False),
        ("__HOST-a=1; Secure; Path=/; Domain=", True),
        ("__Hosta=1", True),
    ],
)
def test_a_cookie_is_what_its_prefix_says(value: str, is_kept: bool) -> None:
    """RFC 6265bis 4.1.3 and 5.7; as browsers do, whatever the case of the letters."""
    assert (set_by(HOME, value).header(HOME) is not None) is is_kept


def test_no_cookie_for_tls_only_comes_without_tls() -> None:
    """RFC 6265bis 5.7, 8: who can write into a connection without TLS sets none that is sent by TLS alone."""
    plain = HOME.replace("https", "http")
    cookies = set_by(plain, "a=1; Secure", "b=2", "__Host-c=3; Secure; Path=/")
    assert cookies.header(HOME) == "b=2"
    cookies.received(plain, ["b=; Secure; Max-Age=0"])
    assert cookies.header(HOME) == "b=2", "nor is one taken back so"


@pytest.mark.parametrize(
    ("values", "sent"),
    [
        (("a=1", "a=; Max-Age=0"), None),
        (("a=; Max-Age=0", "a=1"), "a=1"),
        (("a=1", "a=; Expires=Thu, 01 Jan 1970 00:00:00 GMT", "a=2", "b=3"), "a=2; b=3"),
        (("a=1; Path=/", "a=2", "a=; Path=/; Max-Age=-1"), "a=2"),
    ],
)
def test_fields_of_a_response_count_in_their_order(values: tuple[str, ...], sent: str | None) -> None:
    """RFC 6265 5.2: each is parsed and stored, or takes one back, before the next."""
    assert set_by(HOME, *values).header(HOME) == sent


async def test_a_file_says_where_its_cookies_go_and_a_host_may_renew_its_own(tmp_path: Path) -> None:
    file = listed(
        tmp_path,
        ".example.org TRUE / FALSE 0 session old",
        "www.example.org FALSE /a TRUE 4102444800 only here",
        "#HttpOnly_www.example.org FALSE / FALSE 4102444800 hidden 1",
        "www.example.org FALSE / FALSE 1 expired x",
    )
    async with open_cookies(file, tmp_path) as cookies:
        assert cookies.header("https://example.org/") == cookies.header("http://deep.sub.example.org/") == "session=old"
        assert set((cookies.header(HOME) or "").split("; ")) == {"session=old", "only=here", "hidden=1"}
        assert cookies.header("https://notexample.org/") is None
        cookies.received(HOME, ["session=new; Domain=.example.org; Path=/"])
        assert "session=new" in (cookies.header(HOME) or "") and "session=old" not in (cookies.header(HOME) or "")
        assert cookies.header("https://example.org/") == "session=old", "it was www that has set it"


@pytest.mark.parametrize(
    ("line", "sent_to", "kept_from"),
    [
        ("example.org FALSE / FALSE 0 a 1", "example.org", "www.example.org"),
        (".example.org FALSE / FALSE 0 a 1", "example.org", "www.example.org"),
        ("example.org TRUE / FALSE 0 a 1", "www.example.org", "notexample.org"),
        ("Example.ORG FALSE / FALSE 0 a 1", "example.org", "org"),
        ("b\u00fccher.example TRUE / FALSE 0 a 1", "www.xn--bcher-kva.example", "example"),
        ("wiki FALSE / FALSE 0 a 1", "wiki", "wiki.local"),
        ("localhost FALSE / FALSE 0 a 1", "localhost:8080", "sub.localhost"),
        ("127.0.0.1 FALSE / FALSE 0 a 1", "127.0.0.1:8080", "127.0.0.2"),
        (".0.0.1 TRUE / FALSE 0 a 1", "0.0.0.1", "127.0.0.1"),
        ("[::1] FALSE / FALSE 0 a 1", "[::1]:8080", "[::2]"),
    ],
)
async def test_a_line_says_whether_the_hosts_below_are_meant(tmp_path: Path, line: str, sent_to: str, kept_from: str) -> None:
    """As curl and RFC 6265 5.4 have it: by the second column, TRUE or FALSE, whether there is a dot before the domain or not."""
    async with open_cookies(listed(tmp_path, line), tmp_path) as cookies:
        assert cookies.header(f"http://{sent_to}/x") == "a=1"
        assert cookies.header(f"http://{kept_from}/x") is None


@pytest.mark.parametrize(
    ("lines", "is_over"),
    [([], True), (["a.test FALSE / FALSE 1 a 1"], True), (["a.test FALSE / FALSE 1 a 1", "b.test FALSE / FALSE 0 b 1"], False)],
)
async def test_a_login_that_is_over_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, lines: list[str], is_over: bool
) -> None:
    """Its pages were crawled as nobody sees them who has logged in, without a word."""
    async with open_cookies(listed(tmp_path, *lines), tmp_path):
        assert ("none that has not expired" in caplog.text) == is_over


async def test_of_the_host_alone_and_of_its_domain_are_two_cookies(tmp_path: Path) -> None:
    file = listed(tmp_path, ".example.org TRUE / FALSE 0 a domain", "example.org FALSE / FALSE 0 a host")
    async with open_cookies(file, tmp_path) as cookies:
        assert set((cookies.header("http://example.org/") or "").split("; ")) == {"a=domain", "a=host"}
        assert cookies.header("http://www.example.org/") == "a=domain"


async def test_a_file_that_an_editor_has_been_at_is_read(tmp_path: Path) -> None:
    """A byte order mark, ends of line of another system, and no tab before an empty value: curl reads them."""
    file = tmp_path / "login.txt"
    file.write_bytes(
        b"\xef\xbb\xbf# HTTP Cookie File\r\n\r\n# who\r\nh.example\tFALSE\t/\tFALSE\t\ta\r\nh.example\tFALSE\t/\tFALSE\t0\tb\t2"
    )
    async with open_cookies(file, tmp_path) as cookies:
        assert cookies.header("http://h.example/") == "a=; b=2"


@pytest.mark.parametrize("line", ["h.example FALSE / FALSE 0 a 1", "h.example\tFALSE\t/\tFALSE\tsoon\ta\t1", "a\tb", "x\t" * 7])
async def test_a_line_that_is_no_cookie_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "login.txt").write_text(f"# Netscape HTTP Cookie File\n\n{line}\n")
    with pytest.raises(ConfigError, match=r"login\.txt, line 3: "):
        async with open_cookies(tmp_path / "login.txt", tmp_path):
            pass


async def test_what_hosts_have_set_is_there_again_until_there_is_a_new_login(tmp_path: Path) -> None:
    file = listed(tmp_path)
    for expected in (None, "a=1"):
        async with open_cookies(file, tmp_path) as cookies:
            assert cookies.header(HOME) == expected
            cookies.received(HOME, ["a=1"])
    kept = tmp_path / "cookies.txt"
    assert kept.stat().st_mode & 0o777 == 0o600 and sorted(path.name for path in tmp_path.iterdir()) == [
        "cookies.txt",
        "login.txt",
    ]
    file.touch()

    os.utime(kept, (1, 1))
    async with open_cookies(file, tmp_path) as cookies:
        assert cookies.header(HOME) is None


@pytest.mark.parametrize("written", [1.0, 4e9])
async def test_it_is_no_matter_when_the_login_was_written_only_that_it_is_the_same(tmp_path: Path, written: float) -> None:
    """By a clock that was wrong, or on another machine; several processes keep theirs in one file."""
    file = listed(tmp_path)
    os.utime(file, (written, written))
    async with open_cookies(file, tmp_path) as one, open_cookies(file, tmp_path) as other:
        one.received(HOME, ["a=1"])
        other.received("http://other.example/", ["b=2"])
    async with open_cookies(file, tmp_path) as cookies:
        assert (cookies.header(HOME), cookies.header("http://other.example/")) == ("a=1", "b=2")
    os.utime(file, (2.0, 2.0))
    async with open_cookies(file, tmp_path) as cookies:
        assert cookies.header(HOME) is None, "another file"


async def test_what_an_earlier_version_has_kept_goes_by_its_time(tmp_path: Path) -> None:
    file, kept = listed(tmp_path), tmp_path / "cookies.txt"
    async with open_cookies(file, tmp_path) as cookies:
        cookies.received(HOME, ["a=1"])
    kept.write_bytes(kept.read_bytes().rpartition(b"# of the login")[0])
    for written, expected in ((1.0, "a=1"), (4e9, None)):
        os.utime(file, (written, written))
        async with open_cookies(file, tmp_path) as cookies:
            assert cookies.header(HOME) == expected


@pytest.mark.parametrize("value", ["a=b\tc", "a\tb=c", "a=\udcff", "\udcff=a", "a=1; Path=/\udcff", f"a=1; Max-Age=9{'0' * 400}"])
async def test_whatever_a_host_sets_can_be_kept_and_read_again(
    tmp_path: Path, value: str, recwarn: pytest.WarningsRecorder
) -> None:
    file = listed(tmp_path)
    for _ in range(2):
        async with open_cookies(file, tmp_path) as cookies:
            cookies.received(HOME, ["good=1; Path=/", value])
    async with open_cookies(file, tmp_path) as cookies:
        assert "good=1" in (cookies.header(HOME) or "")
    assert not recwarn.list, "the jar has not stumbled"


def test_a_file_without_the_first_line_of_cookie_files_is_told_which_it_is(tmp_path: Path) -> None:
    (tmp_path / "login.txt").write_text("a.example\tFALSE\t/\tFALSE\t0\tsession\tabc\n")
    with pytest.raises(ConfigError, match="the first line of one is '# Netscape HTTP Cookie File'"):
        check_file(tmp_path / "login.txt")


@pytest.mark.parametrize(
    "content", [None, b"a=1", b"\xff\xfe", b"# Netscape HTTP Cookie File\nnonsense\n", b"#" * ((1 << 20) + 1)]
)
async def test_a_file_that_is_none_is_told(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "bad").write_bytes(content)
    with pytest.raises(ConfigError, match="cookies: "):
        async with open_cookies(tmp_path / "bad", tmp_path):
            pass


def test_no_host_fills_the_memory() -> None:
    cookies = set_by(HOME, *(f"n{i}={'x' * 4000}; Path=/" for i in range(200)))
    assert 0 < len(cookies.header(HOME) or "") <= HOST_BYTES_MAX
    for n in range(BYTES_MAX // (16 << 10) + 1):
        cookies.received(f"http://h{n}.example/", [f"n{i}={'x' * 4000}" for i in range(4)])
    assert cookies.memory_bytes <= BYTES_MAX and len(cookies._sizes) == len(cookies._hosts)
    assert cookies.header(HOME) is None and cookies.header(f"http://h{n}.example/"), "the longest unused go first"


@pytest.mark.parametrize("fields", [["a=b"], [f"n{n}=; Path=/{n % 2}" for n in range(SET_MAX)]])
def test_what_hosts_set_takes_no_more_memory_than_it_counts(fields: list[str]) -> None:
    """A jar alone is larger than most cookies."""
    cookies = set_by(HOME, *fields)
    tracemalloc.start()
    try:
        before = cookies.memory_bytes
        for n in range(400 // len(fields)):
            cookies.received(f"http://h{n}.example/", fields)
        assert tracemalloc.get_traced_memory()[0] <= cookies.memory_bytes - before
    finally:
        tracemalloc.stop()


def test_ever_new_paths_of_a_host_that_sets_cookies_fill_nothing() -> None:
    """They are not kept as the host has too many: a jar would keep each path, and look at it for each cookie."""
    cookies = set_by(HOME, "kept=1", *(f"n=1; Path=/{n}{'x' * 1200}" for n in range(SET_MAX - 1)))
    tracemalloc.start()
    try:
        for number in range(16):
            cookies.received(HOME, [f"n=1; Path=/{number}/{n}{'x' * 1200}" for n in range(SET_MAX)])
            cookies.received(HOME, [f"o=1; Path=/{number}/{n}{'x' * 1200}; Max-Age=0" for n in range(SET_MAX)])
        assert tracemalloc.get_traced_memory()[0] < HOST_BYTES_MAX
        assert cookies.header(HOME) == "kept=1"
    finally:
        tracemalloc.stop()


def test_very_many_small_cookies_are_few() -> None:
    cookies = set_by(HOME, *(f"n{i}=" for i in range(50)))
    for n in range(1, 100):
        cookies.received(HOME, [f"n{50 * n + i}=" for i in range(50)])
    assert 50 <= (cookies.header(HOME) or "").count("n") <= HOST_BYTES_MAX // COOKIE_COST_BYTES


def test_of_long_fields_few_are_read() -> None:
    assert "a=1" in (set_by(HOME, *["x;" * 4000] * 7, "a=1").header(HOME) or "")
    assert "a=1" not in (set_by(HOME, *["x;" * 4000] * 8, "y;" * 767, "a=1").header(HOME) or "")


class Asked(Cookie):
    """Tells which cookies were looked at."""

    names: ClassVar[set[str]] = set()

    @property
    def secure(self) -> bool:
        Asked.names.add(self.name)
        return True

    @secure.setter
    def secure(self, value: bool) -> None: ...


class Domains(DefaultCookiePolicy):
    count = 0

    def domain_return_ok(self, domain, request) -> bool:
        self.count += 1
        return super().domain_return_ok(domain, request)


def test_of_a_long_file_the_cookies_of_a_host_are_found_at_once() -> None:
    """A file of 3,000, as browsers export them, took 40 ms of the loop for a request, and a second for one that sets 50."""
    policy = Domains()
    jar = CookieJar(policy)
    for n in range(1000):
        where = (f".site{n}.example", True, True, "/", True, True, None)
        jar.set_cookie(Asked(0, f"n{n}", "1", None, False, *where, True, None, None, {}))
    cookies = Cookies(jar)
    Asked.names.clear()
    assert cookies.header("https://www.site7.example/") == "n7=1"
    cookies.received("http://www.site8.example/", [f"n{n}=2" for n in range(50)])
    assert cookies.header("http://www.site8.example/").count("=2") == 49, "one is secure in the file"
    assert Asked.names == {"n7", "n8"} and policy.count < 10


async def test_as_many_as_are_kept_are_read_again(tmp_path: Path) -> None:
    file = listed(tmp_path)
    async with open_cookies(file, tmp_path) as cookies:
        for n in range(100):
            cookies.received(f"http://h{n}.example/", [f"n{i}={'x' * 4000}" for i in range(4)])
    assert (tmp_path / "cookies.txt").stat().st_size > 1 << 20
    async with open_cookies(file, tmp_path) as cookies:
        assert all(cookies.header(f"http://h{n}.example/") for n in range(100))


async def test_a_power_cut_leaves_the_file_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[tuple[str, int]] = []

    def fdatasync(fd: int) -> None:
        synced.append((Path(f"/proc/self/fd/{fd}").readlink().name, os.fstat(fd).st_size))

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    async with open_cookies(listed(tmp_path), tmp_path) as cookies:
        cookies.received(HOME, ["a=1"])
    assert synced == [("cookies.txt.tmp", (tmp_path / "cookies.txt").stat().st_size)], "before it has its name"


@pytest.mark.parametrize("domain", ["", "; Domain=example.org", "; Domain=.www.example.org"])
@pytest.mark.parametrize("end", ["Max-Age=0", "Expires=Thu, 01 Jan 1970 00:00:00 GMT"])
async def test_what_a_host_deletes_does_not_come_back(tmp_path: Path, domain: str, end: str) -> None:
    file = listed(tmp_path)
    async with open_cookies(file, tmp_path) as cookies:
        cookies.received(HOME, [f"a=1; Path=/{domain}", f"b=2; Path=/{domain}"])
    for _ in range(2):
        async with open_cookies(file, tmp_path) as cookies:
            cookies.received(HOME, [f"a=; {end}; Path=/{domain}"])
            assert cookies.header(HOME) == "b=2"


async def test_a_new_login_made_while_it_runs_begins_a_new_session_with_the_next_start(tmp_path: Path) -> None:
    file = listed(tmp_path)
    os.utime(file, (1, 1))
    async with open_cookies(file, tmp_path) as cookies:
        cookies.received(HOME, ["session=first"])
    os.utime(tmp_path / "cookies.txt", (2, 2))
    async with open_cookies(file, tmp_path) as cookies:
        assert cookies.header(HOME) == "session=first"
        listed(tmp_path, "www.example.org FALSE / FALSE 0 session second")
        cookies.received(HOME, ["session=first-renewed"])
    async with open_cookies(file, tmp_path) as cookies:
        assert cookies.header(HOME) == "session=second"


async def test_what_could_not_be_saved_is_saved_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crawler.fetch.cookies.SAVED_EVERY_S", 0.01)
    file, in_the_way = listed(tmp_path), tmp_path / "cookies.txt.tmp"
    async with open_cookies(file, tmp_path) as cookies:
        in_the_way.mkdir()
        cookies.received(HOME, ["a=1"])
        await asyncio.sleep(0.1)
        assert not (tmp_path / "cookies.txt").exists()
        in_the_way.rmdir()
    async with open_cookies(file, tmp_path) as cookies:
        assert cookies.header(HOME) == "a=1"


async def test_what_no_thread_was_there_to_save_is_saved_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first try of a process begins one: they may have run out just then."""
    monkeypatch.setattr("crawler.fetch.cookies.SAVED_EVERY_S", 0.01)
    refused, begin = [], threading.Thread.start

    def refuse_once(thread: threading.Thread) -> None:
        if not refused:
            refused.append(thread)
            raise RuntimeError("can't start new thread")
        begin(thread)

    file, kept = listed(tmp_path), tmp_path / "cookies.txt"
    async with open_cookies(file, tmp_path) as cookies:
        monkeypatch.setattr(threading.Thread, "start", refuse_once)
        async with asyncio.timeout(20):
            while not refused:
                await asyncio.sleep(0.01)
            cookies.received(HOME, ["a=1"])
            while not kept.exists():
                await asyncio.sleep(0.01)
    assert "a\t1" in kept.read_text()


def test_hosts_whose_cookies_can_never_be_saved_do_not_fill_the_memory() -> None:
    cookies = Cookies(CookieJar())
    for n in range(5 * GONE_MAX):
        cookies.received(f"http://h{n}.test/", ["a=1"])
        if n % GONE_MAX == GONE_MAX - 1:
            cookies.not_saved(cookies.changed())
    kept = len(cookies._hosts)
    assert kept < 3 * GONE_MAX and len(cookies._changed) == kept + GONE_MAX


def test_hosts_that_lose_their_cookies_before_they_are_saved_do_not_fill_the_memory() -> None:
    cookies = Cookies(CookieJar())
    for n in range(5 * GONE_MAX):
        cookies.received(f"http://h{n}.test/", ["a=1"])
    kept = len(cookies._hosts)
    told = cookies.changed()
    assert kept < 3 * GONE_MAX and set(cookies._hosts) <= set(told) and len(told) == kept + GONE_MAX


async def test_several_processes_keep_theirs_in_one_file(tmp_path: Path) -> None:
    file = listed(tmp_path)
    for again in ("", "renewed"):
        async with open_cookies(file, tmp_path) as one, open_cookies(file, tmp_path) as other:
            one.received("http://one.example/", [f"a=1{again}"])
            other.received("http://other.example/", [f"b=2{again}"])
    async with open_cookies(file, tmp_path) as cookies:
        assert cookies.header("http://one.example/") == "a=1renewed"
        assert cookies.header("http://other.example/") == "b=2renewed"


@settings(max_examples=300, deadline=None)
@given(st.lists(st.text(alphabet='ab=;, "\\Domain.PathExpiresMax-Age09:\t\x7f\u00e9\udcff', max_size=40), max_size=3))
def test_no_field_raises(values: list[str]) -> None:
    cookies = set_by(HOME, *values)
    for href in (HOME, "https://evil.example/"):
        header = cookies.header(href)
        assert header is None or (header.isascii() and header.isprintable())


def test_no_more_of_a_file_is_read_than_it_may_have_whatever_its_size_is_said_to_be(tmp_path):
    """A device has no size and no end."""
    os.mkfifo(tmp_path / "endless")

    def feed():
        with open(tmp_path / "endless", "wb", buffering=0) as endless, pytest.raises(BrokenPipeError):
            for _ in range(2 * FILE_BYTES_MAX >> 16):
                endless.write(bytes(1 << 16))

    feeding = threading.Thread(target=feed)
    feeding.start()
    with pytest.raises(ConfigError, match="larger than 1 MiB"):
        check_file(tmp_path / "endless")
    feeding.join()
