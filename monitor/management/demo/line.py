"""The line to Handrail: HTTP with a bounded pace, which outlives a restart of the server."""

import asyncio
import logging
import time
from collections.abc import Collection
from typing import Any

import httpx

log = logging.getLogger(__name__)

LONGEST_PAUSE_S = 10.0
PATIENCE_S = 60.0
AGAIN = frozenset({429, 502, 503, 504})


class Refused(Exception):
    """Handrail answered what the story did not expect."""

    def __init__(self, path: str, answer: httpx.Response) -> None:
        super().__init__(f"{path} answered {answer.status_code}: {answer.text[:300]}")
        self.status = answer.status_code


class Line:
    """One client for the whole fleet; requests leave at most `per_second` times a second."""

    def __init__(self, url: str, key: str, *, per_second: float) -> None:
        self._client = httpx.AsyncClient(base_url=url, headers={"authorization": f"Bearer {key}"}, timeout=40)
        self._gap_s = 1 / per_second
        self._next_s = 0.0

    def hurry(self) -> None:
        """Drop the pace, for the last few words."""
        self._gap_s = self._next_s = 0.0

    async def close(self) -> None:
        await self._client.aclose()

    async def post(self, path: str, *, also: Collection[int] = (), **body: Any) -> httpx.Response:
        """Say something. Raises Refused for any answer but 2xx and those in `also`."""
        return await self._send("POST", path, also=also, json=body)

    async def get(self, path: str, **query: Any) -> Any:
        return (await self._send("GET", path, params=query)).json()

    async def _send(self, method: str, path: str, *, also: Collection[int] = (), **how: Any) -> httpx.Response:
        """The answer, also after the server was away or busy for a while."""
        pause_s = 0.5
        while True:
            await self._turn()
            try:
                answer = await self._client.request(method, f"/api/v1{path}", **how)
            except httpx.TransportError as error:
                log.info("Handrail does not answer (%s); trying again", type(error).__name__)
            else:
                if answer.is_success or answer.status_code in also:
                    return answer
                if answer.status_code not in AGAIN:
                    raise Refused(path, answer)
                pause_s = max(pause_s, min(float(answer.headers.get("retry-after", 0)), PATIENCE_S))
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)

    async def _turn(self) -> None:
        now_s = time.monotonic()
        mine_s = max(now_s, self._next_s)
        self._next_s = mine_s + self._gap_s
        await asyncio.sleep(mine_s - now_s)
