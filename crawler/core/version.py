"""The version of this program, as ``--version``, WARC files and the User-Agent state it."""

from typing import Final

__version__: Final = "0.1.0"

IDENTITY: Final = "Crawler-API"
"""The field that each response of a crawler has, so that its commands tell it from another server."""
