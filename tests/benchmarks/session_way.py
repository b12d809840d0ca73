"""``crawler`` with every request put through aiohttp's ``session.request`` instead of the lean way."""

import sys

from crawler import cli
from crawler.fetch import opening

opening.LEAN_VERSIONS = frozenset()
sys.exit(cli.main(sys.argv[1:]))
