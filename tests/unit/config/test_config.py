"""The configuration: four layers, every fault at once in plain words, secrets masked, written and read back unchanged."""

import gc
import json
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.paths import ROOT

from crawler.config import crawl_toml, render
from crawler.config.hosts import HostRules
from crawler.config.load import load, warnings
from crawler.config.sections import RELOADABLE, SECTIONS, Config, HostConfig
from crawler.config.types import parse_size, parse_time, split_host_port
from crawler.core.errors import ConfigError, StorageError
from crawler.core.model import Link
from crawler.fetch.request import profiles
from crawler.policy.exclusion import EXCLUDED, Exclusion
from crawler.policy.scope import Scope


def write(tmp_path: Path, text: str, name: str = "crawler.toml") -> str:
    path = tmp_path / name
    path.write_text(text)
    return str(path)


def faults(flags=None, environ=None, file=None) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load(flags, environ=environ or {}, file=file)
    return caught.value.faults


def test_flag_beats_environment_beats_file_beats_default(tmp_path):
    file = write(tmp_path, "workers = 2\nretries = 3\nper_host = 4\n")
    environ = {"CRAWLER_WORKERS": "5", "CRAWLER_RETRIES": "6"}
    loaded = load({"workers": "7"}, environ=environ, file=file)
    assert (loaded.config.workers, loaded.config.retries, loaded.config.per_host, loaded.config.depth) == (7, 6, 4, 0)
    assert loaded.origins == {"workers": "--workers", "retries": "CRAWLER_RETRIES", "per_host": f"{file}: per_host"}


def test_the_file_may_be_named_by_the_environment(tmp_path):
    file = write(tmp_path, "workers = 2")
    assert load(environ={"CRAWLER_CONFIG": file}).config.workers == 2


def test_all_faults_are_told_at_once_each_with_its_place_and_remedy(tmp_path):
    file = write(tmp_path, 'worker = 1\nmax_body = "1xx"\nrate = true\nallow_net = ["127.0.0.1/8"]\narchive = "zip"\n')
    said = faults({"depth": "-5", "retries": "many"}, {"CRAWLER_DNS": "dns.example", "CRAWLER_DELAI": "1"}, file)
    assert sorted(said) == sorted((
        f"{file}: there is no setting worker; did you mean workers?",
        "CRAWLER_DELAI: there is no such setting; did you mean CRAWLER_DELAY?",
        "--depth '-5': must be at least -1",
        "--retries 'many': must be a whole number",
        f"{file}: rate: must not be true or false",
        "CRAWLER_DNS 'dns.example': must name the server by address, such as 9.9.9.9, 127.0.0.1:5353 or [::1]:5353",
        f"{file}: allow_net '127.0.0.1/8': has bits beyond the length of its prefix: write 127.0.0.0/8",
        f"{file}: archive 'zip': must be one of 'warc', 'files' or 'discard'",
        f"{file}: max_body '1xx': must be a size such as 64MiB, 10kB or a number of bytes",
    ))  # fmt: skip


