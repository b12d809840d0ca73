"""``why`` says of a URL that was never admitted what is so, and how to learn more."""

import gzip
from pathlib import Path

import orjson
import pytest
from support.programs import LOCAL, command, crawler
from support.webs import Answer, Web, page

HOST, FAR, BLOCKED = "127.0.0.1", "127.0.0.2", "127.0.0.3"
MODIFIED = ("Last-Modified", "Mon, 02 Nov 2026 00:00:00 GMT")
HEADED = '<a href="/nofollow" rel=nofollow>a</a><a href="{far}">b</a><a href="{blocked}">c</a>'


@pytest.fixture(scope="module")
def crawled(tmp_path_factory) -> tuple[Path, dict[str, str]]:
    """A page that links to what is not followed, visited twice and not modified the second time."""
    out, config = tmp_path_factory.mktemp("why") / "out", tmp_path_factory.mktemp("config") / "c.toml"
    config.write_text(f'[[host]]\nmatch = "{BLOCKED}"\nblock = true\n')
    with Web().running() as web:
        urls = {"seed": web.url(HOST), "nofollow": web.url(HOST, "/nofollow"), "far": web.url(FAR), "blocked": web.url(BLOCKED)}
        body = HEADED.format(**urls).encode()
        visits = iter([Answer(body=body, headers=(MODIFIED,)), Answer(304, mime=None, headers=(MODIFIED,))])
        web.hosts = {HOST: {"/": lambda: next(visits)}, FAR: {"/": page()}, BLOCKED: {"/": page()}}
        settings = ("--depth", "1", "--scope", "domain", "--config", str(config), *LOCAL, "--robots")
        run = ("run", urls["seed"], "-o", str(out), *settings)
        assert command(*run).returncode == 0
        assert command("recrawl", str(out)).returncode == 0
        assert command(*run).returncode == 0
    return out, urls


def why(crawled: tuple[Path, dict[str, str]], name: str, *arguments: str) -> str:
    return command("why", crawled[1][name], "--data", str(crawled[0]), *arguments).stdout


@pytest.mark.parametrize("name", ["nofollow", "far"])
def test_a_link_that_was_found_but_not_followed_is_not_said_to_be_missing(crawled, name):
    """Where it stands is not known: that no link to it was found would be a guess."""
    told = why(crawled, name)
    assert "no link that is followed leads to it" in told and "no link to it was found" not in told
    assert "--via" in told


def test_a_page_that_is_not_modified_was_read_the_first_time(crawled):
    assert "left out by the rule domain" in why(crawled, "far", "--via", crawled[1]["seed"])
    told = why(crawled, "nofollow", "--via", crawled[1]["seed"])
    assert "or one that says nofollow" in told and "not read for links" not in told


def test_a_host_that_is_blocked_is_named_as_such(crawled):
    assert "left out by the rule block" in why(crawled, "blocked")


def test_a_blocked_host_is_blocked_with_a_dot_behind_its_name_as_well(tmp_path):
    config, urls = tmp_path / "c.toml", ["http://blocked.invalid./", "http://www.blocked.invalid.:8080/"]
    config.write_text('[[host]]\nmatch = "blocked.invalid"\nblock = true\n[[host]]\nmatch = "*.blocked.invalid"\nblock = true\n')
    command("run", *urls, "-o", str(tmp_path / "out"), "--config", str(config), *LOCAL)
    rows = [orjson.loads(line) for line in command("results", str(tmp_path / "out"), "--final").stdout.splitlines()]
    assert sorted((row["url"], row["outcome"], row["reason"]) for row in rows) == [(url, "skipped", "excluded") for url in urls]


def test_a_host_that_is_an_ipv6_address_can_be_blocked(tmp_path):
    config, urls = tmp_path / "c.toml", ["http://[2001:db8::1]:8080/", "http://[2001:db8::2]/"]
    config.write_text("".join(f'[[host]]\nmatch = "[2001:DB8:0:0::{n}]"\nblock = true\n' for n in (1, 2)))
    command("run", *urls, "-o", str(tmp_path / "out"), "--config", str(config), *LOCAL)
    rows = [orjson.loads(line) for line in command("results", str(tmp_path / "out"), "--final").stdout.splitlines()]
    assert sorted((row["url"], row["outcome"], row["reason"]) for row in rows) == [(url, "skipped", "excluded") for url in urls]


def test_what_a_page_needs_is_left_out_by_other_rules_than_its_links(tmp_path):
    """Place and depth leave out none of it, so they do not tell why it is not there."""
    path = "/picture?"
    with Web().running() as web:
        pictures = [web.url(HOST, f"{path}{n}") for n in range(3)]
        web.hosts = {HOST: {"/": Answer(body="".join(f'<img src="{one}">' for one in pictures).encode())}}
        rules = ("--requisites", "--max-queries-per-path", "2")
        assert command("run", web.url(HOST), *rules, "-o", str(tmp_path / "out"), *LOCAL).returncode == 0
        told = command("why", pictures[2], "--via", web.url(HOST), "--data", str(tmp_path / "out")).stdout
    assert "left out by the rule depth" in told and "needs it to be shown: left out by the rule query_explosion" in told


def test_a_link_of_a_page_in_a_faulty_coding_is_left_out_by_the_rule_that_leaves_it_out(tmp_path):
    """It is not said that such a page is not read for links: it is, where links are followed."""
    html = gzip.compress(b'<a href="/a">a</a>') + b"\r\n"
    with Web().running() as web:
        web.hosts = {HOST: {"/": Answer(body=html, headers=(("Content-Encoding", "gzip"),))}}
        assert command("run", web.url(HOST), "-o", str(tmp_path / "out"), *LOCAL).returncode == 0
        told = command("why", web.url(HOST, "/a"), "--via", web.url(HOST), "--data", str(tmp_path / "out")).stdout
    assert "left out by the rule depth" in told and "it ended as" not in told


def test_as_json_it_is_utf_8_in_every_locale(tmp_path):
    url = "http://127.0.0.1:1/ü"
    command("run", url, "-o", str(tmp_path / "out"), "--retries", "0", *LOCAL)
    words = ("why", url, "--data", str(tmp_path / "out"), "--json")
    told = crawler(*words, environ={"PYTHONIOENCODING": "ascii"}, encoding="utf-8")
    assert (told.returncode, orjson.loads(told.stdout)["state"], "ü" in told.stdout) == (0, "done", True), told
