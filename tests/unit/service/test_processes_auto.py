"""How many processes a new crawl has under ``--processes auto``, and why."""

from __future__ import annotations

import pytest

from crawler.config.load import load
from crawler.config.sections import Config
from crawler.core.errors import ConfigError
from crawler.service.parts.auto import processes_for
from crawler.service.parts.shares import Visits, share_of

FOLLOWING = {"urls": ("http://a.test/", "http://b.test/"), "depth": 3, "scope": "any", "memory_limit": "8GiB"}


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
        (FOLLOWING | {"urls": ("http://a.test/", "http://a.test/b"), "scope": "host"}, 8, 1, "one host"),
        (FOLLOWING | {"urls": ("http://a.test/",)}, 8, 6, "8 cores"),
        ({"urls": ("http://a.test/", "http://b.test/")}, 8, 1, "a list of 2 URLs"),
        ({"input": ("-",), "memory_limit": "8GiB"}, 8, 8, "8 cores"),
        ({"input": ("/none",), "memory_limit": "8GiB"}, 8, 8, "8 cores"),
    ],
)
def test_as_many_as_help(settings, cores, wanted, why):
    found, said = processes_for(config_of(**settings), endless=False, cores=cores)
    assert (found, why in said) == (wanted, True), said


def test_a_short_list_has_one(tmp_path):
    listed = tmp_path / "list"
    listed.write_text("http://a.test/\n")
    config = config_of(input=(str(listed),), memory_limit="8GiB")
    assert processes_for(config, endless=False, cores=8) == (1, "a short list")
    listed.write_text("http://a.test/\n" * 10_000)
    assert processes_for(config, endless=False, cores=8)[0] == 8
    assert processes_for(config_of(memory_limit="8GiB"), endless=True, cores=4)[0] == 4, "a daemon is sent more"


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
    for name in ("bandwidth", "retain_bytes"):
        assert 0.99 * getattr(config, name) <= sum(getattr(share, name) for share in shares) <= getattr(config, name)
    assert sum(share.memory_limit for share in shares) < 1 << 30
    assert [share.urls for share in shares] == [("http://a.test/",), (), ()]


def test_visits_are_allowed_once():
    visits = Visits(100, 2)
    taken = 0
    while got := visits.take(0):
        taken += got
    assert taken == 100 and not visits.are_used
    visits.has_left(0, 30)
    visits.lose(0)
    assert visits.are_used, "what a part had that died is used"