def test_settings_below_a_heading_are_told_to_stand_above_it(tmp_path):
    """A likely name was suggested, as for a misspelt setting: crawl_delay_cap for [crawl]."""
    file = write(tmp_path, "[crawl]\ndepth = 3\n")
    told = (
        f"{file}: there is no table [crawl]: every setting stands above all tables, by its own name; the only table is [[host]]"
    )
    assert faults(file=file) == (told,)


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ({"workers": "0"}, "at least 1"),
        ({"workers": "5."}, "a whole number"),
        ({"workers": "٣"}, "a whole number"),
        ({"workers": "9" * 5000}, "a whole number"),
        ({"workers": 2.5}, "a whole number"),
        ({"processes": "all"}, "'all': must be auto or a whole number"),
        ({"processes": "-1"}, "'-1': must be at least 0"),
        ({"max_pages": 1e19}, "a whole number"),
        ({"max_pages": float("nan")}, "a finite number"),
        ({"max_pages": [1]}, "a whole number"),
        ({"rate": "٣"}, "a number"),
        ({"rate": 10**400}, "a finite number"),
        ({"rate": "fast"}, "a number"),
        ({"robots": "maybe"}, "true or false"),
        ({"robots": 2}, "true or false"),
        ({"name": 5}, "must be text"),
        ({"include": ["x", "\udcff"]}, "'\\udcff': must be text in UTF-8"),
        ({"timeout": "0s"}, "'0s': must be more than 0"),
        ({"max_body": "0"}, "'0': must be at least 1"),
        ({"max_outlinks": str(1 << 63)}, "a whole number of at most 9223372036854775807"),
        ({"max_body": "8388608TiB"}, "a whole number of at most 9223372036854775807"),
        ({"max_robots": "64MiB"}, "'64MiB': must be at most 512000"),
        ({"rate": "inf"}, "finite"),
        ({"rate": "-1"}, "at least 0"),
        ({"max_failed": "101"}, "at most 100"),
        ({"timeout": "0"}, "more than 0"),
        ({"delay": "1 week"}, "a time such as"),
        ({"max_body": "big"}, "a size such as"),
        ({"include": ["("]}, "not a regular expression"),
        ({"include": ["a{99999999999}"]}, "regular expression"),
        ({"deny_net": ["example.org"]}, "an address range such as"),
        ({"metrics_listen": "9100"}, "must be HOST:PORT"),
        ({"metrics_listen": "localhost:99999"}, "at most 65535"),
        ({"dns": ["9.9.9.9:0"]}, "port 0"),
        ({"proxy": "socks5://proxy:1080"}, "SOCKS is not supported"),
        ({"proxy": "http://[::1"}, "URL of an HTTP proxy"),
        ({"contact": "me"}, "URL or mail address"),
        ({"contact": "https://x.example/) evil ("}, "URL or mail address"),
        ({"name": "crawler"}, "a name of your own"),
        ({"name": "bot/1.0"}, "letters, _ and - only"),
        ({"user_agent": "a\r\nX: b"}, "one line"),
        ({"header": ["no colon"]}, "'Name: value'"),
        ({"header": ["A: b\r\nC: d"]}, "one line"),
        ({"header": ["Cookie: a=b"]}, "[[host]]"),
        ({"header": ["authorization: x"]}, "[[host]]"),
        ({"header": ["Proxy-Authorization: x"]}, "[[host]]"),
        ({"header": ["Transfer-Encoding: chunked"]}, "leave it out"),
        ({"header": ["User-Agent: x"]}, "user_agent"),
        ({"accept_mime": ["html"]}, "a media type"),
        ({"warc_prefix": "../x"}, "must match"),
        ({"host": "example.org"}, "write [[host]]"),
        ({"host": [{"match": "a.example", "headers": {1: "x"}}]}, "number 1, headers, 1: must be text"),
        ({"host": [{"match": "a.example", "headers": {"A": 1}}]}, "number 1, headers, A: must be text"),
        ({"host": [{"match": "a.example", "headers": []}]}, "must be a table, such as {Name = 'value'}"),
        ({"host": [{"match": "a.example", "delay": True}]}, "number 1, delay: must not be true or false"),
        ({"output": ""}, "not be empty"),
    ],
)
def test_a_value_that_cannot_be_meant_is_refused_in_plain_words(flags, sentence):
    (said,) = faults(flags)
    assert sentence in said


@pytest.mark.parametrize(
    ("settings", "read"),
    [
        ({"workers": " 1_000 "}, {"workers": 1000}),
        ({"workers": "+5.00"}, {"workers": 5}),
        ({"workers": 5.0}, {"workers": 5}),
        ({"depth": "-1"}, {"depth": -1}),
        ({"rate": "1e3"}, {"rate": 1000.0}),
        ({"rate": 7}, {"rate": 7.0}),
        ({"robots": "OFF", "fresh": "y", "insecure": 1}, {"robots": False, "fresh": True, "insecure": True}),
        ({"urls": ["http://a.example/"]}, {"urls": ("http://a.example/",)}),
        ({"backoff_max": None, "proxy": None}, {"backoff_max": None, "proxy": None}),
    ],
)
def test_values_may_be_text_or_typed(settings, read):
    config = load(settings, environ={}).config
    assert {key: getattr(config, key) for key in read} == read
    assert all(type(getattr(config, key)) is type(value) for key, value in read.items())


def test_faults_are_told_in_the_order_of_the_settings_what_is_unknown_last(tmp_path):
    file = write(tmp_path, "[[host]]\ndealy = 1\nper_host = 0\n[[host]]\nmatch = 1")
    said = faults({"log_level": "loud", "depth": "x"}, file=file)
    assert [line.partition(":")[0].removeprefix(file) for line in said if not line.startswith(file)] == [
        "--depth 'x'",
        "--log-level 'loud'",
    ]
    assert [line.removeprefix(f"{file}: host number ") for line in said if line.startswith(file)] == [
        "1, match: is missing",
        "1, per_host '0': must be at least 1",
        "1, dealy: there is no such setting for a host; did you mean delay?",
        "2, match '1': must be text",
    ]


