"""vLLM in this process: one scheduler step per poll, so that a round can start while others are running."""

from __future__ import annotations

import dataclasses
import inspect
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from rollout.endings import end_ids
from rollout.errors import InputError, refuse_unknown
from rollout.processes import ranks
from rollout.quiet import keep_libraries_quiet
from rollout.types import Completion, Sampling

if TYPE_CHECKING:
    import torch

CPU_CACHE = 1 << 30  # default bytes of the KV cache (without a GPU)


def _prepare_environment(gpu: bool) -> None:
    """Sets the environment variables that vLLM reads at import. Those that are already set are kept."""
    keep_libraries_quiet()
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # engine core in this process: weights by reference
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    if not gpu and ranks() > 1:
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # else all ranks use the same cores


class VLLMEngine:
    """`Engine` over an in-process `vllm.LLM`, on a GPU or with vLLM's CPU build. Each rank has its own.

    Args:
        model: folder or Hub id of the checkpoint.
        dtype: of weights and activations. The logprob mismatch with the trainer is smallest if both use the same.
        settings: any further argument of `vllm.LLM`.
    """

    def __init__(self, model: str, *, dtype: str = "auto", seed: int = 0, **settings: Any):
        import torch

        self._devices = settings.get("tensor_parallel_size") or 1
        if self._devices > 1 and ranks() > 1:  # they would wait for one another: each rank has its own requests
            raise InputError(
                f"tensor_parallel_size is {self._devices}, but each of several ranks has an engine on one device: "
                "start `sawtooth serve-rollouts` with it, and name that server"
            )
        gpu = torch.cuda.is_available()
        _prepare_environment(gpu)
        threads = torch.get_num_threads()
        from vllm import LLM, EngineArgs

        known = {*inspect.signature(LLM).parameters, *(field.name for field in dataclasses.fields(EngineArgs))}
        refuse_unknown("vLLM", settings, known - {"kwargs", "logprobs_mode"})
        if not gpu:
            settings.setdefault("enforce_eager", True)
            # A seeded request with a chunked prefill breaks the CPU build: "CPU Generator does not use offset".
            settings.setdefault("enable_chunked_prefill", False)
            settings.setdefault("max_num_seqs", 256)
            settings.setdefault("kv_cache_memory_bytes", CPU_CACHE)  # VLLM_CPU_KVCACHE_SPACE would override it
        if ranks() > 1:  # an engine in each rank, inside the launcher's process group
            settings.setdefault("distributed_executor_backend", "external_launcher")
        self._llm = LLM(
            model=str(model),
            dtype=dtype,
            seed=seed,
            logprobs_mode="processed_logprobs",  # of the sampling distribution
            **{"disable_log_stats": True, "use_tqdm_on_load": False, **settings},
        )
        torch.set_num_threads(threads)  # vLLM's CPU worker lowers it for the whole process
        self._engine = self._llm.llm_engine
        self._refused: list[Completion] = []
        self.under_way = 0  # tokens generated so far by unfinished requests, at the last step
        self.dtype = str(self._llm.model_config.dtype).removeprefix("torch.")
        self.max_model_len: int = self._llm.model_config.max_model_len
        generation = self._llm.model_config.try_get_generation_config()
        self.ends = end_ids(self._llm.get_tokenizer(), generation.get("eos_token_id"))

    def submit(self, request_id: int, prompt_ids: list[int], sampling: Sampling) -> None:
        from vllm import SamplingParams

        room = self.max_model_len - len(prompt_ids)
        if room < 1:
            message = f"a prompt of {len(prompt_ids)} tokens leaves no room in max_model_len={self.max_model_len}"
            self._refused.append(Completion(request_id, [], None, "error", message))
            return
        settings = {
            "max_tokens": min(sampling.max_tokens, room),
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": max(sampling.top_k, 0),
            "min_p": sampling.min_p,
            "repetition_penalty": sampling.repetition_penalty,
            "seed": sampling.seed,
            "stop_token_ids": list(dict.fromkeys((*sampling.stop_ids, *self.ends))),
            "logit_bias": dict.fromkeys(sampling.banned_ids, -100.0) or None,
            "logprobs": 0,  # the sampled token's own
            "skip_special_tokens": False,
            "detokenize": False,  # token in, token out; the episode loop decodes once
        }
        params = SamplingParams(**settings | dict(sampling.further))
        self._engine.add_request(str(request_id), {"prompt_token_ids": list(prompt_ids)}, params)

    def poll(self) -> list[Completion]:
        done, self._refused = self._refused, []
        while not done and self._engine.has_unfinished_requests():
            outputs = self._engine.step()
            done = [_completion(output) for output in outputs if output.finished]
            self.under_way = sum(len(o.outputs[0].token_ids) for o in outputs if not o.finished)
        return done

    def sync_weights(self, named_tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Replaces the weights with the trainer's, under checkpoint names. Drops cached prefixes."""
        if self._devices > 1:  # its workers are other processes, which an iterator over tensors can't reach
            raise InputError(
                f"tensor_parallel_size is {self._devices}: an engine that receives weights has one device here; start "
                "`sawtooth serve-rollouts` with it, and name that server"
            )
        self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(named_tensors)})
        self._llm.apply_model(refresh_tied_head)
        self._llm.reset_prefix_cache()

    def close(self) -> None:
        """Frees the engine's memory."""
        import gc

        self._engine.engine_core.shutdown()
        del self._engine, self._llm
        gc.collect()


def refresh_tied_head(model: Any) -> None:
    """Repacks a tied output head after a reload.

    vLLM's CPU backend keeps a packed copy of the head's weights. A reload refreshes the embedding, not that copy, so
    the head of a model with `tie_word_embeddings` would keep answering with the old weights.
    """
    head = getattr(model, "lm_head", None)
    method = getattr(head, "quant_method", None)
    if method is not None and getattr(model.config, "tie_word_embeddings", False):
        method.process_weights_after_loading(head)


def _completion(output: Any) -> Completion:
    """Converts vLLM's RequestOutput to a Completion."""
    result = output.outputs[0]
    ids = list(result.token_ids)
    logprobs = [position[token].logprob for position, token in zip(result.logprobs or [], ids, strict=True)]
    reason = result.finish_reason
    if reason not in ("stop", "length"):
        return Completion(int(output.request_id), ids, logprobs, "error", f"vLLM ended the request with {reason!r}")
    return Completion(int(output.request_id), ids, logprobs, reason)
