"""What the options mean that choose among rows."""

import pytest

from crawler.cli.filter_options import _since
from crawler.core.errors import ConfigError


@pytest.mark.parametrize("text", ["0900-01-01", "0001-01-01T00:00:00+23:00", "480000d", "9" * 400])
def test_since_long_ago_means_all_rows(text):
    """As text, a year of three digits would come behind all others."""
    assert _since(text) == "1970-01-01T00:00:00.000Z"


@pytest.mark.parametrize("text", ["2026-11-23", "20261123", "2026-11-23T00:00Z", "2026-11-23T01:00+01:00"])
def test_since_a_day(text):
    assert _since(text) == "2026-11-23T00:00:00.000Z"


@pytest.mark.parametrize("text", ["yesterday", "-7d", "2026-13-01"])
def test_what_is_no_time_is_a_fault(text):
    with pytest.raises(ConfigError, match="write a day"):
        _since(text)