def test_settings_are_frozen_values():
    config = Config(delay=5, host=[{"match": "a.example", "headers": {"X-Key": SECRET}}])
    assert config == Config(delay="5s", host=(HostConfig(match="A.example", headers={"X-Key": SECRET}),)) != Config()
    assert Config(output=Path("out")) == Config(output="out")
    with pytest.raises(AttributeError, match="frozen"):
        config.delay = 1
    assert config.replaced(delay=1.0).delay == 1.0 and config.delay == 5.0
    assert config.given().keys() == {"delay", "host"}
    assert SECRET not in repr(config)
    with pytest.raises(ConfigError, match=r"(?s)delay: must be at least 0.*depht: there is no such setting"):
        Config(depht=1, delay=-1)


def test_what_a_crawl_was_begun_with_cannot_change_while_it_runs():
    assert not RELOADABLE & set(crawl_toml.IDENTITY)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("workers = 5\nworkers = 6\n", "not a TOML file: a key that stands above already (at line 2"),
        ("a = [", "not a TOML file"),
        ("host = 1", "must be a list"),
        ("[host]\nmatch = 'a.example'", "must be a list of tables: write [[host]] above each"),
        ("[[host]]\ndelay = 1", "number 1, match: is missing"),
        ("[[host]]\nmatch = 'https://a.example'", "not a URL"),
        ("[[host]]\nmatch = 'me@bücher.example'", "not a URL"),
        ("[[host]]\nmatch = 'a.example'\ndealy = 1", "did you mean delay?"),
        ("[[host]]\nmatch = 'a.example'\n[[host]]\nmatch='b.example'\ndelay='x'", "number 2, delay 'x'"),
        ("[[host]]\nmatch = 'a.example'\nheaders = {Host = 'b.example'}", "leave it out"),
        ("[[host]]\nmatch = 'a.example'\nheaders = {X = \"a\\nb\"}", "one line"),
        ("[[host]]\nmatch = 'a.example'\nheaders = {Cookie = '***'}", "is masked"),
        ("api_token = '***'", "is masked"),
        ("proxy = 'http://***@proxy.example:3128'", "is masked"),
        ("contact = false", "must not be true or false"),
        ('output = "a\\u0000b"', "must hold no NUL"),
        ("a = " + "[" * 100_000, "not a TOML file"),
    ],
)
def test_a_faulty_file_is_refused_in_plain_words(tmp_path, text, sentence):
    (said,) = faults(file=write(tmp_path, text))
    assert sentence in said and said.startswith(str(tmp_path))


def test_a_file_that_cannot_be_read_is_a_fault(tmp_path):
    assert "No such file" in faults(file=str(tmp_path / "none.toml"))[0]
    assert "Is a directory" in faults(file=str(tmp_path))[0]
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    assert "not a TOML file" in faults(file=str(binary))[0]


def test_of_a_file_that_cannot_be_read_nothing_is_said_to_be_missing(tmp_path):
    with pytest.raises(ConfigError) as caught:
        load({}, environ={}, file=write(tmp_path, "output = 1\noutput = 2\n"), needs={"output": "output is missing"})
    (said,) = caught.value.faults
    assert "not a TOML file" in said


def test_a_file_of_an_editor_that_marks_its_encoding_is_read_or_told(tmp_path):
    file = tmp_path / "c.toml"
    file.write_bytes("workers = 3\r\n".encode("utf-8-sig"))
    assert load({}, environ={}, file=str(file)).config.workers == 3
    file.write_bytes("workers = 3\r\n".encode("utf-16"))
    assert faults(file=str(file)) == (f"{file}: not a TOML file: it is not UTF-8 text; save it as UTF-8",)


def test_lists_in_the_environment_are_one_item_or_a_toml_array():
    environ = {"CRAWLER_INCLUDE": "[a-z]{1,3}, x", "CRAWLER_ALLOW_NET": '["127.0.0.0/8", "::1"]', "CRAWLER_DNS": "[::1]:53"}
    config = load(environ=environ).config
    assert config.include == ("[a-z]{1,3}, x",)
    assert config.allow_net == ("127.0.0.0/8", "::1/128")
    assert config.dns == ("[::1]:53",)
    tables = load(environ={"CRAWLER_HOST": "[{match = '*.Example.org', delay = '5s'}]"}).config.host
    assert tables == (HostConfig(match="*.example.org", delay=5.0),)
    for text in ('["127.0.0.0/8"', '["", ' + "[" * 5000):
        assert "begins like a TOML array" in faults(environ={"CRAWLER_ALLOW_NET": text})[0]


