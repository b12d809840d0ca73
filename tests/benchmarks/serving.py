"""A benchmark's own server, in a process of its own."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator

from gauges import free_port


@contextlib.contextmanager
def serving(script: str) -> Iterator[int]:
    """``script --serve PORT``, once it has printed a line: that it is ready; its port. It ends with the context."""
    port = free_port()
    with subprocess.Popen([sys.executable, script, "--serve", str(port)], stdout=subprocess.PIPE) as server:
        try:
            assert server.stdout is not None
            server.stdout.readline()
            yield port
        finally:
            server.terminate()
