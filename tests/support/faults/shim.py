"""Running a program under ``faults.c``: built here, steered through a file of rules, read back as a log.

The law: a rule is in force for every call that begins after ``rules`` returned.
"""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("faults.c")
FLAGS = (
    "-O2",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-Wno-nonnull-compare",
    "-Wno-attributes",
    "-shared",
    "-fPIC",
    "-fvisibility=hidden",
)


@functools.cache
def build() -> Path:
    """The shim as a shared object; skips the test where there is no compiler for it."""
    compiler = shutil.which(os.environ.get("CC", "gcc"))
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("the fault shim needs Linux and a C compiler (gcc)")
    folder = tempfile.mkdtemp(prefix="faults-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    target = Path(folder, "faults.so")
    subprocess.run([compiler, *FLAGS, "-o", target, SOURCE, "-ldl", "-lpthread"], check=True)
    return target


class Faults:
    """Faults for the processes started with ``environment``: everything under ``folder`` is logged and may be failed."""

    def __init__(self, folder: Path, aside: Path) -> None:
        """``aside`` holds the log and the rules; it must not lie within ``folder``."""
        self.folder = folder.resolve()
        self.folder.mkdir(parents=True, exist_ok=True)
        aside.mkdir(parents=True, exist_ok=True)
        self.log = aside / "faults.log"
        self._control = aside / "faults.rules"

    @property
    def environment(self) -> dict[str, str]:
        """What to add to the environment of a process."""
        return {
            "LD_PRELOAD": str(build()),
            "FAULTS_DIR": str(self.folder),
            "FAULTS_LOG": str(self.log),
            "FAULTS_CONTROL": str(self._control),
        }

    def rules(self, *lines: str) -> None:
        """``CALLS FROM-TO ACTION [GLOB]`` each (see faults.c); none: all is well again. Counts begin anew."""
        fresh = self._control.with_suffix(".new")
        fresh.write_text("".join(f"{line}\n" for line in lines))
        fresh.replace(self._control)

    def seen(self) -> list[str]:
        """The rules that came to act, each once since it was read: ``CALLS ACTION CALL``."""
        path = self._control.with_name(self._control.name + ".seen")
        return path.read_text().splitlines() if path.exists() else []
