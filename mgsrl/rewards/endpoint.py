"""A client of JSON over HTTP: OpenAI-compatible chat completions, and plain POSTs.

Every call is bounded: `time_limit_s` for one attempt, and `(max_retries + 1) * time_limit_s` for
all attempts and the waits between them. Repeated are time-outs, lost connections, 429 and 5xx,
after exponential back-off with full jitter
(https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/) or the server's
Retry-After; any other answer would be the same again. What fails becomes an `EndpointError` of one
line that never holds the key.

Left out: streaming, tool calls, and the `openai` package, which comes only with vLLM and would need
the limits below around it all the same.
"""

import asyncio
import json
import os
import random
import threading
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future, as_completed
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any, Self, TypeVar

import httpx2

from mgsrl.errors import ConfigError, EndpointError

MAX_REPLY_BYTES = 16 * 2**20
FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 30.0
"""Of one back-off; a server that asks for more by Retry-After is given up."""
TRIED_IN_VAIN = 16
"""So many calls of a batch that fail with none in between that works, and the rest is not tried:
a dead judge must not cost hours."""
_EXCERPT = 160

Messages = Sequence[Mapping[str, Any]]
T = TypeVar("T")
Call = Callable[[], Coroutine[Any, Any, T]]


class Endpoint:
    """One server. Thread-safe; `close` (or `with`) ends its connections.

    Args:
        url: for `chat` the base that OpenAI clients take (`http://localhost:8000/v1`; a bare host
            gets `/v1`), for `post` the address itself.
        model: the name that `chat` sends.
        api_key_env: the environment variable that holds the bearer token; empty sends none.
        time_limit_s: seconds for one attempt, from connecting to the last byte.
        max_retries: further attempts after the first.
        concurrency: calls under way at once, over all threads.

    Raises:
        ConfigError: the url is none, or the variable is not set.
    """

    def __init__(
        self,
        url: str,
        *,
        model: str = "",
        api_key_env: str = "",
        time_limit_s: float,
        max_retries: int,
        concurrency: int,
    ) -> None:
        self.url = check_url(url, "the endpoint's url")
        self.model = model
        self.time_limit_s = time_limit_s
        self.max_retries = max_retries
        self.concurrency = concurrency
        self._key = _read_key(api_key_env)
        self._slots = asyncio.Semaphore(concurrency)
        self._jitter = random.Random()  # not the global one, whose state is the run's
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        # The slots limit the connections; redirects are not followed, they would carry the key.
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=concurrency)
        self._client = httpx2.AsyncClient(headers=headers, timeout=time_limit_s, limits=limits)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    @property
    def call_limit_s(self) -> float:
        """Seconds that one call may take in all, once it has its turn."""
        return (self.max_retries + 1) * self.time_limit_s

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connections; safe to call twice."""
        if self._loop.is_closed():
            return
        self._start(self._client.aclose()).result(timeout=10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=10)
        self._loop.close()

    # ---- one call --------------------------------------------------------------------------------

    def chat(self, messages: Messages, **sampling: Any) -> str:
        """The text of the model's answer.

        Args:
            sampling: fields of the request, e.g. `temperature=0.0, max_tokens=512`.

        Raises:
            EndpointError: no answer, or none with a text.
        """
        return self._wait(partial(self._chat, messages, sampling))

    def post(self, payload: Any) -> Any:
        """POST JSON to `url`; returns the decoded JSON of the answer.

        Raises:
            EndpointError: no answer, or one that is not JSON.
        """
        return self._wait(partial(self._send, self.url, payload))

    # ---- many ------------------------------------------------------------------------------------

    def chat_many(
        self,
        conversations: Sequence[Messages],
        on_progress: Callable[[int, int], None] | None = None,
        **sampling: Any,
    ) -> list[str | EndpointError]:
        """`chat` for each, in order; a call that fails leaves its error in its place.

        Args:
            on_progress: called with (done, total) in this thread.
        """
        calls = [partial(self._chat, each, sampling) for each in conversations]
        return self._many(calls, on_progress)

    def post_many(self, payloads: Sequence[Any]) -> list[Any | EndpointError]:
        """`post` for each, in order; a call that fails leaves its error in its place."""
        return self._many([partial(self._send, self.url, each) for each in payloads], None)

    def _many(
        self, calls: Sequence[Call[T]], on_progress: Callable[[int, int], None] | None
    ) -> list[T | EndpointError]:
        batch = _Batch(self._slots)
        futures = [self._start(batch.run(call)) for call in calls]
        try:
            for done, _future in enumerate(as_completed(futures), start=1):
                if on_progress is not None:
                    on_progress(done, len(futures))
        except BaseException:  # Ctrl-C: nobody waits for the rest
            for future in futures:
                future.cancel()
            raise
        return [future.result() for future in futures]

    # ---- inside ----------------------------------------------------------------------------------

    def _start(self, call: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(call, self._loop)

    def _wait(self, call: Call[T]) -> T:
        async def with_slot() -> T:
            async with self._slots:
                return await call()

        future = self._start(with_slot())
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    async def _chat(self, messages: Messages, sampling: Mapping[str, Any]) -> str:
        payload = {"model": self.model, "messages": [dict(each) for each in messages], **sampling}
        reply = await self._send(chat_url(self.url), payload)
        try:
            choice = reply["choices"][0]
            text = choice["message"]["content"]
        except (KeyError, IndexError, TypeError):
            found = self._excerpt(json.dumps(reply).encode())
            raise self._error(f"an answer without choices[0].message.content: {found}") from None
        if not isinstance(text, str):
            reason = choice.get("finish_reason")
            raise self._error(f"an answer without text (finish_reason {reason})")
        return text

    async def _send(self, url: str, payload: Any) -> Any:
        """All attempts of one call."""
        body = json.dumps(payload).encode()  # ASCII: half a surrogate pair cannot break it
        deadline = time.monotonic() + self.call_limit_s
        reason, wait_s = "", 0.0
        for attempt in range(self.max_retries + 1):
            remaining = deadline - time.monotonic()
            if wait_s >= remaining:
                raise self._error(f"{reason} (after {attempt} attempts; no time is left to wait)")
            await asyncio.sleep(wait_s)
            try:
                async with asyncio.timeout(min(self.time_limit_s, remaining - wait_s)):
                    status, headers, reply = await self._attempt(url, body)
            except (TimeoutError, httpx2.TimeoutException):
                reason = f"no answer within {self.time_limit_s:g} s"
            except httpx2.TransportError as error:
                reason = f"no connection: {str(error) or type(error).__name__}"
            except httpx2.HTTPError as error:
                raise self._error(f"{type(error).__name__}: {error}") from None
            else:
                if 200 <= status < 300:
                    return self._decode(reply)
                reason = f"HTTP {status}: {self._excerpt(reply)}"
                if status not in (408, 429) and status < 500:
                    raise self._error(reason)
                asked = retry_after_s(headers.get("retry-after"), headers.get("date"))
                if asked is not None:
                    if asked > LONGEST_WAIT_S:
                        raise self._error(f"{reason} (asks to wait for {asked:.0f} s)")
                    wait_s = asked
                    continue
            bound = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2**attempt)
            wait_s = self._jitter.uniform(0.0, bound)
        raise self._error(f"{reason} (after {self.max_retries + 1} attempts)")

    async def _attempt(self, url: str, body: bytes) -> tuple[int, Mapping[str, str], bytes]:
        reply = bytearray()
        async with self._client.stream("POST", url, content=body) as response:
            async for chunk in response.aiter_bytes():
                reply += chunk
                if len(reply) > MAX_REPLY_BYTES:
                    raise self._error(f"an answer of more than {MAX_REPLY_BYTES} bytes")
            return response.status_code, response.headers, bytes(reply)

    def _decode(self, reply: bytes) -> Any:
        try:
            return json.loads(reply)
        except (ValueError, RecursionError):
            raise self._error(f"an answer that is not JSON: {self._excerpt(reply)}") from None

    def _error(self, reason: str) -> EndpointError:
        return EndpointError(self._clean(reason))

    def _excerpt(self, reply: bytes) -> str:
        # Cleaned before it is cut, or a part of the key could stay.
        text = self._clean(reply[:100_000].decode("utf-8", errors="replace"))
        return (text[:_EXCERPT] + "...") if len(text) > _EXCERPT else (text or "nothing")

    def _clean(self, text: str) -> str:
        """One line without the key, which a server may echo."""
        return " ".join((text.replace(self._key, "***") if self._key else text).split())


class _Batch:
    """Runs calls as slots come free, and stops trying when all fail."""

    def __init__(self, slots: asyncio.Semaphore) -> None:
        self._slots = slots
        self._in_vain = 0
        """Failed calls since the last that worked."""

    async def run(self, call: Call[T]) -> T | EndpointError:
        async with self._slots:
            if self._in_vain >= TRIED_IN_VAIN:
                return EndpointError(f"not tried: the {self._in_vain} calls before it failed")
            try:
                result = await call()
            except EndpointError as error:
                self._in_vain += 1
                return error
            self._in_vain = 0
            return result


def check_url(url: str, name: str) -> str:
    """`url` if it is one of http or https without a password in it; else ConfigError."""
    try:
        parts = httpx2.URL(url)
        good = parts.scheme in ("http", "https") and bool(parts.host) and not parts.userinfo
    except httpx2.InvalidURL:
        good = False
    if good:
        return url
    raise ConfigError(
        f"{name} is not an address.",
        expected="http://HOST[:PORT][/PATH] or https://..., without user and password",
        found=repr(url) if "@" not in url else "an address with '@' in it",
        todo="correct it; a token goes into the variable that api_key_env names",
    )


def chat_url(base: str) -> str:
    """Where chat completions are: `base` as OpenAI clients take it, or a bare host."""
    url = httpx2.URL(base)
    path = url.path.rstrip("/") or "/v1"
    if not path.endswith("/chat/completions"):
        path += "/chat/completions"
    return str(url.copy_with(path=path))


def retry_after_s(header: str | None, now: str | None = None) -> float | None:
    """Seconds of a Retry-After header (a number or a date); None without a readable one.

    Args:
        now: the answer's Date header: two clocks may be an hour apart.
    """
    if header is None:
        return None
    try:
        return max(0.0, float(int(header)))
    except ValueError:
        pass
    try:
        begin = parsedate_to_datetime(now).timestamp() if now else time.time()
        return max(0.0, parsedate_to_datetime(header).timestamp() - begin)
    except (ValueError, TypeError, OverflowError):
        return None


def _read_key(variable: str) -> str:
    """The token in the environment; the messages do not show it."""
    if not variable:
        return ""
    key = os.environ.get(variable, "").strip()
    if not key or not key.isascii() or not key.isprintable():
        raise ConfigError(
            f"The environment variable {variable} holds no API key.",
            expected="a token of printable ASCII characters",
            found="characters that no header can carry" if key else "nothing",
            todo=f"export {variable}=... where the workers run, or leave api_key_env empty",
        )
    return key