def test_empty_variables_and_those_of_container_platforms_are_not_settings():
    environ = {"CRAWLER_CONTACT": "", "CRAWLER_SERVICE_HOST": "10.0.0.1", "CRAWLER_PORT": "tcp://10.0.0.1:9700"}
    environ |= {"CRAWLER_PORT_9700_TCP_ADDR": "10.0.0.1", "CRAWLER_SERVICE_PORT_HTTP": "9700", "PATH": "/bin"}
    assert load(environ=environ) == load(environ={})


def test_secrets_are_read_from_files_and_one_way_wins_whole(tmp_path):
    token = write(tmp_path, "s3cret\n", "token")
    assert load(environ={"CRAWLER_API_TOKEN_FILE": token}).config.api_token == "s3cret"
    assert load({"api_token": "other"}, environ={"CRAWLER_API_TOKEN_FILE": token}).config.api_token == "other"
    assert load({"api_token_file": token}, environ={"CRAWLER_API_TOKEN": "other"}).config.api_token == "s3cret"
    assert "not both" in faults({"api_token_file": token, "api_token": "x"})[0]
    assert "No such file" in faults({"proxy_file": "/nowhere"})[0]
    assert "is empty" in faults({"proxy_file": write(tmp_path, "\n", "empty")})[0]


def test_what_is_written_of_secrets_in_files_can_be_begun_with_again(tmp_path):
    token, proxy = write(tmp_path, "s3cret\n", "token"), write(tmp_path, "http://u:pw@p.example:1", "proxy")
    config = load({"api_token_file": token, "proxy_file": proxy}, environ={}).config
    text = render.to_toml(config)
    assert "s3cret" not in text and "pw@" not in text
    assert load(file=write(tmp_path, text, "crawl.toml"), environ={}).config == config


def test_a_control_api_that_others_can_reach_needs_a_token():
    assert "set api_token_file" in faults({"listen": "0.0.0.0:9700"})[0]
    assert "set api_token_file" in faults({"listen": "crawler.example:9700"})[0]
    assert load({"listen": "0.0.0.0:9700", "api_token": "x"}, environ={})
    for listen in ("localhost:1", "127.9.9.9:1", "[::1]:0"):
        assert load({"listen": listen}, environ={})


def test_a_certificate_file_must_hold_certificates(tmp_path):
    assert "No such file" in faults({"ca_file": str(tmp_path / "none.pem")})[0]
    assert "no certificate" in faults({"ca_file": write(tmp_path, "hello", "a.pem")})[0]


SECRET = "hunter2"


def secretive() -> Config:
    return Config(
        api_token=SECRET,
        proxy=f"http://me:{SECRET}@proxy.example:3128",
        urls=(f"https://me:{SECRET}@a.example/x@y", f"http:\\\\{SECRET}@b.example", "https://c.example/~me@home"),
        host=(
            HostConfig(
                match="a.example", headers={"Authorization": SECRET, "X-Key": SECRET}, proxy=f"https://{SECRET}@p.example"
            ),
        ),
    )


def test_no_secret_is_ever_shown_or_written(tmp_path):
    path = crawl_toml.write_effective(tmp_path, secretive())
    text = path.read_text()
    assert SECRET not in text
    assert "https://***@a.example/x@y" in text and "https://c.example/~me@home" in text
    assert "proxy.example:3128" in text and 'Authorization = "***"' in text
    assert "api_token" in str(faults(file=str(path)))


@pytest.mark.parametrize(
    "flags",
    [
        {"proxy": f"gopher://{SECRET}@x"},
        {"api_token": ["a", SECRET]},
        {"header": [f"Cookie: {SECRET}"]},
        {"host": [{"match": "a.example", "headers": {"Host": SECRET}}]},
        {"host": [{"match": "a.example", "headers": SECRET}]},
        {"host": [{"match": "a.example", "proxy": f"ftp://{SECRET}@x"}]},
    ],
)
def test_no_fault_repeats_a_secret(flags):
    assert SECRET not in str(faults(flags))


def test_the_effective_configuration_reads_back_as_itself(tmp_path):
    config = Config(
        max_body="1GiB",
        delay="1500ms",
        include=("[\"'\\\\\u007f]", "ä"),
        header=("X-Test: \t'quoted'",),
        memory_limit=300_000_001,
        host=(HostConfig(match="a.example", delay=0.25, robots=False), HostConfig(match="*")),
    )
    assert load(environ={}, file=str(crawl_toml.write_effective(tmp_path, config))).config == config
    assert not list(tmp_path.glob("*.tmp"))


