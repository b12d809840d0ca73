"""The two threads of the pump, and callers that are cancelled while they wait for one."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading

import pytest

from crawler.core.errors import StorageError
from crawler.frontier.committer import Committer


@pytest.mark.parametrize(("error", "raised"), [(StorageError("disk full"), asyncio.CancelledError), (KeyError(), KeyError)])
async def test_what_a_cancelled_caller_has_asked_for_may_fail(error: Exception, raised: type[BaseException]) -> None:
    """The event loop told of it with a traceback, as of a fault of the program, though it was none."""
    committer, go_on, told = Committer(None, None), threading.Event(), []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: told.append(context))

    def fail() -> None:
        go_on.wait(20)
        raise error

    with contextlib.closing(committer):
        caller = asyncio.create_task(committer.on_engine(fail))
        await asyncio.sleep(0)
        caller.cancel()
        await asyncio.sleep(0)
        go_on.set()
        with pytest.raises(raised):
            await caller
    del caller
    gc.collect()
    assert not told
