"""A step of the build for editable installs: the bytecode of the crawler is written then. Where Python is told to write none
(PYTHONDONTWRITEBYTECODE, as in many containers), every start would compile the whole program anew: 0.3 s of CPU. A wheel's is
written by pip."""

import compileall
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class Bytecode(BuildHookInterface):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":
            compileall.compile_dir(Path(self.root, "crawler"), quiet=1)
