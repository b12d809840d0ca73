"""The version of this program, as ``--version``, WARC files and the User-Agent state it."""

from typing import Final

__version__: Final = "0.1.0"
