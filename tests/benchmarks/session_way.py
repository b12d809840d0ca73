"""``crawler`` with every request put through aiohttp's ``session.request`` instead of the lean way."""

import sys

from crawler.cli import main
from crawler.fetch import session

session.LEAN_VERSIONS = frozenset()
sys.exit(main.main(sys.argv[1:]))