@given(st.integers(min_value=0, max_value=1 << 62))
def test_a_size_is_written_as_it_is_read(size):
    assert parse_size(tomllib.loads(f"v = {render.format_size(size)}")["v"]) == size


@given(st.floats(min_value=0, allow_nan=False, allow_infinity=False) | st.integers(0, 10**9).map(float))
def test_a_time_is_written_as_it_is_read(seconds):
    assert parse_time(tomllib.loads(f"v = {render.format_time(seconds)}")["v"]) == seconds


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("64MiB", 64 << 20),
        ("64 mib", 64 << 20),
        ("10kB", 10_000),
        ("10k", 10_000),
        ("1.5GiB", 3 << 29),
        ("9223372036854775807", (1 << 63) - 1),
        ("7", 7),
        ("1TB", 10**12),
    ],
)
def test_sizes(text, size):
    assert Config(max_body=text).max_body == size


@given(
    st.sampled_from([key for key in Config.fields if key != "host"]),
    st.from_regex(r"[\[(]?[0-9.]*[ kmgtibs:/*@%-]*", fullmatch=True),
)
@example("max_body", "64i")
@example("memory_limit", "64iB")
@example("timeout", "5\u017f")  # which is an s, where case does not matter
def test_no_text_for_a_setting_is_an_internal_error(key, text):
    """It would end a daemon that reads its settings again."""
    Config.read({key: (text,) if Config.fields[key].is_list else text})


@pytest.mark.parametrize(("text", "seconds"), [("500ms", 0.5), ("2", 2), ("1.5h", 5400), ("10 min", 600), ("1d", 86400)])
def test_times(text, seconds):
    assert Config(delay=text).delay == seconds


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a.example", ("a.example", None)),
        ("a:1", ("a", 1)),
        ("[::1]:2", ("::1", 2)),
        ("[::1]", ("::1", None)),
        ("::1", ("::1", None)),
    ],
)
def test_host_and_port_are_told_apart(text, parts):
    assert split_host_port(text) == parts


def test_the_shipped_file_is_complete_and_equals_the_defaults():
    text = (ROOT / "deploy" / "crawler.toml").read_text()
    assert text == render.example(), "regenerate it: crawler config show --example > deploy/crawler.toml"
    assert load(environ={}, file=str(ROOT / "deploy" / "crawler.toml")).config == Config()


def test_every_commented_setting_of_the_shipped_file_is_valid_once_uncommented(tmp_path):
    lines = []
    for line in render.example().splitlines():
        bare = line.removeprefix("# ")
        key = bare.partition(" = ")[0]
        known = key in Config.fields or key in HostConfig.fields or bare == "[[host]]"
        reads_a_file = key in ("ca_file", "api_token_file", "proxy_file")
        lines.append(bare if known and not reads_a_file and line.startswith("# ") else line)
    config = load(environ={}, file=write(tmp_path, "\n".join(lines))).config
    assert config.contact and config.proxy and config.memory_limit == 512 << 20
    assert config.host[0].delay == 5


def test_every_setting_is_explained_and_belongs_to_one_section():
    for section in SECTIONS:
        assert section.__doc__
        for key, field in section.fields.items():
            assert field.description, key
            assert field.default is not None or field.examples, f"{key} has neither a default nor an example"
    keys = [key for section in SECTIONS for key in section.fields]
    assert sorted(keys) == sorted(Config.fields)


def test_the_schema_describes_every_setting():
    described = json.loads(json.dumps(render.schema()))
    assert set(described["properties"]) == set(Config.fields)
    assert described["additionalProperties"] is False


def test_only_what_a_crawl_was_begun_with_conflicts():
    old = crawl_toml.identity(Config())
    other = Config(workers=1, delay=0, max_body=1, robots=False, exclude=("x",))
    assert crawl_toml.identity_conflicts(old, crawl_toml.identity(other)) == []
    said = crawl_toml.identity_conflicts(old, crawl_toml.identity(Config(depth=3, archive="files", sort_query=True)))
    assert [line.partition(":")[0] for line in said] == ["archive", "depth", "sort_query"]
    assert "begun with 0, now it is 3" in said[1]


