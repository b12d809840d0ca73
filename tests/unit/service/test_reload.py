"""Settings that are changed while a crawl runs."""

from types import SimpleNamespace

import pytest

from crawler.config.load import load
from crawler.service.reload import Changes


async def test_what_is_in_effect_is_written_down_though_not_everybody_has_said_so_in_time(tmp_path):
    crawl = SimpleNamespace(config=load({"output": str(tmp_path)}, environ={}).config)

    async def reconfigure(config):
        crawl.config = config
        raise TimeoutError  # a process stands still

    crawl.reconfigure = reconfigure
    with pytest.raises(TimeoutError):
        await Changes(crawl, tmp_path).patch({"rate": 3})
    assert "rate = 3" in (tmp_path / "crawl.toml").read_text()
