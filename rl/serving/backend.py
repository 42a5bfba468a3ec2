"""vLLM's OpenAI server as a `stream.Backend`: token ids in, token ids out, chunk by chunk."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import replace
from typing import Any

import aiohttp

from rl.serving.stream import BackendFault
from rollout.remote.client import completion_request
from rollout.types import Sampling

_PATIENCE = aiohttp.ClientTimeout(total=None, sock_connect=10)  # a queued request may be silent for any time


class VLLMBackend:
    """A vLLM server. Call `connect` first, in the event loop that sends the requests.

    Args:
        url: its root, with or without `/v1`.
        api_key: the key that it was started with, if any.
    """

    def __init__(self, url: str, api_key: str | None = None):
        self.url = url.rstrip("/").removesuffix("/v1")
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._session: aiohttp.ClientSession | None = None
        self.model = ""  # the served name
        self.max_model_len = 0

    async def connect(self) -> None:
        """Opens the session and gets the served model's name and context length.

        Raises:
            BackendFault: no vLLM server answers there.
        """
        if self._session is None:
            # The caller limits concurrency. Each request has its own connection: vLLM closes one that is idle for 5 s,
            # perhaps just as the next request is sent on it.
            connector = aiohttp.TCPConnector(limit=0, force_close=True)
            self._session = aiohttp.ClientSession(connector=connector, headers=self._headers)
        try:
            limit = aiohttp.ClientTimeout(10)
            async with self._session.get(self.url + "/v1/models", timeout=limit) as response:
                if response.status == 401:
                    raise BackendFault(f"{self.url} requires an API key: set VLLM_API_KEY")
                (served, *_) = (await response.json())["data"]
                self.model, self.max_model_len = served["id"], int(served["max_model_len"])
        except (aiohttp.ClientConnectorError, TimeoutError) as error:
            raise BackendFault(f"no server responds at {self.url}: start it, or leave out --url") from error
        except (aiohttp.ClientError, OSError, KeyError, TypeError, ValueError) as error:
            raise BackendFault(f"{self.url} does not respond like a vLLM server: {error!r}") from error

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def healthy(self) -> bool:
        """Returns whether its engine answers."""
        try:
            async with self._session.get(self.url + "/health", timeout=aiohttp.ClientTimeout(5)) as response:
                return response.status == 200
        except (aiohttp.ClientError, OSError, TimeoutError):
            return False

    async def generate(
        self, prompt_ids: list[int], sampling: Sampling
    ) -> AsyncGenerator[tuple[list[int], str | None], None]:
        """See `stream.Backend`. `max_tokens` is capped at the room in the context."""
        room = self.max_model_len - len(prompt_ids)
        if room < 1:
            raise BackendFault(
                f"a prompt of {len(prompt_ids)} tokens leaves no room in a context of {self.max_model_len}"
            )
        sampling = replace(sampling, max_tokens=min(sampling.max_tokens, room))
        body = {**completion_request(self.model, prompt_ids, sampling), "stream": True}
        try:
            async with self._session.post(self.url + "/v1/completions", json=body, timeout=_PATIENCE) as response:
                if response.status != 200:
                    raise BackendFault(f"vLLM returned {response.status}: {_reason(await response.text())}")
                async for chunk in _events(response.content):
                    if "error" in chunk:
                        raise BackendFault(f"vLLM: {chunk['error'].get('message', chunk['error'])}")
                    for choice in chunk["choices"]:
                        finish = choice["finish_reason"]
                        if finish not in (None, "stop", "length"):
                            raise BackendFault(f"vLLM ended the request with {finish!r}")
                        yield choice["token_ids"] or [], finish
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise BackendFault(f"the connection to vLLM was lost ({type(error).__name__})") from error
        except (KeyError, TypeError, ValueError) as error:
            raise BackendFault(f"vLLM's response is invalid: {error!r}") from error


async def _events(stream: aiohttp.StreamReader) -> AsyncIterator[dict[str, Any]]:
    """Yields JSON of server-sent events. aiohttp limits lines to 128 kB, which the first (the prompt) may exceed."""
    left = b""
    async for data in stream.iter_any():
        *lines, left = (left + data).split(b"\n")
        for line in lines:
            if line.startswith(b"data: ") and line.strip() != b"data: [DONE]":
                yield json.loads(line.removeprefix(b"data: "))


def _reason(text: str) -> str:
    try:
        return str(json.loads(text)["error"]["message"])[:300]
    except (ValueError, KeyError, TypeError):
        return text[:300]
