"""Lists of URLs: every line once, in bounded memory, continued only where they still begin with what was read."""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crawler.core.errors import ConfigError, StorageError
from crawler.core.model import Input, Link
from crawler.core.urls import UrlRules, parse
from crawler.parse.seed_files import BLOCK_BYTES, check, zstd
from crawler.parse.seed_lines import EXTRA_BYTES_MAX, LEFT_OUT, WHAT_TO_DO, LineFault
from crawler.parse.seeds import CHUNK_LINES_MAX, LINE_BYTES_MAX, Chunk, Lines, lines_read, read


def gather(chunks: Iterator[Chunk]) -> tuple[list[Link], list[LineFault], bytes]:
    """All links, all faults, the last position."""
    links: list[Link] = []
    faults: list[LineFault] = []
    position = b""
    for chunk in chunks:
        assert len(chunk.links) + len(chunk.faults) <= CHUNK_LINES_MAX
        links += chunk.links
        faults += chunk.faults
        position = chunk.position[1]
    return links, faults, position


def written(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    return str(path)


def many(first: int, count: int) -> bytes:
    return b"".join(b"http://h%d.example/p/%d\n" % (i % 7, i) for i in range(first, first + count))


def test_a_list_with_everything_in_it(tmp_path: Path) -> None:
    lines = [
        b"\xef\xbb\xbfhttp://a.example/",
        b"# a comment",
        b"",
        b"  http://B.example:80/x#y \r",
        b"not a url",
        b"ftp://c.example/",
        b"http://d.example/\xff",
        b"http://me:secret@e.example/",
        b"http://me:secret@[broken/",
        b'{"url": "http://f.example", "tag": "t", "depth": 2, "priority": 9, "id": [1]}',
        b'{"url": 7}',
        b'{"url": "http://me:secret@g.example", ',
        b'{"url": "ftp://x/", "tag": "t"}',
        b'{"url": "http://h.example/", "priority": 0}',
        b"http://i.example/" + b"x" * 3000,
        b"http://z.example/",
    ]
    path = written(tmp_path / "list", b"\n".join(lines))
    links, faults, _ = gather(read([path]))

    def at(line: int) -> Input:
        return Input(path, line)

    assert links == [
        Link("http://a.example/", "a.example", input=at(1)),
        Link("http://b.example/x", "b.example", given="http://B.example:80/x#y", input=at(4)),
        Link("http://e.example/", "e.example", given="http://***@e.example/", input=at(8)),
        Link(
            "http://f.example/",
            "f.example",
            depth=2,
            priority=9,
            given="http://f.example",
            input=at(10),
            tag="t",
            extra='{"id":[1]}',
        ),
        Link("http://z.example/", "z.example", input=at(16)),
    ]
    assert faults == [
        (at(5), "not a url", "syntax", None),
        (at(6), "ftp://c.example/", "scheme", None),
        (at(7), "http://d.example/\ufffd", "encoding", None),
        (at(9), "http://***@[broken/", "syntax", None),
        (at(11), '{"url": 7}', "json", None),
        (at(12), '{"url": "http://***@g.example",', "json", None),
        (at(13), "ftp://x/", "scheme", "t"),
        (at(14), '{"url": "http://h.example/", "priority": 0}', "json", None),
        (at(15), "http://i.example/" + "x" * 3000, "too_long", None),
    ]


def test_what_a_table_left_empty_is_as_if_not_given(tmp_path: Path) -> None:
    """pandas and databases write it as null."""
    path = written(tmp_path / "list", b'{"url": "http://a.example/", "tag": null, "depth": null, "priority": null, "id": null}')
    links, faults, _ = gather(read([path]))
    assert links == [Link("http://a.example/", "a.example", input=Input(path, 1), extra='{"id":null}')] and not faults


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (rb'{"url":"http:\/\/me:secret@a.example\/","tag":true}', r'{"url":"http:\/\/***@a.example\/","tag":true}'),
        (b"http://a.example/,http://me:secret@b.example/", "http://a.example/,http://***@b.example/"),
        (b"http://me:secret@a.example/ https://you:secret@b.example/", "http://***@a.example/ https://***@b.example/"),
        (b"http:/me:secret@a.example/\xff", "http:/***@a.example/\ufffd"),
        (b"http:\\\\me:secret@a.example/\xff", "http:\\\\***@a.example/\ufffd"),
        (b"http:\\\\me:secret@a.example/" + b"x" * LINE_BYTES_MAX, None),
    ],
)
def test_credentials_in_a_line_that_is_no_url_are_shown_nowhere(line: bytes, shown: str | None, tmp_path: Path) -> None:
    links, ((_, text, _, _),), _ = gather(read([written(tmp_path / "list", line)]))
    assert not links and "secret" not in text and (shown is None or text == shown)


