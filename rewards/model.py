"""Reward models: sequence classifiers that score question and answer, as in TRL's trainers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jinja2 import TemplateError
from torch import nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel

from rollout.errors import InputError, UserError
from rollout.types import Episode, Question, StopReason


class RewardModelError(UserError):
    """A reward model could not score an episode."""


class RewardModel:
    """A reward function based on a sequence classifier: its first logit is the reward.

    Its input is the question and the last round's text, rendered with its tokenizer's chat template if the question is
    chat messages (or `chat` is set), else concatenated, as in TRL.

    Args:
        model: a folder, a Hub id, or the module itself. A path is loaded at first use.
        tokenizer: its tokenizer; None: loaded from the model's folder or id.
        batch_size: maximum number of texts in one forward pass.
        chat: treat plain-text questions as user messages too.
        template: additional arguments for the chat template.
        loading: additional arguments for `from_pretrained`.
    """

    def __init__(
        self,
        model: str | nn.Module,
        tokenizer: Any = None,
        *,
        batch_size: int = 8,
        chat: bool = False,
        template: dict[str, Any] | None = None,
        loading: dict[str, Any] | None = None,
    ):
        self.model, self.tokenizer, self.batch_size = model, tokenizer, batch_size
        self.chat, self.template, self.loading = chat, template or {}, loading or {}
        source = model if isinstance(model, str) else getattr(getattr(model, "config", None), "_name_or_path", "")
        self.limit = _most_tokens(model)
        self.__name__ = str(source).rstrip("/").rpartition("/")[2] or type(model).__name__

    def load(self) -> nn.Module:
        """Returns the module, loaded first if it was given as a path.

        Raises:
            InputError: it can't be read, or the checkpoint is not a reward model.
        """
        if isinstance(self.model, str):
            path = self.model
            try:
                model, found = AutoModelForSequenceClassification.from_pretrained(
                    path, num_labels=1, output_loading_info=True, **self.loading
                )
            except (OSError, ValueError, RuntimeError) as error:
                reason = " ".join(str(error).split())
                raise InputError(f"the reward model {path} can't be read: {reason:.300}") from error
            missing = sorted(found["missing_keys"])
            if missing:
                raise InputError(
                    f"{path} is not a reward model: its checkpoint has no weights for {', '.join(missing[:3])}, so "
                    "they would be initialized randomly. Use a sequence classifier with one label"
                )
            self.model, self.limit = model, _most_tokens(model)
            if self.tokenizer is None:
                wanted = {k: v for k, v in self.loading.items() if k in ("revision", "trust_remote_code")}
                self.tokenizer = AutoTokenizer.from_pretrained(path, **wanted)
        if self.tokenizer is None:
            raise InputError(f"the reward model {self.__name__} has no tokenizer: give it in reward_processing_classes")
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        config = getattr(self.model, "config", None)
        if hasattr(config, "get_text_config"):  # it scores each row's last non-padding token
            config.get_text_config().pad_token_id = self.tokenizer.pad_token_id
        return self.model.eval()

    def take(self, prepared: nn.Module, device: Any, chat: bool, template: dict[str, Any]) -> None:
        """Switches to the module as prepared by a trainer, and to its way of rendering questions."""
        self.model = prepared if isinstance(self.model, PreTrainedModel) else prepared.to(device)
        self.chat, self.template = chat, template

    def __call__(self, episodes: Sequence[Episode], **_: Any) -> list[float]:
        self.load()
        return rewards_or_raise(self.share(episodes, 0, 1))

    def share(self, episodes: Sequence[Episode], rank: int, ranks: int) -> list[float | str]:
        """Returns one rank's share of the episodes' rewards, in order; for an episode without one, the reason.

        All ranks run the same number of forward passes, which is required if the model is sharded over them (ZeRO-3).
        """
        size = -(-len(episodes) // ranks)
        mine = list(episodes[rank * size : (rank + 1) * size])
        results: list[float | str] = []
        for start in range(0, size, self.batch_size):
            results += self._batch(mine[start : start + self.batch_size])
        return results

    def _batch(self, episodes: Sequence[Episode]) -> list[float | str]:
        """Runs one forward pass, even if there are no episodes left to score."""
        read = [self._ids(episode) for episode in episodes]
        kept = [ids if isinstance(ids, list) else [self.tokenizer.pad_token_id] for ids in read]
        inputs = self.tokenizer.pad(
            {"input_ids": kept or [[self.tokenizer.pad_token_id]]}, padding_side="right", return_tensors="pt"
        )
        try:
            with torch.no_grad():
                logits = self.model(**inputs.to(next(self.model.parameters()).device)).logits  # [B, labels]
            values = logits[:, 0].float().tolist()
        except RuntimeError as error:  # out of memory: the other passes' rewards remain valid
            values = [" ".join(str(error).split())] * len(read)
        return [ids if isinstance(ids, str) else value for ids, value in zip(read, values, strict=False)]

    def _ids(self, episode: Episode) -> list[int] | str:
        """Returns the model's input ids for an episode, or the reason why there are none."""
        if episode.stop_reason == StopReason.FAILED:
            return "there is no output"
        try:
            text = self.text(episode.question, episode.final_text)
        except (TemplateError, TypeError, ValueError) as error:
            return f"the chat template can't render it: {error}"
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        if self.limit is not None and len(ids) > self.limit:
            return f"the episode has {len(ids)} tokens; the model takes at most {self.limit}"
        return list(ids) or [self.tokenizer.pad_token_id]

    def text(self, question: Question, answer: str) -> str:
        """Returns the model's input text for one episode."""
        chat = not isinstance(question, str)
        if not chat and not (self.chat and getattr(self.tokenizer, "chat_template", None)):
            return question + answer
        messages = list(question) if chat else [{"role": "user", "content": question}]
        messages.append({"role": "assistant", "content": answer})
        return self.tokenizer.apply_chat_template(messages, tokenize=False, **self.template)


def rewards_or_raise(values: Sequence[float | str]) -> list[float]:
    """Returns the rewards if every episode has one.

    Raises:
        RewardModelError: an episode has none; the message is the reason.
    """
    for value in values:
        if isinstance(value, str):
            raise RewardModelError(value)
    return list(values)


def _most_tokens(model: Any) -> int | None:
    return getattr(getattr(model, "config", None), "max_position_embeddings", None)
