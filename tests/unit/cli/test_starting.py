"""What is checked before a crawl begins."""

from crawler.cli.starting import seed_faults
from crawler.config.sections import Config


def test_a_url_that_is_short_enough_without_its_dropped_parameters_is_no_fault():
    url = "http://example.org/?utm_source=" + "x" * 40
    (fault,) = seed_faults(Config(urls=(url,), max_url=40))
    assert "too_long" in fault
    assert seed_faults(Config(urls=(url,), max_url=40, drop_params=("utm_*",))) == []