@pytest.mark.parametrize(
    "line", [b"[" * 60_000, b'{"url":' + b"[" * 60_000, b'{"url": "\\ud800"}', b"{", b'{"url": null}', b"\x00"]
)
def test_hostile_lines_are_faults(line: bytes, tmp_path: Path) -> None:
    links, faults, _ = gather(read([written(tmp_path / "list", line + b"\nhttp://a.example/\n")]))
    assert len(faults) == 1
    assert [link.input and link.input.line for link in links] == [2]
    json.dumps(faults[0][1]).encode()


MORE = [
    "http://a.example/\tTitle",
    "http://a.example/\t200\t2024-01-01",
    "17\thttp://a.example/",
    "http://a.example/\vx",
    "http://a.example/,http://b.example/",
    "http://a.example/;HTTPS://b.example/",
    "http://a.example/|http://b.example/",
    "http://a.example/ http://b.example/",
    'http://a.example/ "http://b.example/"',
    "http://a.example/?q=1 https://b.example/",
    "http://a.example/   Title",
    "http://a.example/ # the first",
    "http://a.example/ - Title",
    "http://a.example/ | Title",
    '"http://a.example/","Title, with comma"',
    'http://a.example/,"Title"',
    '"http://a.example/";17',
    "17,http://a.example/",
    '"http://a.example/"',
    "'http://a.example/'",
    "<http://a.example/>",
    '<a href="http://a.example/">x</a>',
    "[Title](http://a.example/)",
    "- http://a.example/",
    "* https://a.example/",
    "1. http://a.example/",
    "(http://a.example/)",
    "URL: http://a.example/",
    "url=http://a.example/",
    '["http://a.example/"]',
    "url,title",
    "id;url",
    "URL\tTitle",
    "page url, first seen",
]
ALONE = [
    "http://a.example/my page.html",
    "http://a.example/a,b;c|d",
    "http://a.example/?u=http://b.example/",
    "http://a.example/?u=x,http://b.example/",
    "http://web.archive.example/2020/http://b.example/",
    "http://a.example/filters:watermark(http://b.example/x.png,10)/y",
    "http://a.example/it's,'so'",
    "http://a.example/Foo_(bar)",
    "http://a.example/#a - b",
    "http://a.example/;v=1",
    "\u00a0http://a.example/\u2003",
    "\ufeffhttp://a.example/\u200b",
]


@pytest.mark.parametrize("line", MORE)
def test_a_line_that_holds_more_than_a_url_is_told_and_not_fetched_as_one(line: str) -> None:
    """Tables, quotes, brackets, list marks: the parser of URLs would make one URL of many of them."""
    links, faults, _ = gather(fed(f"{line}\nhttp://z.example/\n".encode()))
    assert [(fault[0].line, fault[1], fault[2]) for fault in faults] == [(1, line, "more_than_url")]
    assert [link.url for link in links] == ["http://z.example/"]