def test_the_identity_is_read_back_from_the_directory(tmp_path):
    assert crawl_toml.read_identity(tmp_path) is None
    config = Config(depth=2, exclude=("a|b",), api_token=SECRET)
    crawl_toml.write_effective(tmp_path, config)
    assert crawl_toml.read_identity(tmp_path) == crawl_toml.identity(config)
    (tmp_path / "crawl.toml").write_text("depth = [")
    with pytest.raises(ConfigError, match=r"crawl\.toml"):
        crawl_toml.read_identity(tmp_path)


@pytest.mark.parametrize("text", [f"depth = {'[' * 5000}{']' * 5000}\n", " " * ((64 << 20) + 1)], ids=["nested", "large"])
def test_a_crawl_toml_that_is_endless_in_some_way_cannot_be_read(tmp_path: Path, text: str) -> None:
    """One that was nested deeply ended whatever read it with an internal error."""
    (tmp_path / "crawl.toml").write_text(text)
    with pytest.raises(ConfigError, match="cannot be read as this crawl's configuration"):
        crawl_toml.read_identity(tmp_path)


def test_a_crawl_toml_that_may_not_be_read_is_no_reason_to_begin_anew(tmp_path: Path) -> None:
    (tmp_path / "crawl.toml").mkdir()
    with pytest.raises(ConfigError) as raised:
        crawl_toml.read_identity(tmp_path)
    assert raised.value.faults == (f"{tmp_path / 'crawl.toml'}: Is a directory",)


def test_starting_from_the_effective_configuration_does_not_begin_anew(tmp_path):
    assert load(environ={}, file=str(crawl_toml.write_effective(tmp_path, Config(fresh=True)))).config.fresh is False


def test_a_failed_write_leaves_the_old_file(tmp_path):
    crawl_toml.write_effective(tmp_path, Config(depth=1))
    (tmp_path / "crawl.toml.tmp").mkdir()
    with pytest.raises(StorageError):
        crawl_toml.write_effective(tmp_path, Config(depth=2))
    assert tomllib.loads((tmp_path / "crawl.toml").read_text())["depth"] == 1


def test_what_is_risky_is_said_aloud():
    assert warnings(Config()) == []
    assert len(warnings(Config(robots=False, insecure=True, depth=1, scope="any"))) == 3
    assert warnings(Config(depth=1, scope="any", contact="me@example.org")) == []
    assert warnings(Config(recrawl_every=60.0)) == [] and len(warnings(Config(recrawl_every=60.0, recrawl_max=60.0))) == 1
    stored = {place: warnings(Config(output="/crawls/a", store_url=f"file:///crawls/{place}")) for place in ("a/b", "ab", "b")}
    assert [place for place, said in stored.items() if said] == ["a/b"]
    names = (
        "crawler.example.org",
        "127.0.0.1",
        "::1",
        "https://crawler.example.org",
        "crawler.example.org:8443",
        "example.org/crawler",
    )
    said = warnings(Config(server_names=names))
    assert [name for name in names if any(repr(name) in line for line in said)] == [*names[3:]]
    assert warnings(Config(exclude=("a",))) == [] and len(warnings(Config(exclude=("a", "")))) == 1
    many = tuple(f"/{n}/" for n in range(2001))
    assert warnings(Config(exclude=many[1:])) == [] and "[[host]]" in warnings(Config(exclude=many))[0]
    assert warnings(Config(method="HEAD")) == [] and len(warnings(Config(method="HEAD", depth=1))) == 1


@pytest.mark.parametrize(
    ("settings", "warned"),
    [
        ({"accept_mime": ["application/pdf"]}, False),
        ({"accept_mime": ["application/pdf"], "depth": 2}, True),
        ({"accept_mime": ["application/pdf"], "requisites": True}, True),
        ({"accept_mime": ["application/pdf", "text/html"], "depth": 2}, False),
        ({"accept_mime": ["application/pdf", "text/*"], "depth": 2}, False),
        ({"accept_mime": ["application/xhtml+xml"], "depth": -1}, False),
        ({"depth": 2}, False),
    ],
)
def test_pages_that_are_not_kept_lead_nowhere_and_that_is_said(settings, warned):
    """Who wants the PDF files of a site alone would get none, as no page that names one is kept."""
    said = warnings(Config(**settings))
    assert len(said) == warned and all("text/html" in line and "export --mime" in line for line in said)


