"""What a page needs to be shown, in every form in which HTML and CSS say so."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crawler.parse import css
from crawler.parse.html import Options
from crawler.parse.requisites import requisites

PAGE = "http://example.org/dir/page"


def needs(text: str | bytes, mime: str = "text/html", headers=(), url: str = PAGE, charset: str | None = None) -> set[str]:
    body = text.encode() if isinstance(text, str) else text
    found = requisites(body, url, mime, charset, headers, Options())
    return {link.url.removeprefix("http://example.org") for link in found.links}


@pytest.mark.parametrize(
    ("html", "needed"),
    [
        ("<img src=a.png>", "/dir/a.png"),
        ("<img src=a.png srcset='b.png 1x, /c,d.png 2x'>", "/dir/a.png /dir/b.png /c,d.png"),
        ("<picture><source srcset='p.avif 100w,q.avif' type=image/avif><img src=r></picture>", "/dir/p.avif /dir/q.avif /dir/r"),
        ("<img data-src=l.png data-srcset='m.png 2x' src='data:image/gif;base64,R0'>", "/dir/l.png /dir/m.png"),
        ("<img data-lazy-src=l.png data-lazy-srcset='m.png 2x'><img data-original=o.png>", "/dir/l.png /dir/m.png /dir/o.png"),
        ("<amp-img src=a srcset='b 2x'></amp-img><amp-video src=v poster=p></amp-video>", "/dir/a /dir/b /dir/v /dir/p"),
        ("<noscript><img src=n.png></noscript>", "/dir/n.png"),
        ("<link rel=stylesheet href=/s.css><link rel='alternate stylesheet' href=/t.css>", "/s.css /t.css"),
        ("<link rel='shortcut icon' href=/f.ico><link rel=apple-touch-icon href=/g><link rel=mask-icon href=/h>", "/f.ico /g /h"),
        ("<link rel=preload as=font href=/f.woff2><link rel=modulepreload href=/m.js>", "/f.woff2 /m.js"),
        ("<link rel=preload as=image imagesrcset='/1x.png 1x, /2x.png 2x'>", "/1x.png /2x.png"),
        ("<link rel=manifest href=/app.webmanifest>", "/app.webmanifest"),
        ("<link rel=alternate type=application/json+oembed href=/oembed><link rel=canonical href=/c>", ""),
        ("<link rel=alternate href=/feed><link rel=dns-prefetch href=//cdn.example><link rel=next href=/2>", ""),
        ("<script src=//cdn.example/x.js></script><script type=module src=/m.js></script>", "http://cdn.example/x.js /m.js"),
        ("<style>@import 'i.css'; p { background: url(b.png) }</style>", "/dir/i.css /dir/b.png"),
        ('<p style="background: URL(&quot;q.png&quot;)">', "/dir/q.png"),
        ("<video src=v.mp4 poster=p.jpg><source src=w><track src=t.vtt></video>", "/dir/v.mp4 /dir/p.jpg /dir/w /dir/t.vtt"),
        ("<audio src=a.ogg></audio><embed src=e.swf><object data=o.pdf></object>", "/dir/a.ogg /dir/e.swf /dir/o.pdf"),
        ("<iframe src=/frame></iframe><iframe data-src=/lazy></iframe>", "/frame /lazy"),
        ("<iframe srcdoc='<img src=/in.png>'></iframe>", "/in.png"),
        ("<frameset><frame src=/f1></frameset>", "/f1"),
        ("<svg><image href=s.png /><use xlink:href='q.svg#x'/><feImage href=f /></svg>", "/dir/s.png /dir/q.svg /dir/f"),
        ("<svg><use href='#here'/></svg><img src='#'><img src=''><img src='about:blank'>", ""),
        ("<input type=image src=i.png><input src=no.png>", "/dir/i.png"),
        ("<body background=b><table background=t><tr><td background=d></table>", "/dir/b /dir/t /dir/d"),
        ("<table><thead background=h><tr><th><tbody background=b><tr><td><tfoot background=f></table>", "/dir/h /dir/b /dir/f"),
        ("<svg><script href=a.js /><script xlink:href=b.js /></svg><script href=no.js></script>", "/dir/a.js /dir/b.js"),
        ("<base href=//other.example/x/><img src=a.png>", "http://other.example/x/a.png"),
        ("<svg><g fill=\"url('p.svg#a')\" mask='URL(m.svg)' stroke=url(#here) filter=none /></svg>", "/dir/p.svg /dir/m.svg"),
        ("<svg><base href=/svg/></svg><base href=/x/><img src=a.png>", "/x/a.png"),
        ("<base href=''><base href=/x/><img src=a.png>", "/dir/a.png"),
        ("<template><base href=/t/></template><base href=/x/><img src=a.png>", "/x/a.png"),
        ("<a href=/page><img src=i.png></a><area href=/area><form action=/form></form>", "/dir/i.png"),
    ],
)  # fmt: skip
def test_every_kind_of_requisite(html: str, needed: str) -> None:
    assert needs(html) == set(needed.split())


def test_headers_say_it_as_well() -> None:
    headers = [(b"Link", b"</s.css>; rel=preload; as=style, </next>; rel=next"), (b"Refresh", b"0; url=/r")]
    assert needs("", headers=headers) == {"/s.css"}


@pytest.mark.parametrize(
    ("text", "needed"),
    [
        ("a{background:url(a.png)}", "a.png"),
        ("a{background:url( 'a b.png' )}", "a b.png"),
        (r"a{background:u\72l(a\20 b.png)}", "a b.png"),
        ("@import 'a.css'; @import url(b.css) screen; @import url('c.css') layer(x);", "a.css b.css c.css"),
        ("@IMPORT\n\"a.css\";", "a.css"),
        ("@font-face{src:local('x'),url(f.woff2)format('woff2'),url('f.eot?#iefix')}", "f.woff2 f.eot?#iefix"),
        ("a{background:image-set('1x.png' 1x, url(2x.png) 2x type('image/png'))}", "1x.png 2x.png"),
        ("a{background:-webkit-image-set(url(1x.png) 1x)}", "1x.png"),
        ("@media print{@supports(display:grid){a::before{content:url(deep.png)}}}", "deep.png"),
        ("a{--x:url(var.png);cursor:url(c.cur),auto;mask:src('m.svg')}", "var.png c.cur m.svg"),
        ("/* url(no.png) @import 'no.css'; */ a{content:'url(no.png)'}", ""),
        ("@namespace svg url(http://www.w3.org/2000/svg); a{background:url(yes.png)}", "yes.png"),
        ("a{background:url(data:image/gif;base64,R0lGOD)} b{background:url('data:image/svg+xml,<svg fill=\"}\">')}", "none"),
        ("@charset 'utf-8'; a{background:url(end.png", "end.png"),
        ("a{}", ""),
    ],
)  # fmt: skip
def test_every_form_of_a_url_in_css(text: str, needed: str) -> None:
    wanted = set(needed.split()) if " " not in needed or "b.png" not in needed else {needed}
    assert set(css.urls(text)) - {"none"} == wanted - {"none"}


def test_a_long_style_sheet_is_read_as_a_short_one() -> None:
    """Of it only the rules are tokenised that may load something."""
    filler = ".a-%d:hover > b { margin: 0 auto; color: #fff } /* url(no-%d.png) } */\n"
    rules = [f"@media (min-width: {n}px) {{ .b {{ background: url('img/{n}.png') }} }}" for n in range(9)]
    text = "@import 'first.css';\n" + "".join(filler % (n, n) * 200 + rule for n, rule in enumerate(rules)) + "@import url(x.css"
    assert len(text) > 2 * css.SHORT_CHARS
    assert set(css.urls(text)) == {"first.css", "x.css", *(f"img/{n}.png" for n in range(9))}


@pytest.mark.parametrize(
    ("text", "needed"),
    [
        ("a{content:'/*'} b{background:url(b.png)}", ["b.png"]),
        ("a{background:url(/i/*/a.png)} b{background:url( b*/.png )}", ["/i/*/a.png", "b*/.png"]),
        ("a{background:url('a}.png')} b{background:url(b}.png)}", ["a}.png", "b}.png"]),
        ("a{content:'it\\'s /*'} b{background:url(b\\).png)}", ["b).png"]),
        (".a\\'b{background:url(a.png)} /* } ' */ b{background:url(b.png)}", ["a.png", "b.png"]),
        ("a{content:'open\n} b{background:url(b.png)}", ["b.png"]),
        ("a{background:url(a\0.png)}", ["a\ufffd.png"]),
    ],
)
def test_strings_and_addresses_of_a_long_style_sheet_may_hold_braces_and_marks_of_comments(text: str, needed: list[str]) -> None:
    filler = ".c { margin: 0 } /* } */\n" * css.SHORT_CHARS
    assert list(css.urls(text)) == list(css.urls(f"{filler}{text}\n{filler}")) == needed


@pytest.mark.parametrize(
    ("body", "charset", "needed"),
    [
        (b"\xef\xbb\xbfa{background:url(\xc3\xa9.png)}", None, "/dir/%C3%A9.png"),
        (b"a{background:url(\xe9.png)}", "latin1", "/dir/%C3%A9.png"),
        (b'@charset "windows-1252";a{background:url(\xe9.png)}', None, "/dir/%C3%A9.png"),
        (b"a{background:url(\xff\xfe.png)}", "no such charset", "/dir/%EF%BF%BD%EF%BF%BD.png"),
    ],
)
def test_css_is_decoded_as_browsers_do(body: bytes, charset: str | None, needed: str) -> None:
    assert needs(body, "text/css", charset=charset) == {needed}


@pytest.mark.parametrize(
    ("text", "written_as", "charset", "encoding"),
    [
        ("", "utf-8", None, "UTF-8"),
        ("", "latin-1", "ISO-8859-1", "windows-1252"),
        ('@charset "koi8-r";', "koi8-r", None, "KOI8-R"),
        ('@charset "koi8-r";', "utf-8", "utf-8", "UTF-8"),
        ('@charset "utf-16";', "utf-8", "nonsense", "UTF-8"),
        ("\ufeff", "utf-16-le", "utf-8", "UTF-16LE"),
    ],
)
def test_a_style_sheet_says_what_it_was_read_by(text: str, written_as: str, charset: str | None, encoding: str) -> None:
    """Byte order mark, header, @charset (CSS Syntax, 3.2): what reads it later, an export, goes by that."""
    found = requisites((text + "a{background:url(i.png)}").encode(written_as), PAGE, "text/css", charset, [], Options())
    assert found.charset == encoding
    assert [link.url for link in found.links] == ["http://example.org/dir/i.png"]


HOSTILE = {
    "blocks": "a{" * 50_000 + "url(x)",
    "functions": "url(x)" + "f(" * 50_000,
    "strings": "url('" * 50_000,
    "escapes": "\\" * 200_000,
    "urls": "a{background:url(x.png)}" * 20_000,
    "comments": "/*" * 100_000 + "url(x)",
    "quotes": "'\n" * 100_000 + "url(x)",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_css_is_read_in_bounded_time(name: str) -> None:
    began = time.process_time()
    for _ in css.urls(HOSTILE[name]):
        pass
    assert time.process_time() - began < 20, "a parser process has two seconds, on a machine of its own; this is not quadratic"


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="urlsc@import(){}'\"\\/*;: \nab.#é\ufffd\0", max_size=60))
def test_no_css_raises(text: str) -> None:
    list(css.urls(text))
    list(css.urls(text + " " * css.SHORT_CHARS + text))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=80), st.sampled_from(["text/html", "text/css"]))
def test_no_document_raises(body: bytes, mime: str) -> None:
    needs(b"<img src=" + body if mime == "text/html" else b"url(" + body, mime)
