"""Ways to read a directory that must not be written: as a user who may not, and on a read-only mount."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

POWERLESS = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"]
"""root, but bound by the permissions of files."""
STRANGER = 54321


@contextlib.contextmanager
def by_permission(directory: Path) -> Iterator[list[str]]:
    """Nothing in ``directory`` may be written or made; what to put before a command so that this binds it."""
    before = []
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None or subprocess.run([*POWERLESS, "true"], check=False).returncode:
            pytest.skip("root can write everywhere here: setpriv cannot take that away")
        before = POWERLESS
        subprocess.run(["chown", "-R", str(STRANGER), directory], check=True)
        subprocess.run(["chmod", "-R", "a+rX", directory], check=True)
    else:
        subprocess.run(["chmod", "-R", "a-w", directory], check=True)
    assert subprocess.run([*before, "touch", directory / "frontier" / "x"], capture_output=True, check=False).returncode
    try:
        yield before
    finally:
        if before:
            subprocess.run(["chown", "-R", str(os.geteuid()), directory], check=True)
        else:
            subprocess.run(["chmod", "-R", "u+w", directory], check=True)


@contextlib.contextmanager
def by_mount(directory: Path) -> Iterator[list[str]]:
    """The same by a read-only mount, which only the command sees."""
    script = f"mount --bind -o ro '{directory}' '{directory}' && exec \"$@\""
    before = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"]), "sh", "-c", script, "sh"]
    if shutil.which("unshare") is None or subprocess.run([*before, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no mount namespaces here")
    assert subprocess.run([*before, "touch", directory / "frontier" / "x"], capture_output=True, check=False).returncode
    yield before
