"""Live events: what changed, never how; readers ask again for what they show (SSE)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Annotated, Final

from fastapi import APIRouter, Depends
from fastapi.responses import StreamingResponse

from fleet_server.changes import Change
from fleet_server.fleet import Fleet
from fleet_server.web.auth import fleet_of, need
from fleet_server.web.rate import RateLimited

router = APIRouter(prefix="/v1", tags=["events"])

MAX_STREAMS: Final = 500
KEEPALIVE_S: Final = 15.0
"""A comment this often, so that proxies keep the stream and a dead peer is noticed."""
LIFE_S: Final = 600.0
"""Then the stream ends and the reader connects again, with a token or session that is checked again."""


@router.get("/events", response_class=StreamingResponse, dependencies=[need("events.read")])
async def events(fleet: Annotated[Fleet, Depends(fleet_of)]) -> StreamingResponse:
    """``event: change`` with ``data: <topic>:<subject>``; topics are device, rollout, release and all."""
    if fleet.changes.subscribers >= MAX_STREAMS:
        raise RateLimited(f"{MAX_STREAMS} event streams are open; close some")
    return StreamingResponse(
        frames(fleet.changes.subscribe(), keepalive_s=KEEPALIVE_S, life_s=LIFE_S),
        media_type="text/event-stream",
        headers={"X-Accel-Buffering": "no"},
    )


async def frames(changes: AsyncIterator[Change], *, keepalive_s: float, life_s: float) -> AsyncGenerator[str, None]:
    """SSE text for ``changes``: a hello, each change, comments while nothing happens; ends after ``life_s``."""
    loop = asyncio.get_running_loop()
    ends_at = loop.time() + life_s
    pending: asyncio.Future[Change] | None = None
    async with aclosing(changes):  # type: ignore[type-var]  # a feed's iterator is an async generator
        try:
            pending = asyncio.ensure_future(anext(changes))
            yield "retry: 2000\nevent: hello\ndata: \n\n"
            while (left := ends_at - loop.time()) > 0:
                done, _ = await asyncio.wait({pending}, timeout=min(keepalive_s, left))
                if not done:
                    yield ": still here\n\n"
                    continue
                try:
                    change = pending.result()
                except StopAsyncIteration:
                    return
                yield f"event: change\ndata: {change}\n\n"
                pending = asyncio.ensure_future(anext(changes))
        finally:
            if pending is not None and not pending.done():
                pending.cancel()
                await asyncio.wait({pending})