@pytest.mark.parametrize("line", ALONE)
def test_a_url_with_unusual_characters_is_one_all_the_same(line: str) -> None:
    links, faults, _ = gather(fed(line.encode()))
    assert not faults and len(links) == 1
    assert links[0].url.startswith("http://") and not links[0].url.endswith(("%E2%80%8B", "%C2%A0"))


@given(
    url=st.from_regex(r"https?://[a-z]{1,9}\.example/[A-Za-z0-9/._~-]{0,20}(\?[a-z]{1,5}=[A-Za-z0-9,;|]{0,5})?", fullmatch=True),
    text=st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20),
    turned=st.booleans(),
)
def test_no_column_beside_a_tab_ever_reaches_a_url(url: str, text: str, turned: bool) -> None:
    line = f"{text}\t{url}" if turned else f"{url}\t{text}"
    links, _faults, _ = gather(fed(line.encode()))
    assert {link.url for link in links} <= {parse(url).href}, "alone, where the other column is blank"
    assert not text.strip("\u00a0 \ufeff\u200b\u200e\u200f").strip() or text.lstrip().startswith("#") or not links


@pytest.mark.parametrize(
    "line", ['{"url": "http://a.example/\\thttp://b.example/", "tag": 5}', '{"url": "a\\thttp://b/", "tag": 5}']
)
def test_a_url_within_json_is_held_to_the_same(line: str) -> None:
    _, [(_, _, reason, tag)], _ = gather(fed(line.encode()))
    assert (reason, tag) == ("more_than_url", 5)


def test_lists_laid_one_behind_the_other_may_each_begin_with_a_mark() -> None:
    data = b"\xef\xbb\xbf# first\nhttp://a.example/\n\xef\xbb\xbf# second\n\xef\xbb\xbf\n\xef\xbb\xbfhttp://b.example/\n"
    links, faults, _ = gather(fed(data))
    assert not faults and [(link.url, link.input.line) for link in links if link.input] == [
        ("http://a.example/", 2),
        ("http://b.example/", 5),
    ]


@pytest.mark.parametrize("coding", ["utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("packed", [False, True])
def test_a_list_in_utf_16_is_refused_whole_and_told_how_to_save_it(coding: str, packed: bool, tmp_path: Path) -> None:
    data = "http://a.example/\nhttp://b.example/ä\n".encode(coding)
    path = written(tmp_path / "list", gzip.compress(data) if packed else data)
    with pytest.raises(ConfigError, match=r"list: it is UTF-16; save it as UTF-8"):
        list(read([path]))


def fed(data: bytes) -> Iterator[Chunk]:
    lines = Lines("list", UrlRules())
    yield from lines.feed(data)
    yield from lines.finish()


@pytest.mark.parametrize(
    ("written_as", "tag"),
    [
        ("5", 5),
        ("0", 0),
        ("-7", -7),
        ("5.5", 5.5),
        ("1e3", 1000.0),
        ('"5"', "5"),
        ('"x"', "x"),
        ("null", "mine"),
        ('""', "mine"),
        (str(1 << 64), str(1 << 64)),
        (str((1 << 64) - 1), (1 << 64) - 1),
        (str(-(1 << 63)), -(1 << 63)),
        (str(-(1 << 70)), str(-(1 << 70))),
    ],
)
def test_a_tag_is_text_or_a_number_and_comes_back_as_it_was(written_as: str, tag: object) -> None:
    lines = Lines("list", UrlRules(), tag="mine")
    [chunk] = lines.feed(f'{{"url": "http://a.example/", "tag": {written_as}}}\n'.encode())
    [link] = chunk.links
    assert link.tag == tag and type(link.tag) is type(tag)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(link), type=Link) == link
    orjson.dumps(link.tag)


@pytest.mark.parametrize("written_as", ["true", "[1]", '{"a": 1}', '"' + "x" * 257 + '"', "1e999", "NaN"])
def test_what_is_no_tag_is_a_fault(written_as: str) -> None:
    links, faults, _ = gather(fed(f'{{"url": "http://a.example/", "tag": {written_as}}}\n'.encode()))
    assert not links and faults[0][2] == "json"


keys = st.text(st.characters(exclude_categories=["Cs"]), max_size=30).filter(
    lambda key: key not in ("url", "tag", "depth", "priority")
)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
)


