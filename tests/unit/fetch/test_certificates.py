"""A certificate's names against a host's, where OpenSSL's own check cannot be relied on (RFC 9525 6.3)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crawler.fetch.certificates import is_odd, matches, names

WILD = ["*.wild.test", "exact_name.test"]


@pytest.mark.parametrize(
    "name", ["a_b.wild.test", "A_B.Wild.Test", "_.wild.test", "a_b.wild.test.", "exact_name.test", "x.wild.test"]
)
def test_a_wildcard_stands_for_one_whole_label_whatever_is_in_it(name):
    assert matches(name, WILD)


@pytest.mark.parametrize(
    ("name", "presented"),
    [
        ("a_b.c.wild.test", WILD),
        ("wild.test", WILD),
        (".wild.test", WILD),
        ("a_bwild.test", WILD),
        ("a_b.wild.test.evil.test", WILD),
        ("a_b.test", ["*.test"]),
        ("a_b.wild.test", ["a*.wild.test", "*b.wild.test", "*.*.test", "a_*.wild.test", "*", "", "."]),
        ("a_b.wild.test", []),
    ],
)
def test_nothing_else_is_matched(name, presented):
    assert not matches(name, presented)


def test_the_names_of_a_certificate():
    certificate = {"subject": ((("commonName", "cn.test"),),), "subjectAltName": (("DNS", "*.wild.test"), ("IP Address", "::1"))}
    assert names(certificate) == ["*.wild.test"]
    assert names(None) == names({}) == []


labels = st.text("ab_-*", min_size=1, max_size=3)


@given(st.lists(labels, min_size=1, max_size=4), st.lists(labels, min_size=1, max_size=4))
def test_against_the_rule_label_by_label(name, pattern):
    same = [label.lower() for label in name] == pattern
    wild = pattern[0] == "*" and len(pattern) == len(name) > 2 and pattern[1:] == name[1:]
    assert matches(".".join(name), [".".join(pattern)]) == (same or wild)


def test_which_names_are_checked_here():
    assert is_odd("a_b.test") and not is_odd("a-b.test")
