"""The title of a page."""

import io

import pytest

from crawler.parse.title import title


@pytest.mark.parametrize(
    ("page", "told"),
    [
        ("<title> One\n&amp; <b>only</title>", "One & <b>only"),
        ("<svg><title>Close</title></svg><p>no title", None),
        ("<p><svg><title>Close</title></svg><title>Late</title>", "Late"),
        ("<template><title>Card</title></template><title>Page</title>", "Page"),
        ("<title> </title><title>Second</title>", "Second"),
        ("<p>no title", None),
    ],
)
def test_the_title_is_the_pages_own(page: str, told: str | None) -> None:
    """HTML, document.title: an icon's title, or a template's, is not the page's."""
    assert title(io.BytesIO(page.encode()), "text/html", "utf-8") == told
