"""What errors say, and which of them are this machine's."""

import errno

import pytest

from crawler.core.errors import StorageError, lack_of


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.EMFILE, "ulimit -n"),
        (errno.ENOMEM, "ulimit -v"),
        (errno.EFBIG, "ulimit -f"),
        (errno.EIO, "dmesg"),
        (errno.EROFS, "mount"),
        (errno.ENOBUFS, "tcp_mem"),
        (errno.EADDRNOTAVAIL, "ip_local_port_range"),
    ],
)
def test_a_lack_is_told_with_what_to_do_and_once(number, advice):
    first = StorageError("crawl.toml: no more", errno=number)
    again = StorageError(str(first), errno=number)  # as it comes from another process
    assert str(again) == str(first) and str(first).startswith("crawl.toml: no more: ") and str(first).count(advice) == 1
    assert "same command" not in str(first), "with --fresh it begins anew"
    assert str(StorageError("damaged", errno=errno.ENOSPC)) == "damaged"


@pytest.mark.parametrize(
    ("said", "number"),
    [
        ("failed to map segment from shared object", errno.ENOMEM),
        ("cannot read file data: Cannot allocate memory", errno.ENOMEM),
        ("cannot open shared object file: Too many open files", errno.EMFILE),
        ("cannot open shared object file: Too many open files in system", errno.ENFILE),
    ],
)
def test_a_library_that_finds_nothing_to_be_loaded_with_is_no_fault_of_the_program(said, number):
    lack = lack_of(ImportError(f"_html.so: {said}"))
    assert lack is not None and lack.errno == number


def test_a_library_that_is_not_there_is_no_lack():
    assert lack_of(ImportError("No module named html")) is None


def test_a_lack_of_threads_is_not_taken_for_a_directory_in_use():
    lack = lack_of(RuntimeError("can't start new thread"))
    assert lack is not None and lack.errno != errno.EWOULDBLOCK
