"""The policy's own `generate` as an engine: needs neither a second copy of the weights nor vLLM, but is slow."""

from __future__ import annotations

from typing import Any

from rollout.endings import end_ids
from rollout.errors import InputError
from rollout.types import Completion, Sampling


class TransformersEngine:
    """`Engine` over a `transformers` model. `poll` generates for a batch of the waiting requests.

    Args:
        model: used without a copy, so it always has the policy's weights.
        batch_size: maximum requests of one `generate` call.
        max_model_len: maximum tokens of a prompt and its completion; None: the model's context.
    """

    def __init__(self, model: Any, tokenizer: Any, batch_size: int = 64, max_model_len: int | None = None):
        self.model, self.tokenizer, self.batch_size = model, tokenizer, batch_size
        limits = (max_model_len, getattr(model.config, "max_position_embeddings", None))
        self.max_model_len: int | None = min((limit for limit in limits if limit is not None), default=None)
        self._waiting: list[tuple[int, list[int], Sampling]] = []

    @property
    def ends(self) -> tuple[int, ...]:
        """The tokens that end a turn, including the generation config's, as in `generate`."""
        return end_ids(self.tokenizer, getattr(getattr(self.model, "generation_config", None), "eos_token_id", None))

    def submit(self, request_id: int, prompt_ids: list[int], sampling: Sampling) -> None:
        limit = self.max_model_len
        if limit is not None and len(prompt_ids) >= limit:
            raise InputError(f"a prompt of {len(prompt_ids)} tokens leaves no room in a context of {limit}")
        self._waiting.append((request_id, list(prompt_ids), sampling))

    def poll(self) -> list[Completion]:
        if not self._waiting:
            return []
        sampling = self._waiting[0][2]
        same = [w for w in self._waiting if (w[2].seed is None and w[2] == sampling) or w is self._waiting[0]]
        batch = same[: self.batch_size]
        taken = {request_id for request_id, _, _ in batch}
        self._waiting = [w for w in self._waiting if w[0] not in taken]
        return self._generate(batch, sampling)

    def _generate(self, batch: list[tuple[int, list[int], Sampling]], sampling: Sampling) -> list[Completion]:
        import torch
        from transformers import GenerationConfig

        device = self.model.device
        ends = list(dict.fromkeys((*self.ends, *sampling.stop_ids)))
        pad = self.tokenizer.pad_token_id
        pad = ends[0] if pad is None and ends else pad
        width = max(len(prompt) for _, prompt, _ in batch)
        room = (self.max_model_len or width + sampling.max_tokens) - width
        ids = torch.full((len(batch), width), pad, device=device)  # [B, P], left-padded
        mask = torch.zeros_like(ids)
        for row, (_, prompt, _) in enumerate(batch):
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            mask[row, width - len(prompt) :] = 1
        greedy = sampling.temperature == 0.0
        picks = {"temperature": sampling.temperature, "top_p": sampling.top_p, "min_p": sampling.min_p or None}
        settings = {
            "max_new_tokens": max(1, min(sampling.max_tokens, room)),
            "do_sample": not greedy,
            "top_k": max(sampling.top_k, 0),
            **({} if greedy else picks),
            "repetition_penalty": sampling.repetition_penalty,
            "pad_token_id": pad,
            "eos_token_id": ends or None,
            "suppress_tokens": list(sampling.banned_ids) or None,
            "output_scores": True,
            "return_dict_in_generate": True,
        }
        config = GenerationConfig(**settings | dict(sampling.further))
        training = self.model.training
        self.model.eval()
        fork = {"devices": [device] if device.type == "cuda" else [], "enabled": sampling.seed is not None}
        with torch.no_grad(), torch.random.fork_rng(**fork):
            if sampling.seed is not None:
                torch.manual_seed(sampling.seed)
            out = self.model.generate(input_ids=ids, attention_mask=mask, generation_config=config)
            beams = getattr(out, "beam_indices", None)  # num_beams in `further`
            scores = self.model.compute_transition_scores(out.sequences, out.scores, beams, normalize_logits=True)  # BT
        self.model.train(training)
        results = []
        for row, (request_id, _, _) in enumerate(batch):
            tokens = out.sequences[row, width:].tolist()
            found = [place for place, token in enumerate(tokens) if token in ends]
            length = found[0] + 1 if found else len(tokens)
            reason = "stop" if found else "length"
            results.append(Completion(request_id, tokens[:length], scores[row, :length].tolist(), reason))
        return results
