"""What is typed as a URL and is none."""

from pathlib import Path

import pytest

from crawler.cli.named_urls import check_urls


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("example.org", "crawler run https://example.org"),
        ("www.example.org/a?b=1#c", "crawler run 'https://www.example.org/a?b=1#c'"),
        ("localhost:8000", "crawler run https://localhost:8000"),
        ("127.0.0.1/x", "crawler run https://127.0.0.1/x"),
        ("[::1]:8000/", "crawler run 'https://[::1]:8000/'"),
        ("urls.txt", "is a file, not a URL: to read the URLs in it: crawler run -i urls.txt"),
        ("my urls", "crawler run -i 'my urls'"),
        ("folder", "is a directory, not a URL: to go on with the crawl in it: crawler run -o folder"),
        ("missing.csv.gz", "no such file: a list is named with -i FILE"),
        ("-", "to read a list from standard input: crawler run -i -"),
        ("ftp://example.org/", "only http and https"),
        ("http://", "write each URL whole"),
        ('"http://example.org/"', "a line holds one URL"),
        ("http://example.org/\thttp://example.com/", "a line holds one URL"),
        ("x" * 5000, "not a URL"),
        ("", "an empty text is no URL"),
    ],
)
def test_what_is_typed_as_a_url_and_is_none_is_told_with_what_to_type(
    typed: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("urls.txt", "my urls"):
        Path(name).write_text("http://a.example/\n")
    Path("folder").mkdir()
    [fault] = check_urls(["http://a.example/", typed, "https://b.example"])
    assert said in fault and typed[:20] in fault
    [of_add] = check_urls([typed], command="crawler add")
    assert "crawler run" not in of_add and "crawler add -o" not in of_add, "which there is not"
    assert " -o " in said or said.replace("crawler run", "crawler add") in of_add


def test_no_password_is_repeated_to_who_typed_it() -> None:
    for typed in ("http://me:secret@ a/", "me:secret@example.org", "ftp://me:secret@example.org/"):
        assert "secret" not in check_urls([typed])[0]
