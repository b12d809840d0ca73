"""Which rows are wanted."""

from crawler.output.filters import Filter


def test_what_has_no_tag_is_not_tagged_none():
    tagged_none = Filter(tags=frozenset({"None", "7"}))
    assert [tagged_none.wants({"tag": tag, "kind": "seed", "status": 200}) for tag in (None, "None", 7)] == [False, True, True]
