"""sd_notify(3): state, status line and watchdog for systemd, over the datagram socket that it names, if it names one.

Invariants: WATCHDOG is sent by the event loop itself, and only while the crawl makes progress. A state that the socket did not
take is sent again.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable, Mapping
from typing import Final

from crawler.core.text import printable

STATUS_EVERY_S: Final = 5.0
_STATUS_CHARS_MAX: Final = 500

logger: Final = logging.getLogger(__name__)


class Notifier:
    """``environ``: where systemd has put NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.watchdog_s = _watchdog_s(environ)
        """WATCHDOG must come this often; None if systemd does not wait for it."""
        self._unsent: list[str] = []
        """States that the socket did not take: its queue may be full (unix(7): of 10 messages by default). Of each kind one."""

    def ready(self) -> None:
        self._tell("READY=1")

    def reloading(self) -> None:
        """``ready`` must follow."""
        self._tell(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        self._tell("STOPPING=1")

    def status(self, text: str) -> None:
        """One line for ``systemctl status``."""
        self._send(f"STATUS={printable(text[:_STATUS_CHARS_MAX])}")

    async def keep(self, alive: Callable[[], str | None], status: Callable[[], str]) -> None:
        """Feed the watchdog and the status line, for ever, and tell what could not be told; while ``alive`` says what is wrong
        the watchdog starves."""
        every = STATUS_EVERY_S if self.watchdog_s is None else min(STATUS_EVERY_S, self.watchdog_s / 3)
        starved = False
        while True:
            self._tell_unsent()
            wrong = alive()
            if wrong is None:
                self._send("WATCHDOG=1")
            elif not starved:
                logger.error("watchdog: %s", wrong)
            starved = wrong is not None
            self.status(wrong or status())
            await asyncio.sleep(every)

    def _tell(self, state: str) -> None:
        """In their order: where systemd waits for a reload (Type=notify-reload), READY is its end only behind RELOADING."""
        kind = state.partition("=")[0]
        self._unsent = [*(each for each in self._unsent if not each.startswith(kind)), state]
        self._tell_unsent()

    def _tell_unsent(self) -> None:
        while self._unsent and self._send(self._unsent[0]):
            del self._unsent[0]

    def _send(self, message: str) -> bool:
        """Send if possible; whether it was. A service manager that cannot be reached does not end a crawl."""
        if not self._address:
            return True
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as channel:
                channel.sendto(message.encode(), self._address)
        except OSError:
            return False
        return True


def _watchdog_s(environ: Mapping[str, str]) -> float | None:
    try:
        seconds = int(environ["WATCHDOG_USEC"]) / 1e6
        pid = int(environ.get("WATCHDOG_PID", os.getpid()))
    except (KeyError, ValueError):
        return None
    return seconds if seconds > 0 and pid == os.getpid() else None
