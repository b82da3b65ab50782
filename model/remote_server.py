"""One OpenAI-compatible server: its chat completions, streamed, with every failure named.

A call is tried again, with jitter, only as long as nothing of the answer was passed on. The key is
read from the environment when the server is opened, and stands in no message and no log.
"""

from __future__ import annotations

import asyncio
import os
import queue
import random
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import CancelledError, Future
from typing import Any

import httpx2

from rag_owl.errors import (
    InvalidSettings,
    RemoteModelBusy,
    RemoteModelError,
    RemoteModelTimeout,
)
from rag_owl.model.remote_reply import Reading, Reply, Unreadable, server_message
from rag_owl.settings import RemoteModel

_EVENT_BYTES = 4 << 20
_ERROR_BYTES = 65_536  # read of a reply that is no answer
_BACKOFF = 0.5  # seconds before the first retry, doubled for each further one
_LONGEST_WAIT = 20.0  # a server that asks for more patience is reported as busy
_PULSE = 0.25  # seconds between two questions whether the listener is still there
_TRY_AGAIN = frozenset((408, 409, 425, 429, 500, 502, 503, 504))


class _Transient(Exception):
    """A failure that another try may not meet: the error to raise in the end, and when to try."""

    def __init__(self, error: RemoteModelError, wait: float | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.wait = wait


class RemoteServer:
    """Safe for many threads. Connections are kept and shared, on a loop in a thread of its own."""

    def __init__(self, name: str, remote: RemoteModel) -> None:
        """Raises `InvalidSettings` when the key's variable is not set."""
        self.name = name
        self._remote = remote
        self._key = ""
        if remote.api_key_env:
            self._key = os.environ.get(remote.api_key_env, "").strip()
            if not self._key:
                raise InvalidSettings(
                    f"remote model {name!r}: the environment variable {remote.api_key_env} is not "
                    "set; put the server's key there"
                )
            if not self._key.isascii() or not self._key.isprintable():
                raise InvalidSettings(
                    f"remote model {name!r}: the key in {remote.api_key_env} holds characters "
                    "that no header can carry"
                )
        self._loop = asyncio.new_event_loop()
        # A daemon: an unclosed server must not keep the interpreter from ending.
        self._thread = threading.Thread(
            target=self._loop.run_forever, name=f"remote {name}", daemon=True
        )
        self._thread.start()
        self._client: httpx2.AsyncClient | None = None  # made on the loop

    def close(self) -> None:
        """Give up what runs, and let go of the connections."""
        if self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(self._shut(), self._loop).result(timeout=10)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(timeout=10)

    async def _shut(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        if self._client is not None:
            await self._client.aclose()

    def complete(
        self, body: Mapping[str, Any], on_text: Callable[[str], None] | None = None
    ) -> Reply:
        """The reply to a chat completion's request; `model` and `stream` are filled in here.

        on_text: gets each piece as it comes, and now and then an empty one: what it raises ends
        the call, also while the server is silent.
        Raises `RemoteModelError`: `RemoteModelBusy`, `RemoteModelTimeout`, or what else went wrong.
        """
        pieces: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        call = asyncio.run_coroutine_threadsafe(self._call(body, pieces.put), self._loop)
        call.add_done_callback(lambda _: pieces.put(None))
        try:
            while (piece := _next(pieces)) is not None:
                if on_text:
                    on_text(piece)
            return self._result(call)
        finally:
            call.cancel()  # frees the server's place when the listener has gone

    def _result(self, call: Future[Reply]) -> Reply:
        try:
            return call.result()
        except CancelledError:
            raise self._error("was given up; ask again") from None

    # --- on the loop ----------------------------------------------------------------------------

    async def _call(self, body: Mapping[str, Any], on_text: Callable[[str], None]) -> Reply:
        total = self._remote.total_seconds
        try:
            async with asyncio.timeout(total):
                return await self._try(body, on_text)
        except TimeoutError:
            what = f"did not finish its answer within {total:g} seconds"
            raise self._error(what, kind=RemoteModelTimeout) from None

    async def _try(self, body: Mapping[str, Any], on_text: Callable[[str], None]) -> Reply:
        passed_on = False

        def hear(text: str) -> None:
            nonlocal passed_on
            passed_on = True
            on_text(text)

        for attempt in range(self._remote.retries + 1):
            try:
                return await self._once(body, hear)
            except _Transient as failure:
                wait = _BACKOFF * 2**attempt * random.uniform(0.5, 1.5)
                if failure.wait is not None:
                    wait = max(failure.wait, wait)
                if passed_on or attempt == self._remote.retries or wait > _LONGEST_WAIT:
                    raise failure.error from None
            await asyncio.sleep(wait)
        raise AssertionError("the last attempt returns or raises")

    async def _once(self, body: Mapping[str, Any], on_text: Callable[[str], None]) -> Reply:
        reading = Reading(on_text)
        try:
            async with self._http().stream(
                "POST",
                f"{self._remote.base_url}/chat/completions",
                json={**body, "model": self._remote.model, "stream": True,
                      "stream_options": {"include_usage": True}},
                headers=self._headers(),
            ) as response:  # fmt: skip
                if response.status_code != 200:
                    raise self._refusal(response, await _start_of(response))
                if _media_type(response) == "text/event-stream":
                    async for data in _events(response):
                        reading.add(data)
                else:  # some servers answer in one piece whatever they are asked
                    reading.add_whole(await _all_of(response))
        except Unreadable as error:
            raise self._error(self._safe(str(error))) from None
        except httpx2.ConnectError as error:
            raise _Transient(self._error("cannot be reached", self._safe(str(error)))) from None
        except (httpx2.ConnectTimeout, httpx2.PoolTimeout):
            what = f"took no call within {self._remote.connect_seconds:g} seconds"
            raise _Transient(self._error(what, kind=RemoteModelTimeout)) from None
        except httpx2.TimeoutException:  # it may still be at work: asking again would add to that
            what = f"said nothing for {self._remote.read_seconds:g} seconds"
            raise self._error(what, kind=RemoteModelTimeout) from None
        except httpx2.HTTPError as error:
            if reading.complete:  # all was said; only the count of tokens may be missing
                return reading.reply
            raise _Transient(self._broken_off(reading, error)) from None
        if not reading.complete:
            raise _Transient(self._broken_off(reading, None))
        return reading.reply

    def _http(self) -> httpx2.AsyncClient:
        if self._client is None:
            remote = self._remote
            self._client = httpx2.AsyncClient(
                timeout=httpx2.Timeout(remote.read_seconds, connect=remote.connect_seconds),
                limits=httpx2.Limits(max_connections=256, max_keepalive_connections=32),
                follow_redirects=False,  # the key goes to the registered address alone
            )
        return self._client

    def _headers(self) -> dict[str, str]:
        # Not compressed: a few bytes must not become gigabytes.
        headers = {"Accept": "text/event-stream, application/json", "Accept-Encoding": "identity"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        return headers

    # --- failures -------------------------------------------------------------------------------

    def _error(
        self, what: str, more: str = "", kind: type[RemoteModelError] = RemoteModelError
    ) -> RemoteModelError:
        """ "the server of model 'big' …": with its address and `more` for the operator alone."""
        who = f"the server of model {self.name!r}"
        told = f": {more}" if more else ""
        return kind(f"{who} at {self._remote.base_url} {what}{told}", f"{who} {what}")

    def _safe(self, text: str) -> str:
        """A stranger's words for a message: one line, not long, without the key."""
        if self._key:
            text = text.replace(self._key, "…")
        line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
        return line if len(line) <= 300 else line[:299] + "…"

    def _refusal(self, response: httpx2.Response, start: str) -> Exception:
        status = response.status_code
        said = self._safe(server_message(start))
        if status in (401, 403):
            where = f"the key in {self._remote.api_key_env}" if self._key else "a call without key"
            return self._error(f"refused its key ({status})", f"{where}. {said}")
        if status == 404:
            known = f"it has no model {self._remote.model!r}, or base_url is not right"
            return self._error("does not know the model (404)", f"{known}. {said}")
        if status in (429, 503):
            wait = _retry_after(response)
            busy = self._error(f"is overloaded ({status})", said, RemoteModelBusy)
            assert isinstance(busy, RemoteModelBusy)
            busy.retry_after = wait
            return _Transient(busy, wait)
        if status in _TRY_AGAIN:
            return _Transient(self._error(f"failed ({status})", said))
        if 300 <= status < 400:
            return self._error(f"sends elsewhere ({status})", "set base_url to that place")
        # Too long a question, too many pictures: what whoever asks can change.
        return self._error(f"refused the request ({status})" + (f": {said}" if said else ""))

    def _broken_off(self, reading: Reading, error: Exception | None) -> RemoteModelError:
        why = self._safe(str(error)) if error else ""
        if not reading.reply.text:
            return self._error("hung up before it said anything", why)
        return self._error(f"broke off after {len(reading.reply.text)} characters", why)


def _next(pieces: queue.SimpleQueue[str | None]) -> str | None:
    try:
        return pieces.get(timeout=_PULSE)
    except queue.Empty:
        return ""


def _retry_after(response: httpx2.Response) -> float | None:
    try:
        seconds = float(response.headers.get("retry-after", ""))
    except ValueError:  # a date, or none
        return None
    return seconds if 0 <= seconds < 86_400 else None


def _media_type(response: httpx2.Response) -> str:
    found: str = response.headers.get("content-type", "")
    return found.partition(";")[0].strip().lower()


async def _events(response: httpx2.Response) -> AsyncIterator[str]:
    async for event in httpx2.EventSource(response, max_event_size=_EVENT_BYTES):
        if event.data:
            yield event.data


async def _start_of(response: httpx2.Response) -> str:
    start = b""
    async for block in response.aiter_bytes():
        start += block
        if len(start) >= _ERROR_BYTES:
            break
    return start[:_ERROR_BYTES].decode("utf-8", "replace")


async def _all_of(response: httpx2.Response) -> str:
    data = b""
    async for block in response.aiter_bytes():
        data += block
        if len(data) > _EVENT_BYTES:
            raise Unreadable(f"answered with more than {_EVENT_BYTES:,} bytes")
    return data.decode("utf-8", "replace")