@given(st.dictionaries(keys, values, max_size=8), st.booleans(), st.booleans())
def test_other_keys_come_back_whole_as_far_as_they_have_room(more: dict[str, object], escaped: bool, good: bool) -> None:
    """In their order, as one object of at most a KiB; and those that have no room are counted."""
    url = "http://a.example/" if good else "no url"
    line = json.dumps({"url": url, **more}, ensure_ascii=escaped)
    [chunk] = fed(line.encode())
    extra = chunk.links[0].extra if good else chunk.extras.get(Input("list", 1))
    if extra is None:
        assert not more
        return
    assert len(extra.encode()) <= EXTRA_BYTES_MAX
    orjson.dumps({"extra": orjson.Fragment(extra)})
    found = json.loads(extra)
    left_out = found.pop(LEFT_OUT, 0) if LEFT_OUT not in more else 0
    assert list(found) == [key for key in more if key in found]
    assert found == {key: more[key] for key in found}
    assert left_out == len(more) - len(found)
    assert left_out == 0 or len(line) > EXTRA_BYTES_MAX // 2


def test_what_no_row_could_hold_is_left_out_and_counted() -> None:
    deep = "[" * 300 + "]" * 300
    [chunk] = fed(f'{{"url": "http://a.example/", "deep": {deep}, "id": 17, "long": "{"x" * 2000}"}}'.encode())
    assert chunk.links[0].extra == '{"id":17,"...":2}'


@pytest.mark.parametrize("length", [LINE_BYTES_MAX - 1, LINE_BYTES_MAX, LINE_BYTES_MAX + 1, 200_000])
@pytest.mark.parametrize("end", [b"", b"\n", b"\r\nhttp://b.example/\n"])
def test_a_line_too_long_is_one_fault_however_long(length: int, end: bytes, tmp_path: Path) -> None:
    line = b"http://u:pw@a.example/" + b"x" * (length - 22)
    links, faults, _ = gather(read([written(tmp_path / "list", line + end)]))
    assert [(fault[0].line, fault[2]) for fault in faults] == [(1, "too_long")]
    assert "pw" not in faults[0][1]
    assert [link.input and link.input.line for link in links] == ([2] if b"b.example" in end else [])


def test_memory_does_not_grow_with_the_list_nor_with_a_line(tmp_path: Path) -> None:
    """200,000 lines and then one line of 100 MB, from a zstd list of a few KiB: the reader's peak stays where it was."""
    script = """if True:
        import resource, sys
        from crawler.parse.seeds import read
        peaks, lines = [], 0
        for chunk in read([sys.argv[1]]):
            lines += len(chunk.links) + len(chunk.faults)
            if not peaks and lines > 10_000:
                peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        print(lines, *peaks)
    """
    path = tmp_path / "list.zst"
    with zstd.open(path, "wb") as file:
        for _ in range(20):
            file.write(many(0, 10_000))
        for _ in range(100):
            file.write(b"x" * 1_000_000)
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
    lines, before, after = map(int, done.stdout.split())
    assert lines == 200_001
    assert after - before < 4 << 10, "KiB"


