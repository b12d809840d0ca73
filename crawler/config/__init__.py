"""Every setting once."""

from crawler.config.hosts import HostRules
from crawler.config.sections import Config

__all__ = ["Config", "HostRules"]
