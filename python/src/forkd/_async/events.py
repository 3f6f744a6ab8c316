from __future__ import annotations

from time import monotonic

from typing_extensions import Unpack

from .. import models
from .._errors import ForkdError
from .._retry import PASSING_STATUS
from .options import AsyncClientOptions, client_from
from .platform import Stream, sleep

_DELAY_SECS_MIN, _DELAY_SECS_MAX = 0.1, 5.0
_UNREACHABLE_SECS_MAX = 60.0
"""A controller that restarts answers again within this time."""


class AsyncEvents:
    """Events of sandboxes, snapshots and workspaces, in order, until the reader stops.

    After a disconnect the stream resumes from the last event that was read. An event of type `events.gap` reports events that
    the controller no longer had: list the resources again. Raises after a minute without a controller.
    """

    def __init__(
        self, *, sandbox: str | None = None, after: str | None = None, **options: Unpack[AsyncClientOptions]
    ) -> None:
        """`sandbox`: only events of the sandbox with this id. `after`: only events after this one; default: from now on."""
        self.last_id = after
        """The id of the last event that was read. Pass it as `after` to resume later."""
        self._sandbox = sandbox
        self._options = options

    async def __aiter__(self) -> Stream[models.ControllerEvent]:
        client = client_from(self._options)
        delay = _DELAY_SECS_MIN
        answered = monotonic()
        while True:
            events = client.events(after=self.last_id, sandbox=self._sandbox)
            try:
                async for event in events:
                    self.last_id = event["id"]
                    yield event
                    delay = _DELAY_SECS_MIN
                    answered = monotonic()
                # A stream that ended without events was still served, so the controller is reachable.
                answered = monotonic()
            except ForkdError as error:
                if not _is_passing(error) or monotonic() - answered > _UNREACHABLE_SECS_MAX:
                    raise
            finally:
                await events.aclose()
            await sleep(delay)
            delay = min(delay * 2, _DELAY_SECS_MAX)


def _is_passing(error: ForkdError) -> bool:
    return error.code in {"stream_cut", "connection_failed"} or error.status in PASSING_STATUS