@pytest.mark.parametrize("kind", ["plain", "gzip", "gzip members", "zstd", "zstd frames", "zstd behind a frame to be skipped"])
def test_lists_may_be_compressed_whatever_their_name(kind: str, tmp_path: Path) -> None:
    first, second = many(0, 3000), many(3000, 3000)
    data = {
        "plain": lambda: first + second,
        "gzip": lambda: gzip.compress(first + second),
        "gzip members": lambda: gzip.compress(first) + gzip.compress(second),
        "zstd": lambda: zstd.compress(first + second),
        "zstd frames": lambda: zstd.compress(first) + zstd.compress(second),
        "zstd behind a frame to be skipped": lambda: b"\x50\x2a\x4d\x18\4\0\0\0size" + zstd.compress(first + second),
    }[kind]()
    path = written(tmp_path / "list.txt", data)
    links, faults, position = gather(read([path]))
    assert [link.url for link in links] == many(0, 6000).decode().split()
    assert not faults
    chunks = list(read([path]))
    links, _, _ = gather(read([path], positions={path: chunks[1].position[1]}))
    assert [link.url for link in links] == many(0, 6000).decode().split()[sum(len(chunk.links) for chunk in chunks[:2]) :]
    assert gather(read([path], positions={path: position})) == ([], [], b"")


TEXT = st.lists(
    st.sampled_from(["http://a/", "http://b/", "x", "#c", "", "\r", '{"url":"http://j/"}', "y" * 70_000, "é" * 40, "\ufeff"]),
    max_size=15,
)


@settings(max_examples=100, deadline=None)
@given(
    lines=TEXT, tail=TEXT, pieces=st.lists(st.integers(1, 90_000), min_size=1, max_size=12), ends=st.booleans(), data=st.data()
)
def test_wherever_it_is_cut_each_line_comes_once(
    lines: list[str], tail: list[str], pieces: list[int], ends: bool, data: st.DataObject
) -> None:
    """Fed in any pieces, left at any chunk, continued with a longer list: the same links and faults as in one go."""
    begun = "\n".join(lines).encode() + (b"\n" if ends else b"")
    whole = begun + (b"" if ends else b"\n") + "\n".join(tail).encode()

    def fed(content: bytes, position: bytes | None = None) -> Iterator[Chunk]:
        reader = Lines("list", UrlRules(), position)
        start, turn = 0, 0
        while start < len(content):
            yield from reader.feed(content[start : start + pieces[turn % len(pieces)]])
            start, turn = start + pieces[turn % len(pieces)], turn + 1
        yield from reader.finish()

    chunks = list(fed(begun))
    kept = chunks[: data.draw(st.integers(0, len(chunks)))]
    links, faults, position = gather(iter(kept))
    more_links, more_faults, _ = gather(fed(whole, position or None))
    expected = Lines("list", UrlRules())
    wanted = gather(iter([*expected.feed(whole), *expected.finish()]))
    assert (links + more_links, faults + more_faults) == wanted[:2]


def test_a_list_that_changed_before_the_position_is_refused_and_named(tmp_path: Path) -> None:
    path = written(tmp_path / "list", many(0, 2500))
    position = list(read([path]))[1].position[1]
    for data, why in [
        (many(1, 2500), "changed"),
        (many(0, 10), "shorter"),
        (b"", "shorter"),
        (many(0, 2500).replace(b"p/17\n", b"p/18\n", 1), "changed"),
    ]:
        written(tmp_path / "list", data)
        with pytest.raises(ConfigError, match=why) as refused:
            list(read([path], positions={path: position}))
        assert path in str(refused.value)


@pytest.mark.parametrize("more", [b"oo\n", b"oo", b"\roo\n", b"x" * 200_000])
def test_a_last_line_that_went_on_is_a_changed_list(more: bytes, tmp_path: Path) -> None:
    path = written(tmp_path / "list", b"http://a/\nhttp://b/f")
    *_, last = read([path])
    written(tmp_path / "list", b"http://a/\nhttp://b/f" + more)
    with pytest.raises(ConfigError, match="changed"):
        list(read([path], positions={path: last.position[1]}))