def test_a_proxy_of_the_environment_is_not_used_and_that_is_said():
    environ = {"http_proxy": "http://proxy.example:3128", "no_proxy": "localhost"}
    [said] = warnings(Config(), environ)
    assert "http_proxy" in said and "--proxy" in said and "proxy.example" not in said, "it may hold a password"
    assert warnings(Config(proxy="http://proxy.example:3128"), environ) == []
    assert warnings(Config(host=[{"match": "*", "proxy": "http://proxy.example:3128"}]), environ) == []
    assert warnings(Config(), {"http_proxy": ""}) == []


@pytest.mark.parametrize(
    ("settings", "warned"),
    [
        ({}, False),
        ({"name": "acmebot"}, False),
        ({"user_agent": "AcmeBot/2.0 (+https://acme.example/bot)"}, True),
        ({"user_agent": "AcmeBot/2.0", "name": "acmebot"}, False),
        ({"user_agent": "Mozilla/5.0 (compatible; ACMEBOT)", "name": "AcmeBot"}, False),
        ({"user_agent": "AcmeBot/2.0", "name": "acme-bot"}, True),
        ({"user_agent": "curl/8.5.0"}, True),
        ({"user_agent": "based on flatcrawler 1.0"}, False),
        ({"user_agent": "AcmeBot/2.0", "robots": False}, False),
        ({"user_agent": "AcmeBot/2.0", "robots": False, "host": [{"match": "a.example", "robots": True}]}, True),
    ],
)
def test_a_user_agent_that_hides_the_name_which_rules_are_matched_against_is_warned_of(settings, warned):
    """RFC 9309, 2.2.1: whoever reads the User-Agent must find in it what robots.txt is to say."""
    said = [line for line in warnings(Config(**settings)) if "user_agent" in line]
    assert len(said) == warned
    assert not warned or (settings["user_agent"] in said[0] and "--name" in said[0])


