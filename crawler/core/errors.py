"""The errors, drawn as a tree. What the caller must do decides the class, not where it happened.

CrawlerError
├── ConfigError    the operator must edit something; all faults in one message      → exit 2
├── FetchError     one URL; ``.reason`` is a closed set and the metric label        → becomes an outcome
└── StorageError   a promise cannot be kept here and now (disk, descriptors, store) → pause, or exit 3
    └── RemoteError    the database of a crawl of many machines is away             → pause, until it is back
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from enum import IntEnum
from typing import Final, TypeVar

E = TypeVar("E", bound=BaseException)

REASONS: Final[dict[str, tuple[str, ...]]] = {
    "timeout": ("connect_timeout", "first_byte_timeout", "read_timeout", "total_timeout", "min_rate"),
    "connect_error": ("refused", "unreachable", "reset", "disconnected", "proxy"),
    "dns_error": ("nxdomain", "no_address", "servfail", "dns_timeout", "resolver_unreachable"),
    "tls_error": ("certificate", "handshake"),
    "bad_response": (
        "malformed",
        "header_too_large",
        "too_many_headers",
        "too_many_interim",
        "upgrade",
        "unsolicited",
        "content_coding",
        "decode_ratio",
        "trailing_data",
    ),
    "truncated": ("content_length", "chunked", "cut", "coding_cut"),
    "too_large": ("max_body", "max_decoded"),
    "redirect_error": ("loop", "too_many_redirects", "no_location", "bad_location"),
    "robots_denied": ("rule", "robots_unavailable", "robots_blocked"),
    "blocked": ("address",),
    "invalid_url": ("syntax", "scheme", "too_long", "encoding", "json", "more_than_url"),
    "skipped": ("duplicate", "crashed", "mime", "excluded"),
}
"""Every reason, by the outcome it explains. A reason belongs to exactly one outcome; ``host_down`` is the exception:
it marks URLs settled unfetched with the outcome their host earned."""

OUTCOME_OF: Final[dict[str, str]] = {reason: outcome for outcome, reasons in REASONS.items() for reason in reasons}

OUR_ERRNOS: Final = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EADDRNOTAVAIL, errno.ENOSPC, errno.EDQUOT, errno.EIO}
)
"""Errors of this machine: they are never a page's fate (README, promise 6)."""
NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})
"""Errors of a disk that takes no more, or nothing at all."""

_NO_THREAD: Final = (
    "no thread can be started: allow more processes (ulimit -u, or TasksMax of systemd), or more memory (ulimit -v, ulimit -d)"
)
_LACKS: Final = {
    errno.EMFILE: "no file descriptors left",
    errno.ENFILE: "no file descriptors left on this machine",
    errno.ENOMEM: "no memory left",
}
_ADVICE: Final = {
    errno.EMFILE: "allow more descriptors (ulimit -n, or LimitNOFILE of systemd)",
    errno.ENFILE: "allow the machine more descriptors (sysctl fs.file-max)",
    errno.ENOMEM: "allow more memory (ulimit -v, ulimit -d, or MemoryMax of systemd), or lower --memory-limit",
    errno.ENOBUFS: "allow the network more memory (sysctl net.ipv4.tcp_mem), or lower --workers",
    errno.EADDRNOTAVAIL: "allow more local ports (sysctl net.ipv4.ip_local_port_range), or lower --workers",
    errno.EFBIG: "allow larger files (ulimit -f, or LimitFSIZE of systemd)",
    errno.EROFS: "mount it so that it can be written",
    errno.EIO: "the disk fails (see dmesg): go on once it is there again",
}
"""What to do about an error of this machine whose own words do not tell."""


NO_PROC: Final = "/proc is not mounted (mount -t proc proc /proc)"


def our_errno(error: BaseException | None) -> int:
    """The errno of an error if it is one of this machine's, else 0."""
    number = errno.ENOMEM if isinstance(error, MemoryError) else error.errno if isinstance(error, OSError) else None
    return number if number in OUR_ERRNOS else 0


def _errno_of_import(error: ImportError) -> int:
    """dlopen(3) has no errno, but says its words."""
    said = str(error)
    if "failed to map segment" in said:
        return errno.ENOMEM
    return next((number for number in (errno.ENFILE, errno.EMFILE, errno.ENOMEM) if os.strerror(number) in said), 0)


