"""A body gives back what was written, from memory or disk; a page answers for its headers and decoded bytes."""

import errno
import gzip
import hashlib
import os
import resource
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crawler.core.errors import StorageError
from crawler.core.page import MEMORY_BYTES_MAX, Body, Page, content_type
from crawler.core.sniff import EXTENSIONS, sniff


def filled(tmp: Path, *chunks: bytes, memory: int = MEMORY_BYTES_MAX) -> Body:
    body = Body(tmp, memory)
    for chunk in chunks:
        body.write(chunk)
    body.seal()
    return body


@settings(max_examples=80, deadline=None)
@given(chunks=st.lists(st.binary(max_size=60), max_size=12), memory=st.integers(0, 200), n=st.integers(1, 100))
def test_what_is_written_is_given_back_with_its_digests(tmp_path_factory, chunks, memory, n) -> None:
    tmp = tmp_path_factory.mktemp("spool", numbered=True)
    body = filled(tmp, *chunks, memory=memory)
    whole = b"".join(chunks)
    assert body.size == len(whole)
    assert (body.path is None) == (len(whole) <= memory)
    assert body.memory_bytes == (len(whole) if body.path is None else 0)
    pieces = list(body.chunks(n))
    assert b"".join(pieces) == whole
    assert all(0 < len(piece) <= n for piece in pieces)
    with body.open() as file:
        assert file.read() == whole
    assert body.sha1 == hashlib.sha1(whole).digest()
    assert body.sha256 == hashlib.sha256(whole).digest()
    body.discard()
    body.discard()
    assert list(tmp.iterdir()) == []


@pytest.mark.parametrize("size", [0, 10, MEMORY_BYTES_MAX, MEMORY_BYTES_MAX + 1, 300_000])
def test_a_moved_body_is_one_file_and_survives_discard(tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    tmp = tmp_path / "tmp"
    tmp.mkdir()
    body = filled(tmp, data)
    target = tmp_path / "kept"
    target.write_bytes(b"an orphan of the same name")
    body.move(target)
    assert b"".join(body.chunks()) == data
    body.discard()
    assert target.read_bytes() == data
    assert list(tmp.iterdir()) == []


def test_an_unsealed_body_is_discarded_with_its_descriptor(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    body = Body(tmp_path)
    body.write(bytes(MEMORY_BYTES_MAX + 1))
    assert len(os.listdir("/proc/self/fd")) == before + 1
    body.discard()
    assert len(os.listdir("/proc/self/fd")) == before
    assert list(tmp_path.iterdir()) == []


def test_memory_stays_small_for_many_tiny_chunks(tmp_path: Path) -> None:
    body = Body(tmp_path)
    for _ in range(MEMORY_BYTES_MAX):
        body.write(b"x")
    assert body.path is None
    assert body._head.__sizeof__() < MEMORY_BYTES_MAX * 1.3
    body.write(b"x")
    assert body.memory_bytes == 0
    body.discard()


def test_a_failing_disk_is_a_storage_error_not_a_page(tmp_path: Path) -> None:
    body = Body(tmp_path / "missing", 0)
    with pytest.raises(StorageError) as caught:
        body.write(b"x")
    assert caught.value.errno == errno.ENOENT
    body.discard()

    full = Body(Path("/dev"), 0)
    full._fd = os.open("/dev/full", os.O_WRONLY)
    with pytest.raises(StorageError) as caught:
        full.write(b"x")
    assert caught.value.errno == errno.ENOSPC
    full.discard()


def test_no_descriptors_left_is_a_storage_error(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    body = Body(tmp_path, 0)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        with pytest.raises(StorageError) as caught:
            body.write(b"x")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert caught.value.errno == errno.EMFILE
    body.discard()


def page(body: Body, coding: str | None = None, headers=()) -> Page:
    return Page("http://a.test/", 200, "OK", "1.1", tuple(headers), b"", body, coding=coding)


def test_a_page_decodes_only_as_much_as_asked(tmp_path: Path) -> None:
    encoded = page(filled(tmp_path, gzip.compress(b"hello " * 100_000)), "gzip")
    assert encoded.decoded(11) == b"hello hello"
    assert len(encoded.decoded(1 << 20)) == 600_000
    cut = page(filled(tmp_path, gzip.compress(b"hello " * 100)[:-4]), "gzip")
    assert cut.decoded(1 << 20) == b"hello " * 100
    assert page(filled(tmp_path, b"plain")).decoded(3) == b"pla"
    assert page(filled(tmp_path, b"plain")).decoded(0) == b""


def test_headers_keep_their_bytes_and_are_found_by_any_case(tmp_path: Path) -> None:
    one = page(filled(tmp_path), headers=[(b"X-Name", b"caf\xe9"), (b"x-name", b"second")])
    assert one.header("x-NAME") == "café"
    assert one.header("x-other") is None


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["text/HTML; charset=UTF-8"], ("text/html", "utf-8")),
        (['text/html;charset="iso-8859-1"'], ("text/html", "iso-8859-1")),
        (["text/html ;foo=bar; CHARSET = koi8-r ; x"], ("text/html", "koi8-r")),
        (["text/plain", "text/html"], ("text/html", None)),
        (["text/html", "nonsense"], ("text/html", None)),
        (["a" * 500 + "/b"], (None, None)),
        (["text/html/x", "te xt/html"], (None, None)),
        (["text/HTML charset=gbk"], ("text/html", None)),
        (["text/html (charset=gbk); charset=utf-8"], ("text/html", "utf-8")),
        ([" ; charset=gbk", ""], (None, None)),
        ([], (None, None)),
        (["text/html; charset=" + "u" * 500], ("text/html", None)),
        (["text/html, text/html; charset=utf-8"], ("text/html", "utf-8")),
        (["text/html;charset=gbk, text/html"], ("text/html", "gbk")),
        (["text/html;charset=gbk", "text/html"], ("text/html", "gbk")),
        (["text/html;charset=gbk", "text/plain"], ("text/plain", None)),
        (["text/html;charset=gbk", "x/y", "text/html"], ("text/html", None)),
        (['text/html; x=", text/plain"; charset=utf-8,'], ("text/html", "utf-8")),
        (['text/html; x="a\\", text/plain'], ("text/html", None)),
        (["text/html", "*/*"], ("text/html", None)),
        (['text/html; x="a; charset=gbk; b"'], ("text/html", None)),
        (['text/html; x="\\"; charset=gbk;"; charset="utf-8"'], ("text/html", "utf-8")),
        (['text/html; charset="utf-8'], ("text/html", "utf-8")),
        (["text/html; charset=; charset=utf-8; charset=gbk"], ("text/html", "utf-8")),
    ],
)
def test_the_content_type_is_the_last_valid_one(values: list[str], expected: tuple[str | None, str | None]) -> None:
    """https://fetch.spec.whatwg.org/#concept-header-extract-mime-type, also of fields that a proxy has joined by commas."""
    assert content_type(values) == expected


