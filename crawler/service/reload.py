"""Settings changed while a crawl runs: by a reload (SIGHUP) or through the control API.

Invariants: a change is checked whole and applied whole, or not at all. A setting that cannot change while it runs is named, with
what it takes. ``crawl.toml`` in the directory always tells what is in effect.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from crawler.config.crawl_toml import IDENTITY, write_effective
from crawler.config.load import changed
from crawler.config.render import masked
from crawler.config.sections import RELOADABLE, Config, HostConfig
from crawler.core.errors import ConfigError, StorageError, storage_error_of
from crawler.crawl import plan_of
from crawler.crawl.thread_iter import ThreadIterator
from crawler.service.steered import Steered

NEXT_START: Final = {
    "urls": "it takes effect with the next start, if the old ones still stand first in it",
    "output": "the next start goes on there: another directory is another crawl",
}
"""Where that says more than that it takes effect."""

IN_EFFECT_S: Final = 20.0
"""So long a change waits until all processes of a crawl have taken it, and what it excludes is over. It holds all the same, and
the next one must not wait for a process that stands still."""
_NOT_FOLLOWED: Final = "a process of this crawl, or a visit, has not followed yet"

_plan_of_one: Final = partial(plan_of, endless=True)

logger: Final = logging.getLogger(__name__)


class Changes:
    """The settings of a running crawl. ``plan`` divides the memory limit by them; ConfigError: it is too small."""

    def __init__(self, crawl: Steered, root: Path, plan: Callable[[Config], object] = _plan_of_one) -> None:
        self._crawl, self._root, self._plan = crawl, root, plan
        self._one_at_a_time, self._one_reload = asyncio.Lock(), asyncio.Lock()
        self.last_reload_successful = True

    def settings(self) -> dict[str, Any]:
        """Those in effect, without secrets."""
        return masked(self._crawl.config)

    async def patch(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Change some settings (None: back to the default); all settings. ConfigError: nothing was changed. TimeoutError: they
        hold, but a process of the crawl has not taken them yet."""
        async with self._one_at_a_time:
            try:
                new = changed(self._crawl.config, changes)
            except RecursionError:
                raise ConfigError("a value is too deeply nested") from None
            fixed = sorted(different(self._crawl.config, new) - RELOADABLE)
            if fixed:
                raise ConfigError([_refusal(key) for key in fixed])
            self._check_memory(new)
            await self._put(new)
        return self.settings()

    async def exclude(self, expressions: Sequence[str], hosts: Sequence[str], *, undo: bool = False) -> dict[str, Any]:
        """Visit no URL that one of these expressions matches, and nothing of these hosts; ``undo``: do so again. What is
        excluded and blocked then. Raises as ``patch``."""
        async with self._one_at_a_time:
            old = self._crawl.config
            named = [_blocked(host) for host in hosts]
            if undo and (faults := _not_there(old, expressions, named)):
                raise ConfigError(faults)
            exclude = [each for each in old.exclude if each not in expressions]
            tables = [table for table in old.host if table not in named]
            if not undo:
                exclude, tables = [*exclude, *expressions], [*named, *tables]
            new = changed(old, {"exclude": exclude, "host": tuple(tables)})
            self._check_memory(new)
            await self._put(new)
        return self.excluded()

    def excluded(self) -> dict[str, Any]:
        """The expressions that exclude, and the hosts that are blocked."""
        config = self._crawl.config
        return {"exclude": list(config.exclude), "blocked": [table.match for table in config.host if table.block]}

    async def reload(self, load: Callable[[], Config]) -> None:
        """Read the configuration again and take over what may change; what is wrong, or needs a restart, is logged."""
        async with self._one_reload:
            try:
                # it may be on a disk that hangs: other changes do not wait for it, nor does the end of the process
                new = await anext(ThreadIterator(map(operator.call, [load])))
            except ConfigError as error:
                self._refuse(error.faults)
                return
            except Exception as error:
                if (lack := storage_error_of(error)) is None:
                    raise
                self._refuse([str(lack)])
                return
            async with self._one_at_a_time:
                await self._take_over(new)

    async def _take_over(self, new: Config) -> None:
        try:
            wanted = changed(self._crawl.config, {key: getattr(new, key) for key in RELOADABLE})
            self._check_memory(wanted)
        except ConfigError as error:
            self._refuse(error.faults)
            return
        self.last_reload_successful = True
        for key in sorted(different(self._crawl.config, new) - RELOADABLE - {"fresh"}):
            logger.warning("reload: %s has changed; %s", key, _when(key))
        with contextlib.suppress(TimeoutError):  # which is told
            await self._put(wanted)

    def _check_memory(self, new: Config) -> None:
        """ConfigError: the memory limit, which did, is too small for these settings. The next start would refuse them, as would
        that of a part which has died."""
        try:
            self._plan(new)
        except ConfigError as error:
            try:
                self._plan(self._crawl.config)
            except ConfigError:
                return  # so it was already
            raise error

    def _refuse(self, faults: Iterable[str]) -> None:
        self.last_reload_successful = False
        logger.warning("reload refused, nothing was changed:\n%s", "\n".join(f"  {fault}" for fault in faults))

    async def _put(self, new: Config) -> None:
        keys = sorted(different(self._crawl.config, new))
        if keys:
            where = f"; {_NOT_FOLLOWED}"
            try:
                async with asyncio.timeout(IN_EFFECT_S):
                    await self._crawl.reconfigure(new)
                where = ""
            except TimeoutError:
                raise TimeoutError(f"the change holds; {_NOT_FOLLOWED}") from None
            finally:  # it is in effect, even if what it excludes takes longer to end than whoever asked waits
                await self._write_down(new)
                logger.log(logging.WARNING if where else logging.INFO, "changed: %s%s", ", ".join(keys), where)

    async def _write_down(self, new: Config) -> None:
        try:
            await asyncio.to_thread(write_effective, self._root, new)
        except (StorageError, RuntimeError) as error:
            if (trouble := storage_error_of(error)) is None:
                raise
            logger.warning("%s: the change was not written down; it lasts until the end of this process", trouble)


def _blocked(host: str) -> HostConfig:
    """ConfigError: it is no host."""
    try:
        return HostConfig(match=host, block=True)
    except ConfigError as error:
        raise ConfigError(f"block {host!r}: {error.faults[0].partition(': ')[2]}") from None


def _not_there(config: Config, expressions: Sequence[str], blocks: Sequence[HostConfig]) -> list[str]:
    """Why an exclusion cannot be undone."""
    faults = [f"exclude: {each!r} is not excluded" for each in expressions if each not in config.exclude]
    return faults + [f"block: {table.match} is not blocked by itself" for table in blocks if table not in config.host]


def _when(key: str) -> str:
    """What it takes for a setting that cannot change while the crawl runs."""
    if key in IDENTITY:
        return "this crawl keeps the one it was begun with: only a new crawl takes another (--fresh, or another --output)"
    return NEXT_START.get(key, "it takes effect with the next start")


def _refusal(key: str) -> str:
    if key in IDENTITY:
        return f"{key} belongs to what this crawl was begun with: only a new crawl takes another (--fresh, or another --output)"
    return f"{key} can only be changed by a restart"


def different(old: Config, new: Config) -> set[str]:
    """The keys in which two configurations differ."""
    return {key for key in Config.fields if getattr(old, key) != getattr(new, key)}
