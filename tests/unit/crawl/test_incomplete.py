"""Pages of an archive that lack something, read again."""

import io
from types import SimpleNamespace

import pytest

from crawler.crawl import incomplete


def test_a_fault_of_ours_is_no_page_that_could_not_be_read(tmp_path, monkeypatch):
    """Of what reading a page raises only MemoryError is the page's doing."""

    def fail(*arguments: object) -> None:
        raise KeyError("ours")

    monkeypatch.setattr(incomplete, "requisites", fail)
    row = {"kind": "seed", "outcome": "ok", "mime": "text/html", "canonical": "http://a.test/", "charset": None}
    reader = SimpleNamespace(root=tmp_path, latest=lambda: [row], open_body=lambda row: io.BytesIO(b"<p>"))
    with pytest.raises(KeyError, match="ours"):
        list(incomplete.incomplete_pages(reader))
