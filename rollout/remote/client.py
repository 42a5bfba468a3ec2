"""One vLLM server as a trainer's rank sees it: requests, its weights, and its health."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from rollout.types import Completion, Sampling


class ServerFault(Exception):
    """The server gave no usable answer; another one may."""


class NoAnswer(ServerFault):
    """It did not answer in time: it hangs, or is busy with something else."""


class OtherWeights(ServerFault):
    """The server is healthy, but does not have the weights that this rank waits for."""


class RequestRefused(Exception):
    """The server rejects the request itself; any other server would too."""


def completion_request(model: str, prompt_ids: list[int], sampling: Sampling) -> dict[str, Any]:
    """Return the body for vLLM's `/v1/completions`, token ids in and out.

    It sets every option: none may come from the server's own defaults.
    """
    body = {
        "model": model, "prompt": prompt_ids, "return_token_ids": True, "skip_special_tokens": False,
        "max_tokens": sampling.max_tokens, "temperature": sampling.temperature, "top_p": sampling.top_p,
        "top_k": max(sampling.top_k, 0), "min_p": sampling.min_p, "seed": sampling.seed,
        "repetition_penalty": sampling.repetition_penalty, "stop_token_ids": list(sampling.stop_ids),
    }  # fmt: skip
    if sampling.banned_ids:
        body["logit_bias"] = {str(token): -100.0 for token in sampling.banned_ids}
    return body | dict(sampling.further)


@dataclass
class Server:
    """A server's address and state. All methods run in the engine's event loop."""

    url: str
    session: aiohttp.ClientSession
    load: int = 0  # running requests from this rank
    up: bool = False  # answers, and has the policy's weights
    faults: int = 0  # in a row
    rest_until: float = 0.0  # no requests before this time: a server that fails fast would look least loaded
    silent: int = 0  # timeouts since its last answer
    why: str = "not checked yet"
    policy_step: int | None = None  # optimizer step of its weights, if the trainer announced it
    lost: asyncio.Event = field(default_factory=asyncio.Event)  # set when it goes down: its requests go elsewhere
    loading: asyncio.Lock = field(default_factory=asyncio.Lock)  # one change of weights at a time

    @property
    def usable(self) -> bool:
        return self.up and time.monotonic() >= self.rest_until

    async def complete(self, request_id: int, prompt_ids: list[int], sampling: Sampling, timeout: float) -> Completion:
        """Requests one completion, token ids in and out.

        Raises:
            ServerFault: no answer in `timeout` seconds, no connection, an error status, or an invalid answer.
            RequestRefused: status 400.
        """
        body = {"logprobs": 0, **completion_request("policy", prompt_ids, sampling)}
        answer = await self._post("/v1/completions", body, timeout)
        try:
            (choice,) = answer["choices"]
            ids = [int(token) for token in choice["token_ids"]]
            logprobs = [float(value) for value in choice["logprobs"]["token_logprobs"]]
            reason = choice["finish_reason"]
            if reason not in ("stop", "length") or len(ids) != len(logprobs) or not ids:
                raise ValueError(f"{len(ids)} tokens, {len(logprobs)} logprobs, finish_reason {reason!r}")
        except (KeyError, TypeError, ValueError) as error:
            raise ServerFault(f"invalid response: {error!r}") from error
        return Completion(request_id, ids, logprobs, reason)

    async def policy(self, timeout: float) -> str:
        """Returns the folder of its current weights; asks the engine itself, so a hung engine is a fault too."""
        return await self._rpc("policy", {}, timeout)

    async def load_policy(self, path: str, timeout: float) -> None:
        # Running requests pause, then resume with a recomputed KV cache: no token is sampled from the new weights
        # over the old ones' keys and values.
        await self._post("/pause?mode=keep", None, timeout)
        if await self._rpc("load_policy", {"path": path}, timeout) != path:
            raise ServerFault(f"did not load the weights in {path}")
        await self._post("/reset_prefix_cache?reset_running_requests=true", None, timeout)
        await self._post("/resume", None, timeout)
        # Last: an interrupted swap leaves the weights without a name, so the whole swap is repeated.
        await self._rpc("name_policy", {"path": path}, timeout)

    async def max_model_len(self, timeout: float) -> int:
        try:
            async with self.session.get(self.url + "/v1/models", timeout=aiohttp.ClientTimeout(timeout)) as response:
                return int((await response.json())["data"][0]["max_model_len"])
        except (aiohttp.ClientError, TimeoutError, OSError, KeyError, IndexError, TypeError, ValueError) as error:
            raise ServerFault(f"{type(error).__name__}: {error}") from error

    async def _rpc(self, method: str, arguments: dict[str, Any], timeout: float) -> str:
        answer = await self._post("/collective_rpc", {"method": method, "kwargs": arguments}, timeout)
        try:
            results = set(answer["results"])
        except (KeyError, TypeError) as error:
            raise ServerFault(f"invalid response to {method}: is it a `sawtooth serve-rollouts`?") from error
        return results.pop() if len(results) == 1 else ""  # its workers differ: no weights are usable

    async def _post(self, path: str, body: Any, timeout: float) -> Any:
        limit = aiohttp.ClientTimeout(total=timeout)
        try:
            async with self.session.post(self.url + path, json=body, timeout=limit) as response:
                text = await response.text()
                self.silent = 0
                if response.status == 400:
                    raise RequestRefused(text[:300])
                if response.status != 200:
                    raise ServerFault(f"status {response.status} on {path}: {text[:200]}")
                return await response.json() if text else None
        except TimeoutError as error:
            raise NoAnswer(f"no answer on {path} in {timeout:g} s") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise ServerFault(f"{type(error).__name__} on {path}: {error}") from error
