"""How many file descriptors are open."""

import subprocess
import sys

COUNTED = """
import os, resource
from crawler.resources.descriptors import open_and_limit

soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
before, limit = open_and_limit()
assert 0 < before < limit == soft
for _ in range(3):
    os.open(os.devnull, os.O_RDONLY)
assert open_and_limit() == (before + 3, soft)
taken = os.open(os.devnull, os.O_RDONLY)  # the lowest that is free
os.close(taken)
resource.setrlimit(resource.RLIMIT_NOFILE, (taken, hard))
assert open_and_limit() == (taken, taken)
"""


def test_each_that_is_opened_counts_and_where_none_is_left_all_do():
    """In a process of its own: what earlier tests have left open may be closed by threads at any time."""
    subprocess.run([sys.executable, "-c", COUNTED], check=True)
