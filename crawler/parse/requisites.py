"""What a page needs to be shown: images, style sheets, scripts, fonts, frames and media, from HTML, its headers and CSS. Pure.

Bounded as the outlinks of a page are; runs in a parser process. All candidates of a srcset are taken, as a reader may have any
screen, and what scripts would load is taken where the attributes in use for that say it (``data-src``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

from crawler.core.urls import escaped
from crawler.parse import css
from crawler.parse.html import MIMES as HTML
from crawler.parse.html import NEEDED, Found, Options, Outlinks, base_href, document_of, rebase, said_of
from crawler.parse.microsyntax import link_header, query_codec, srcset

if TYPE_CHECKING:
    from turbohtml import Element

CSS: Final = "text/css"
MIMES: Final = HTML | {CSS}
"""Types of documents that have requisites."""
SRCDOC_CHARS_MAX: Final = 256 << 10

_LATER: Final = ("data-src", "data-lazy-src", "data-original")
"""Where the scripts in use for that find what they load when it comes into view."""
_BACKGROUNDS: Final = ("body", "table", "thead", "tbody", "tfoot", "tr", "td", "th")
_ATTRIBUTES: Final[dict[str, tuple[str, ...]]] = {
    "img": ("src", *_LATER),
    "source": ("src", "data-src"),
    "iframe": ("src", "data-src", "data-lazy-src"),
    "video": ("src", "data-src", "poster"),
    "audio": ("src", "data-src"),
    "amp-img": ("src",),
    "amp-anim": ("src",),
    "amp-video": ("src", "poster"),
    "amp-audio": ("src",),
    "image": ("href", "xlink:href"),
    "use": ("href", "xlink:href"),
    "feimage": ("href", "xlink:href"),
    "object": ("data",),
    **dict.fromkeys(("script", "track", "embed", "frame"), ("src",)),
    **dict.fromkeys(_BACKGROUNDS, ("background",)),
}
_SETS: Final = frozenset({"img", "source", "amp-img", "amp-anim"})
_PAINTED: Final = ("fill", "stroke", "filter", "mask", "clip-path", "cursor", "marker-start", "marker-mid", "marker-end")
"""Attributes of SVG that are CSS (SVG 2, presentation attributes) and may name another document."""
_INLINE: Final = ("data:", "blob:", "about:", "javascript:")


def requisites(
    body: bytes,
    url: str,
    mime: str | None,
    charset: str | None,
    headers: Iterable[Sequence[bytes]],
    options: Options,
) -> Outlinks:
    """What a document needs, each URL once. Arguments as those of ``html.outlinks``; of the headers only ``Link`` says so."""
    found = Found(url, options, len(body))
    for name, value in headers:
        if name.lower() == b"link":
            for target, rel, _ in link_header(escaped(value)):
                _related(found, target, rel)
    read_as: str | None = None
    if body and mime == CSS:
        from crawler.parse.encoding import css_encoding, decoder_of  # of no use to a crawl without requisites

        read_as = css_encoding(body, charset)
        _add_all(found, css.urls(decoder_of(read_as)(body, True)))
    elif body and mime in HTML:
        document = document_of(body, charset, mime)
        read_as = document.encoding or "UTF-8"
        found.codec = query_codec(read_as)
        bases = (base_href(element) for element in said_of(document, "base"))
        rebase(found, next((href for href in bases if href is not None), None))
        _elements(found, document.iter_elements(), nested=False)
    return Outlinks(found.links(False), read_as, [], found.refused)


def _elements(found: Found, elements: Iterable[Element], *, nested: bool) -> None:
    for element in elements:
        tag, attr = element.tag.lower(), element.attr
        for name in _ATTRIBUTES.get(tag, ()):
            _add(found, attr(name))
        if tag in _SETS:
            for name in ("srcset", "data-srcset", "data-lazy-srcset"):
                _add_all(found, srcset(attr(name) or ""))
        elif tag == "link":
            _related(found, attr("href") or "", attr("rel") or "")
            _add_all(found, srcset(attr("imagesrcset") or ""))
        elif tag == "script" and element.namespace.value != "html":  # SVG's
            _add(found, attr("href"))
            _add(found, attr("xlink:href"))
        elif tag == "style":
            _add_all(found, css.urls("".join(element.strings)))
        elif tag == "input" and (attr("type") or "").strip().lower() == "image":
            _add(found, attr("src"))
        elif tag == "iframe" and not nested and (inner := attr("srcdoc")):
            _srcdoc(found, inner)
        if style := attr("style"):
            _add_all(found, css.urls(style))
        if element.namespace.value == "svg":
            for name in _PAINTED:
                if value := attr(name):
                    _add_all(found, css.urls(value))


def _srcdoc(found: Found, text: str) -> None:
    """A frame whose document stands in an attribute."""
    import turbohtml

    document = turbohtml.parse(text[:SRCDOC_CHARS_MAX], positions=False, allow_declarative_shadow_roots=False)
    _elements(found, document.iter_elements(), nested=True)


def _related(found: Found, reference: str, rel: str) -> None:
    """A <link>, or a Link header, by what it means; "alternate" alone is another page."""
    if not NEEDED.isdisjoint(rel.lower().split()):
        _add(found, reference)


def _add_all(found: Found, references: Iterable[str]) -> None:
    for reference in references:
        _add(found, reference)


def _add(found: Found, reference: str | None) -> None:
    """What is its own data, or a part of the page, is there already."""
    if reference and (bare := reference.strip()) and bare[0] != "#" and not bare[:11].lower().startswith(_INLINE):
        found.add([(reference, False)])
