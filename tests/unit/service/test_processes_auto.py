"""How many processes a new crawl has under ``--processes auto``, and why."""

from __future__ import annotations

import gzip

import pytest

from crawler.config.load import load
from crawler.config.sections import Config
from crawler.core.errors import ConfigError
from crawler.service.parts.auto import processes_for
from crawler.service.parts.shares import share_of

MANY = tuple(f"http://h{n}.test/" for n in range(10_001))
FOLLOWING = {"urls": MANY, "depth": 3, "scope": "any", "memory_limit": "8GiB"}
LISTED = {"urls": MANY, "memory_limit": "8GiB"}


def config_of(**settings: object) -> Config:
    return load({"output": "out", **settings}, environ={}).config


@pytest.mark.parametrize(
    ("settings", "cores", "wanted", "why"),
    [
        (FOLLOWING, 8, 6, "8 cores"),
        (FOLLOWING, 64, 16, "64 cores"),
        (FOLLOWING, 1, 1, "1 core"),
        (FOLLOWING | {"memory_limit": "512MiB", "parsers": 1}, 8, 3, "memory limit of 512 MiB"),
        (FOLLOWING | {"memory_limit": "300MiB"}, 8, 1, "memory limit of 300 MiB"),
        (FOLLOWING | {"workers": 3}, 8, 3, "8 cores"),
        (FOLLOWING | {"store": "memory"}, 8, 1, "--store memory"),
        (FOLLOWING | {"max_pages": 10_000}, 8, 1, "no more than 10000 pages"),
        (
            FOLLOWING | {"urls": MANY[:3]},
            8,
            1,
            "begun from 3 URLs, of which nobody knows what comes (--processes 6",
        ),
        (FOLLOWING | {"scope": "host"}, 64, 16, "64 cores"),
        (FOLLOWING | {"scope": "host", "urls": tuple(f"http://a.test/{n}" for n in range(10_001))}, 8, 1, "1 host allow"),
        (LISTED, 8, 8, "8 cores"),
        (LISTED | {"delay": 5}, 8, 5, "10001 hosts allow no more pages a second"),
        (LISTED | {"delay": 0, "urls": tuple(f"http://h{n % 40}.test/{n}" for n in range(10_001))}, 8, 2, "40 hosts, which are"),
        ({"urls": ("http://a.test/", "http://b.test/")}, 8, 1, "a list of 2 URLs"),
        ({"input": ("-",), "memory_limit": "8GiB"}, 8, 1, "nobody knows how long"),
        ({"input": ("/none",), "memory_limit": "8GiB"}, 8, 1, "nobody knows how long"),
    ],
)
def test_as_many_as_help(settings, cores, wanted, why):
    found, said = processes_for(config_of(**settings), endless=False, cores=cores)
    assert (found, why in said) == (wanted, True), said


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_list_is_looked_at(tmp_path, pack):
    listed = tmp_path / "list"
    config = config_of(input=(str(listed),), memory_limit="8GiB")
    lines = [f'{{"url": "http://h{n % 2000}.test/{n}"}}\n' for n in range(120_000)]
    for count, wanted in {1: 1, 10_000: 1, 10_001: 4, 120_000: 4}.items():
        listed.write_bytes(pack("".join(lines[:count]).encode()))
        assert processes_for(config, endless=False, cores=8)[0] == wanted, count
    assert "the first 100000 URLs: 2000 hosts" in processes_for(config, endless=False, cores=8)[1]


def test_a_daemon_is_sent_more():
    daemon = config_of(memory_limit="8GiB")
    assert [processes_for(daemon, endless=True, cores=cores)[0] for cores in (1, 2, 3, 4, 8)] == [1, 1, 2, 3, 6]
    assert processes_for(daemon, endless=True, cores=2)[1] == "a daemon on 2 cores", "two cores alone do not say why it has one"


@pytest.mark.parametrize("word", ["auto", 0, 4])
def test_the_setting_is_a_number_or_auto(word):
    assert config_of(processes=word).processes == (0 if word == "auto" else word)
    with pytest.raises(ConfigError, match="processes"):
        config_of(processes="many")


def test_shares_are_together_no_more_than_the_whole():
    config = config_of(workers=10, rate=9.0, bandwidth="1MB", max_pages=7, retain_bytes="1GB", urls=("http://a.test/",))
    shares = [share_of(config, part, 3, memory_limit=1 << 30, parsers=2) for part in range(3)]
    assert sum(share.workers for share in shares) == 10 and min(share.workers for share in shares) == 3
    assert sum(share.rate for share in shares) == pytest.approx(9.0)
    assert 0.99 * config.bandwidth <= sum(share.bandwidth for share in shares) <= config.bandwidth
    assert {share.retain_bytes for share in shares} == {config.retain_bytes}, "each sees what files all have"
    assert sum(share.memory_limit for share in shares) < 1 << 30
    assert [share.urls for share in shares] == [("http://a.test/",), (), ()]