@pytest.mark.parametrize(
    ("match", "holds", "not_for"),
    [
        ("[::1]", "[::1] [::1]:8080", "1 [::2]"),
        ("[::1]:81", "[::1]:81", "[::1] [::1]:8"),
        ("[2001:DB8:0::1]", "[2001:db8::1]", "[2001:db8::2]"),
        ("*.BÜCHER.example", "a.xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("bücher.example:8080", "xn--bcher-kva.example:8080", "xn--bcher-kva.example"),
        ("*.Example.org", "a.example.org a.b.example.org:81", "example.org"),
        ("example.org:81", "example.org:81 example.org.:81", "example.org"),
        ("[:::]", "", "[::]"),
        ("*", "[::1] example.org 10.0.0.1:81", ""),
    ],
)
def test_which_hosts_a_table_is_for(match, holds, not_for):
    rules = HostRules(Config(host=(HostConfig(match=match, delay=7),)))
    assert [host for host in (holds + " " + not_for).split() if rules.delay(host) == 7] == holds.split()


def test_the_first_table_that_is_for_a_host_counts_and_it_is_found_however_many_there_are():
    def calls(count: int) -> int:
        """Of functions, to find out about one host."""
        others = tuple(HostConfig(match=f"*.other{n}.example", block=True) for n in range(count))
        first = HostConfig(match="*.b.example", block=False), HostConfig(match="a.b.example", block=True)
        config = Config(host=(*others, *first, HostConfig(match="*", block=True), *others), scope="any", depth=-1)
        rules = HostRules(config)
        scope, profile_of = Scope(config, blocked=rules.blocked), profiles(config, config.host)
        profile_of("x.other.example")
        seen = []
        gc.disable()  # hypothesis watches it by functions
        sys.setprofile(lambda frame, event, arg: seen.append(event))
        found = [rules.blocks("a.b.example"), rules.blocks("b.example:81"), rules.blocks("x.other0.example.")]
        hosts = ("a.b.example", "b.example", "x.other0.example:81")
        refused = [scope.refuses(Link(f"http://{host}/", host, "link")) for host in hosts]
        profile_of("x.other.example")
        sys.setprofile(None)
        gc.enable()
        assert found == [False, True, True] and refused == [None, "block", "block"]
        return len(seen)

    assert calls(1) == calls(1000)


def test_a_table_for_the_port_of_a_scheme_is_for_that_scheme_alone():
    """It was for nothing, as no host has that port in its name; the header in it may be a password."""
    tls, plain, none = "https://a.example", "http://a.example", "https://b.example"
    table = {"block": True, "robots": False, "headers": {"Authorization": "x"}, "delay": 7}
    for port, within, beside in ((":443", tls, plain), (":80", plain, tls)):
        config = Config(host=[HostConfig(match=f"a.example{port}", **table)], scope="any", depth=-1)
        rules = HostRules(config)
        scope, profile_of = Scope(config, blocked=rules.blocked), profiles(config, config.host)
        exclusion = Exclusion(config, (), rules.blocks)
        for at, is_within in ((within, True), (f"{within}.", True), (beside, False), (none, False)):
            link = Link(f"{at}/", at.partition("//")[2], "link")
            assert (rules.blocks(at), not rules.obeys_robots(at)) == (is_within, is_within), at
            assert (scope.refuses(link) == "block", exclusion.refuses(link) == EXCLUDED) == (is_within, is_within)
            assert ("Authorization" in dict(profile_of(at).fields)) == is_within
        assert not exclusion.blocks("a.example"), "not with the other scheme"
        assert [rules.delay(host) for host in ("a.example", "b.example", "a.example:8443")] == [7, 1, 1], "both share a rest"


@pytest.mark.parametrize("is_turned", [False, True])
def test_of_the_tables_for_the_ports_of_a_host_the_more_careful_one_says_how_it_rests(is_turned):
    """``crawler block a.example:443`` puts its table before the others: http went on with the delay of all hosts."""
    tables = [
        HostConfig(match="a.example:443", block=True),
        HostConfig(match="b.example:443", delay=2, per_host=3),
        HostConfig(match="b.example:80", delay=5, per_host=4),
        HostConfig(match="*.example", delay=30, per_host=2),
    ]
    rules = HostRules(Config(host=tables[:3][:: -1 if is_turned else 1] + tables[3:], delay=1, per_host=1))
    asked = ("a.example", "b.example", "b.example:443", "b.example:8080", "else.test")
    assert [rules.delay(host) for host in asked] == [30, 5, 2, 30, 1]
    assert [rules.per_host(host) for host in asked] == [2, 3, 3, 2, 1]


def test_a_table_that_is_looked_for_while_the_settings_change_is_one_of_those_before_or_after():
    """The engine thread judges what is claimed. Where the settings became fewer tables meanwhile it ended the process."""
    many = Config(host=[HostConfig(match=f"{name}.example", block=True) for name in "abc"])
    rules = HostRules(many)
    found = []

    class Tables(tuple):
        def __iter__(self):
            found.extend(rules.blocks(f"http://{name}.example") for name in "abc")
            return super().__iter__()

    few = SimpleNamespace(host=Tables(many.host[:1]), factor=1.0)
    rules.change(few)
    assert found and set(found) == {True}
    assert [rules.blocks(f"http://{name}.example") for name in "abc"] == [True, False, False]


def test_a_size_beyond_all_numbers_is_a_fault():
    with pytest.raises(ValueError, match="must be a size"):
        parse_size("1" * 5000 + "GiB")


@pytest.mark.parametrize(
    ("match", "hosts", "others"),
    [
        ("[2001:db8::1]", ["[2001:db8::1]", "[2001:db8::1]:8080"], ["[2001:db8::2]", "2", "[2001:db8::1]x"]),
        ("[2001:DB8::1]:8080", ["[2001:db8::1]:8080"], ["[2001:db8::1]", "[2001:db8::1]:80"]),
        ("[2001:0DB8:0:0::1]", ["[2001:db8::1]", "[2001:db8::1]:8080"], []),
        ("[::ffff:10.0.0.1]:81", ["[::ffff:a00:1]:81"], ["[::ffff:a00:1]"]),
        ("127.0.0.1", ["127.0.0.1", "127.0.0.1:8080"], ["127.0.0.11", "1127.0.0.1"]),
        ("example.org", ["example.org", "example.org:8080", "example.org.", "example.org.:81"], ["a.example.org", "xample.org"]),
        ("example.org:8080", ["example.org:8080", "example.org.:8080"], ["example.org", "example.org:80"]),
        ("*.example.org", ["a.example.org", "b.a.example.org:8080", "a.example.org."], ["example.org", "xexample.org"]),
        ("*.example.org:8080", ["a.example.org:8080"], ["a.example.org", "a.example.org:80"]),
        ("*:8080", ["example.org:8080", "[::1]:8080"], ["example.org"]),
        ("*", ["example.org", "[::1]", "[::1]:8080"], []),
    ],
)
def test_a_table_holds_for_the_hosts_that_it_names(match, hosts, others):
    """None held for an address of IPv6, whose brackets were taken for a set of characters: neither block, delay nor robots."""
    rules = HostRules(Config(host=[{"match": "elsewhere.example"}, {"match": match, "block": True}]))
    assert [host for host in (*hosts, *others) if rules.blocks(host)] == hosts