def test_a_list_is_continued_where_another_has_left_it_if_it_is_the_same(tmp_path: Path) -> None:
    path = written(tmp_path / "list", many(0, 3500))
    chunks = list(read([path]))
    written(tmp_path / "list", many(1, 3500))
    stranger = list(read([path]))[3].position[1]
    written(tmp_path / "list", many(0, 3500))

    def lines_after(*lost: bytes) -> list[int]:
        return [link.input.line for chunk in read([path], lost={path: lost}) for link in chunk.links]

    first, third = chunks[0].position[1], chunks[2].position[1]
    assert lines_after(first, third, stranger) == list(range(lines_read(third) + 1, 3501))
    assert lines_after(stranger) == list(range(1, 3501))
    assert lines_after(chunks[-1].position[1]) == []
    own = read([path], positions={path: first}, lost={path: [third]})
    assert next(own).links[0].input.line == lines_read(first) + 1, "an own position holds"


def test_standard_input_is_read_as_it_comes_and_passed_over_on_resume() -> None:
    """A pipe that is slow: its lines do not wait for a full block. A pipe cannot seek: it is read again up to the position."""
    receiving, sending = os.pipe()
    with os.fdopen(receiving, "rb") as stdin, os.fdopen(sending, "wb", buffering=0) as pipe:
        chunks = read(["-"], stdin=stdin)
        pipe.write(b"http://a.example/\nhttp://b.ex")
        first = next(chunks)
        assert [link.url for link in first.links] == ["http://a.example/"]
        pipe.write(b"ample/\n")
        assert [link.input for link in next(chunks).links] == [Input("-", 2)]
        pipe.close()
        assert list(chunks) == []
    links, _, position = gather(
        read(["-"], positions={"-": first.position[1]}, stdin=io.BytesIO(b"http://a.example/\nhttp://b.example/"))
    )
    assert [link.input for link in links] == [Input("-", 2)]
    with pytest.raises(ConfigError, match=r"standard input.*changed"):
        list(read(["-"], positions={"-": position}, stdin=io.BytesIO(b"http://a.example/\nhttp://c.example/")))


def test_a_compressed_pipe() -> None:
    receiving, sending = os.pipe()
    data = gzip.compress(many(0, 20_000))

    def slowly() -> None:
        with os.fdopen(sending, "wb", buffering=0) as pipe:
            pipe.write(data[:1])
            for start in range(1, len(data), 10_000):
                pipe.write(data[start : start + 10_000])

    thread = threading.Thread(target=slowly)
    thread.start()
    with os.fdopen(receiving, "rb") as stdin:
        assert len(gather(read(["-"], stdin=stdin))[0]) == 20_000
    thread.join()


wide = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: 27})


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (gzip.compress(many(0, 50_000))[:-20_000], "after line"),
        (gzip.compress(many(0, 50_000))[:-8] + b"\0" * 8, "after line"),
        (gzip.compress(many(0, 50_000)) + b"rubbish", "after line"),
        (zstd.compress(many(0, 50_000))[:-1000], "after line"),
        (wide.compress(many(0, 10)) + wide.flush(), "too much memory"),
        (b"\x1f\x8bno gzip at all", "list"),
        (b"BZh91AY", "bzip2"),
        ("http://a.example/".encode("utf-16"), "UTF-16"),
    ],
    ids=["cut gzip", "bad checksum", "rubbish behind", "cut zstd", "wide window", "no gzip", "bzip2", "utf-16"],
)
def test_a_list_that_cannot_be_read_to_its_end_says_how_far_it_came(content: bytes, says: str, tmp_path: Path) -> None:
    """What was read before stands, and the repaired list goes on behind it."""
    path = written(tmp_path / "list", content)
    links: list[Link] = []
    position = None
    with pytest.raises(ConfigError, match=says) as refused:
        for chunk in read([path]):
            links += chunk.links
            position = chunk.position[1]
    assert path in str(refused.value)
    assert "same command" not in str(refused.value), "with --fresh it begins anew"
    if position is not None:
        assert f"after line {len(links)}" in str(refused.value)
        written(tmp_path / "list", many(0, 60_000))
        assert len(gather(read([path], positions={path: position}))[0]) == 60_000 - len(links)


