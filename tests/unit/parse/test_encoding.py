"""Texts in any encoding, decoded piece by piece as by the standard's own tables."""

import codecs
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from turbohtml import detect  # registers the codecs

from crawler.parse.encoding import decoder_of, name_of, read_text

assert detect

LABELS = ["big5", "euc-jp", "euc-kr", "gb18030", "gbk", "iso-2022-jp", "koi8-u", "shift_jis", "windows-874", "x-user-defined"]
JAPANESE = b'\x1b$B-!$"\x1b(I1\x1b(B <a href=/x>\n\x1b(J\\~\x1b(B\n\x1b$B0l\n$"\x1b(B.'


@pytest.mark.parametrize("size", range(1, len(JAPANESE) + 1))
def test_sequences_that_switch_the_character_set_hold_over_pieces(size):
    """As in ISO-2022-JP, whose rows of marks and half-width letters Python's own codec does not have."""
    decode = decoder_of("ISO-2022-JP")
    pieces = [decode(JAPANESE[at : at + size], False) for at in range(0, len(JAPANESE), size)]
    assert "".join(pieces) + decode(b"", True) == "\u2460\u3042\uff71 <a href=/x>\n\xa5\u203e\n\u4e00\ufffd\u3042."


@given(
    data=st.lists(st.sampled_from([b"\x1b$B", b"\x1b(I", b"\x1b$", b"\x1b", b"\x81", b"\xff", b"$", b"a", b"/", b"\n"])),
    at=st.integers(0, 20),
)
@pytest.mark.parametrize("label", LABELS)
def test_no_bytes_raise_and_pieces_are_as_the_whole(label, data, at):
    name, data = name_of(label), b"".join(data)
    assert name is not None
    decode = decoder_of(name)
    whole = codecs.lookup(f"whatwg-{label}").decode(data)[0]
    text = decode(data[:at], False) + decode(data[at:], True)
    assert text == whole
    assert "".join(read_text(io.BytesIO(data), "text/html", label)[1]) == whole
