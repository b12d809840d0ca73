"""How many file descriptors are open."""

import contextlib
import gc
import os
import resource

from crawler.resources.descriptors import open_and_limit


def test_each_that_is_opened_counts_and_where_none_is_left_all_do():
    gc.collect()  # what an earlier test has left open is closed now, and not meanwhile
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    before, limit = open_and_limit()
    assert 0 < before < limit == soft
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            stack.callback(os.close, os.open(os.devnull, os.O_RDONLY))
        assert open_and_limit() == (before + 3, soft)
        taken = os.open(os.devnull, os.O_RDONLY)  # the lowest that is free
        os.close(taken)
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        resource.setrlimit(resource.RLIMIT_NOFILE, (taken, hard))
        assert open_and_limit() == (taken, taken)