def test_lists_that_are_not_there_are_named_before_the_crawl(tmp_path: Path) -> None:
    there = written(tmp_path / "there", b"http://a/\n")
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    faults = check([there, "-", str(fifo), str(tmp_path / "none"), str(tmp_path), "nul\0"])
    assert [fault.split(": ")[0] for fault in faults] == [f"list {tmp_path / 'none'}", f"list {tmp_path}", "list nul\0"]
    with pytest.raises(ConfigError, match="No such file"):
        list(read([str(tmp_path / "none")]))


def test_no_descriptors_left_is_not_the_lists_fault(tmp_path: Path) -> None:
    script = """if True:
        import resource, sys
        from crawler.parse.seeds import read
        from crawler.core.errors import StorageError
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
        try:
            list(read([sys.argv[1]]))
        except StorageError as error:
            print(error.errno)
    """
    path = written(tmp_path / "list", b"http://a/\n")
    done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=True)
    assert done.stdout == "24\n"
    assert issubclass(StorageError, Exception)


def test_the_command_line_is_a_list_too(tmp_path: Path) -> None:
    urls = ["http://a.example", "# no comment here", "", "http://me:pw@b.example/", "http://c.example/\udcff"]
    links, faults, position = gather(read([], urls))
    assert [(link.url, link.given, link.input) for link in links] == [
        ("http://a.example/", "http://a.example", Input("argv", 1)),
        ("http://b.example/", "http://***@b.example/", Input("argv", 4)),
    ]
    assert [(fault[0].line, fault[1], fault[2]) for fault in faults] == [
        (2, "# no comment here", "syntax"),
        (3, "", "syntax"),
        (5, "http://c.example/?", "encoding"),
    ]
    assert list(read([], urls, {"argv": position})) == []
    links, _, _ = gather(read([], [*urls, "http://d.example/"], {"argv": position}))
    assert [link.input for link in links] == [Input("argv", 6)]
    with pytest.raises(ConfigError, match="command line"):
        list(read([], urls[::-1], {"argv": position}))
    assert len(gather(read([], ["http://a/"] * 2500))[0]) == 2500


def test_several_lists_are_read_in_their_order_and_each_once(tmp_path: Path) -> None:
    one, two = written(tmp_path / "1", b"http://a/\n"), written(tmp_path / "2", b"http://b/\n")
    chunks = list(read([two, one, two], ["http://c/"]))
    assert [chunk.position[0] for chunk in chunks] == ["argv", two, one]
    assert [chunk.links[0].url for chunk in chunks] == ["http://c/", "http://b/", "http://a/"]


def test_the_crawls_rules_hold_for_seeds(tmp_path: Path) -> None:
    path = written(tmp_path / "list", b"http://a/?utm_source=x&b=1\nhttp://a/" + b"x" * 40)
    links, faults, _ = gather(read([path], rules=UrlRules(max_bytes=30, drop_params=("utm_*",))))
    assert [link.url for link in links] == ["http://a/?b=1"]
    assert faults[0][2] == "too_long"


def test_passing_over_a_list_keeps_no_lines(tmp_path: Path) -> None:
    """A million known lines are hashed, not parsed: no chunk, and hardly more reads than blocks."""
    data = many(0, 300_000)
    path = written(tmp_path / "list", data)
    position = gather(read([path]))[2]
    reader = Lines(path, UrlRules(), position)
    for start in range(0, len(data), BLOCK_BYTES):
        assert list(reader.feed(data[start : start + BLOCK_BYTES])) == []
    assert list(reader.finish()) == []
    assert reader.line == 300_000


def test_how_far_a_source_was_read_is_in_its_position() -> None:
    chunks = list(read([], ["http://a.example/", "no url", "http://b.example/"]))
    assert [lines_read(chunk.position[1]) for chunk in chunks] == [3] and lines_read(None) == 0


def test_for_every_reason_of_an_invalid_line_it_is_said_what_to_do() -> None:
    from crawler.core.errors import REASONS

    assert set(REASONS["invalid_url"]) == WHAT_TO_DO.keys()