@pytest.mark.parametrize(
    ("data", "mime", "kind"),
    [
        (b"<!doctype html><p>", "image/png", "text/html"),
        (b"  \n<HTML>", None, "text/html"),
        (b"\xef\xbb\xbf<html lang=en>", None, "text/html"),
        ("<html>".encode("utf-16"), "text/html", "text/html"),
        (b"<!-- x --><html>", None, "text/html"),
        (b"<htmlish>", None, "text/plain"),
        (b"hello <p>", "text/html", "text/html"),
        (b'<?xml version="1.0"?><html xmlns="http://www.w3.org/1999/xhtml">', "text/xml", "application/xhtml+xml"),
        (b'<?xml version="1.0"?>\n<!-- c --><x:svg xmlns:x="">', None, "image/svg+xml"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'>", "text/html", "image/svg+xml"),
        (b"<?xml version='1.0'?><rss>", None, "application/rss+xml"),
        (b"<?xml version='1.0'?><urlset>", None, "text/xml"),
        (b"%PDF-1.7", "text/html", "application/pdf"),
        (b"\x89PNG\r\n\x1a\n....", "text/html", "image/png"),
        (b"\xff\xd8\xff\xe0", None, "image/jpeg"),
        (b"GIF89a", None, "image/gif"),
        (b"RIFF\x01\x02\x03\x04WEBPVP8 ", None, "image/webp"),
        (b"XXXX\x01\x02\x03\x04WEBPVP8 ", None, None),
        (b"PK\x03\x04", None, "application/zip"),
        (b"\x1f\x8b\x08\x00", None, "application/gzip"),
        (b"BMW is a maker of cars", "text/plain", "text/plain"),
        (b"OTTO is a name", "text/plain", "text/plain"),
        (b"ID3 tags hold titles", "text/html", "text/html"),
        (b"BZh begins a file of bzip2", None, "text/plain"),
        (b"OTTO\0\x0a", "text/plain", "font/otf"),
        (b"ID3\3\0", None, "audio/mpeg"),
        (b"<!-- made by x --><rss version='2.0'>", "text/plain", "application/rss+xml"),
        (b"<!-- x -->\n<svg xmlns='http://www.w3.org/2000/svg'/>", None, "image/svg+xml"),
        (b"<!-- x -->\n<urlset>", "application/xml", "text/xml"),
        (b"<!--\nbody { color: red }\n-->", "text/css", "text/css"),
        (b"<!--\nlet x = 1\n//-->", "text/javascript", "text/javascript"),
        (b"<!--\nlet x = 1\n//-->", "text/plain", "text/html"),
        (b"<!-- no end <rss>", "text/html", "text/html"),
        (b"<?xml version='1.0'?><!-- <html> --><feed>", None, "application/atom+xml"),
        (b'{"a": 1}', None, "application/json"),
        (b'{"a": 1}', "application/ld+json", "application/json"),
        (b"body { color: red }", "text/css", "text/css"),
        (b"let x = 1", "application/javascript", "text/javascript"),
        (b"let x = 1", "evil/../../type", "text/plain"),
        (b"\0\1\2\3\4\5", "text/html", None),
        (b"", "text/html", None),
    ],
)
def test_the_kind_of_a_body_is_told_by_its_bytes(data: bytes, mime: str | None, kind: str | None) -> None:
    assert sniff(data, mime) == kind


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300), st.none() | st.text(max_size=20))
def test_the_kinds_are_a_closed_table(data: bytes, mime: str | None) -> None:
    assert sniff(data, mime) in {None, *EXTENSIONS}
