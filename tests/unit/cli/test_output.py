"""Where a command's text goes, and what it says where it cannot go there."""

import errno

import pytest

from crawler.cli.output import not_written
from crawler.core.errors import ConfigError, StorageError

LACKS = [errno.EMFILE, errno.ENOSPC, errno.EFBIG]


@pytest.mark.parametrize(("number", "kind"), [*((number, StorageError) for number in LACKS), (errno.EACCES, ConfigError)])
def test_a_file_that_cannot_be_written_is_the_operators_or_the_machines(number, kind):
    assert type(not_written("out", OSError(number, "no"))) is kind