def lack_of(error: BaseException | None) -> LackError | None:
    """An error that says in a sentence what this machine did not give us: a thread, a descriptor, memory. None where that is not
    the whole cause."""
    if isinstance(error, BaseExceptionGroup):
        lacks = [lack_of(one) for one in error.exceptions]
        return lacks[0] if all(lacks) else None
    if isinstance(error, RuntimeError) and str(error) == "can't start new thread":  # Python has no class of its own for it
        return LackError(_NO_THREAD)
    number = _errno_of_import(error) if isinstance(error, ImportError) else our_errno(error)
    return LackError(_LACKS[number], errno=number) if number in _LACKS else None


def storage_error_of(error: BaseException | None) -> StorageError | None:
    """An error as one that can be waited out: itself, or what this machine did not give us. None: it is something else."""
    return error if isinstance(error, StorageError) else lack_of(error)


def first_of(group: BaseExceptionGroup[E]) -> E:
    """One of the errors that ended the tasks; the others followed from it or tell the same."""
    error: BaseExceptionGroup[E] | E = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


class Exit(IntEnum):
    """How a command ended, for scripts and service managers."""

    OK = 0
    INTERNAL = 1
    """A fault of the program: it says so with a traceback."""
    USAGE = 2
    STORAGE = 3
    """Disk or memory."""
    NOTHING_FETCHED = 4
    STOPPED = 5
    """Ended early by a signal or a --max-* limit: the same command continues."""
    FAILURES = 8
    """Every line is settled, but more than --max-failed of what was fetched failed."""
    LOCKED = 75
    """Another process uses the directory."""
    INTERRUPTED = 130
    """Ctrl-C in a command that does not crawl."""


class CrawlerError(Exception):
    """Whatever this package raises on purpose."""


class ConfigError(CrawlerError):
    """The operator must edit something. ``faults`` holds every fault found, one sentence each."""

    def __init__(self, faults: str | Iterable[str]) -> None:
        self.faults = (faults,) if isinstance(faults, str) else tuple(faults)
        super().__init__("\n".join(self.faults))


class FetchError(CrawlerError):
    """One URL could not be fetched. ``reason`` is one of REASONS, ``outcome`` follows from it."""

    def __init__(self, reason: str, detail: str = "", *, permanent: bool = False, shared: bool = False) -> None:
        self.reason = reason
        self.outcome = OUTCOME_OF[reason]
        self.detail = detail
        self.permanent = permanent
        """It will be so whenever it is tried again."""
        self.shared = shared
        """Nobody was asked for this URL's sake: the failure is another's, or its proxy's."""
        self.sent = False
        """The host had taken the request."""
        self.stray = False
        """What came may belong to what was asked before on the same connection."""
        self.first_byte_s = 0.0
        """Until a response began that is not wanted; 0.0 where none began."""
        super().__init__(f"{self.outcome}: {reason}" + (f" ({detail})" if detail else ""))

    def kept(self) -> FetchError:
        """The same as a value: without the frames that it, and what led to it, came through. A frame that holds the error which
        holds it stays until the collector of cycles comes, with its buffers and decoders."""
        error: BaseException | None = self
        while error is not None:
            onward = error.__cause__ or error.__context__
            error.__traceback__ = error.__context__ = error.__cause__ = None
            error = onward
        return self


class StorageError(CrawlerError):
    """A promise cannot be kept here and now. ``errno`` says which resource, 0 if none; ``final`` forbids to try again. Every
    message says what can be done where a resource lacks."""

    def __init__(self, message: str, *, errno: int = 0, final: bool = False) -> None:
        self.errno = errno
        self.final = final
        advice = _ADVICE.get(errno, "")
        super().__init__(message if advice in message else f"{message}: {advice}")


class LackError(StorageError):
    """This machine has no thread, process, descriptor or memory left just now."""


class RemoteError(StorageError):
    """The database of a crawl of many machines cannot be reached, or says that this node has lost what it was at. What is not
    committed is done again: ``at_once``, or when the database is back."""

    def __init__(self, message: str, *, at_once: bool = False) -> None:
        self.at_once = at_once
        super().__init__(message)
