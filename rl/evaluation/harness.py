"""lm-evaluation-harness over rounds: each request runs one episode and returns the episode's final answer.

Importing this registers the model "sawtooth" with the harness (github.com/EleutherAI/lm-evaluation-harness).

request (context, generation_kwargs) -> Task -> run_episodes -> final answer, cut at `until`
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import normalize_gen_kwargs

from rewards.answer import answer_part
from rl.evaluation.cache import digest_of, hash_question
from rl.evaluation.harness_report import describe, episode_statistics
from rl.evaluation.models import open_model
from rl.evaluation.variants import ProtocolChoice, read_protocol
from rollout.engines import check_settings, make_engine
from rollout.episodes import run_episodes
from rollout.errors import InputError
from rollout.protocol import RoundProtocol
from rollout.types import Engine, Episode, Question, Sampling, StopReason, Task

_KNOWN = ("until", "max_gen_toks", "do_sample", "temperature", "top_p", "top_k", "min_p")


class ChatPrompt(str):
    """A rendered prompt that keeps its messages: each round renders them again, with its history."""

    messages: list[dict[str, Any]]


@register_model("sawtooth")
class SawtoothLM(LM):
    """The harness's interface to a model that reasons in rounds.

    The harness passes `--model_args`, `--batch_size` and `--device` here.

    Args:
        pretrained: folder or Hub id.
        protocol: as in `sawtooth eval --protocol`; None: the checkpoint's own.
        max_rounds: None: the protocol's own.
        max_tokens: of a round, if neither the task nor `--gen_kwargs` sets max_gen_toks.
        engine: "vllm", "transformers" or "server".
        seed: of requests that sample. A response depends only on it, on its prompt and on how many equal prompts
            came before.
        batch_size: of the transformers engine; vLLM makes its own batches.
        device: for the model of the transformers engine, if available.
        settings: further arguments of the engine (`vllm.LLM`'s, or `urls` for servers).

    Raises:
        InputError: there is no model, or no protocol for it, or a setting is unknown.
    """

    def __init__(
        self,
        pretrained: str,
        *,
        protocol: str | None = None,
        max_rounds: int | None = None,
        max_tokens: int = 8192,
        engine: str = "vllm",
        dtype: str = "auto",
        seed: int = 0,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        device: str | None = None,
        **settings: Any,
    ):
        super().__init__()
        self.model = open_model(str(pretrained), digest_of)
        if protocol is None and self.model.protocol is None:
            raise InputError(f"{pretrained} has no protocol.json: name a protocol, as --model_args protocol=vanilla")
        self._choice = read_protocol(protocol) if protocol else ProtocolChoice(self.model.protocol.name)
        self.max_rounds, self.max_tokens, self.seed, self.kind = max_rounds, max_tokens, seed, engine
        self.tokenizer = self.model.tokenizer()
        if engine == "transformers":
            settings["batch_size"] = int(batch_size) if str(batch_size).isdecimal() else max_batch_size
        if engine == "server":
            urls = settings.get("urls") or []
            settings["urls"] = urls.split() if isinstance(urls, str) else urls
            settings["weights_dir"] = "weights"  # for weight syncs by a trainer: unused here
        check_settings(engine, settings)
        self._dtype, self._place, self._engine_settings = dtype, device, settings
        self.statistics: dict[str, dict[str, Any]] = {}  # by task, for the last call's episodes

    @cached_property
    def engine(self) -> Engine:
        """Starts on the first request that needs it, so a task that can't run is refused before."""
        live, device = None, self._place
        if self.kind == "transformers":
            import torch
            from transformers import AutoModelForCausalLM

            live = AutoModelForCausalLM.from_pretrained(self.model.folder, dtype=self._dtype)
            if device and (torch.cuda.is_available() or not device.startswith("cuda")):
                live = live.to(device)
        own = {"model_path": str(self.model.folder), "model": live, "tokenizer": self.tokenizer, "dtype": self._dtype}
        return make_engine(self.kind, **own, **self._engine_settings)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Returns final answers, each cut at the first of its `until` strings; "" for an episode without an answer.

        All requests of a call with the same sampling settings run concurrently.
        """
        from tqdm.auto import tqdm

        settings = [self._settings(request.args[1]) for request in requests]
        tasks = self._tasks(requests)
        episodes: list[Episode | None] = [None] * len(requests)
        with tqdm(total=len(requests), desc="episodes", unit="episode", disable=disable_tqdm) as bar:
            for protocol, sampling in dict.fromkeys((protocol, sampling) for protocol, sampling, _ in settings):
                places = [i for i, (*alike, _) in enumerate(settings) if alike == [protocol, sampling]]

                def keep(index: int, episode: Episode, places=places, greedy=not sampling.temperature) -> None:
                    place = places[index]
                    episodes[place] = episode
                    if greedy and episode.stop_reason != StopReason.FAILED:  # --use_cache: a killed call resumes
                        answer = final_answer(episode, settings[place][2])
                        self.cache_hook.add_partial("generate_until", requests[place].args, answer)
                    bar.update()

                run_episodes([tasks[i] for i in places], self.engine, protocol, self.tokenizer, sampling, keep)
        self.statistics = episode_statistics(requests, episodes)
        for line in describe(self.statistics):
            print(line)
        return [final_answer(episode, until) for episode, (*_, until) in zip(episodes, settings, strict=True)]

    def _tasks(self, requests: Sequence[Instance]) -> list[Task]:
        """Returns one task per request. Equal prompts (a task's `repeats`) get different seeds."""
        seen: Counter[str] = Counter()
        tasks = []
        for request in requests:
            context = request.args[0]
            question: Question = context.messages if isinstance(context, ChatPrompt) else context
            key = hash_question(question)
            tasks.append(Task(question, seed_key=f"{key}/{seen[key]}"))
            seen[key] += 1
        return tasks

    def _settings(self, generation: dict[str, Any]) -> tuple[RoundProtocol, Sampling, tuple[str, ...]]:
        """Returns the protocol, its rounds' sampling settings, and the strings that end an answer.

        Raises:
            InputError: a setting does not apply to rounds.
        """
        given = normalize_gen_kwargs(generation, default_max_gen_toks=self.max_tokens)
        if given.get("num_beams") == 1:  # some tasks set it: no beam search
            del given["num_beams"]
        unknown = sorted(given.keys() - set(_KNOWN))
        if unknown:
            raise InputError(
                f"generation_kwargs.{unknown[0]} is not a setting of the sawtooth model; it takes {', '.join(_KNOWN)}"
            )
        own = self.model.protocol
        protocol, most = self._choice.resolve(own, given["max_gen_toks"], self.max_rounds)
        sampling = Sampling(max_tokens=most, temperature=0.0)
        if given["do_sample"]:
            picks = {name: given[name] for name in ("temperature", "top_p", "top_k", "min_p") if name in given}
            sampling = Sampling(max_tokens=most, seed=self.seed, **picks)
        return protocol, sampling, tuple(given["until"])

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Raises InputError: a given answer has no probability before the rounds leading to it are generated."""
        name = next((request.task_name for request in requests if request.task_name), "this task")
        kin = generative_kin(name)
        raise InputError(
            f"{name} compares loglikelihoods of given answers, which are undefined over rounds; use a task of type "
            + (f"generate_until: {', '.join(kin)}" if kin else "generate_until")
        )

    loglikelihood_rolling = loglikelihood

    def apply_chat_template(self, chat_history: list[dict[str, Any]], add_generation_prompt: bool = True) -> ChatPrompt:
        """Returns the prompt of round 1. Without --apply_chat_template, a prompt's text is the only user message."""
        if not add_generation_prompt:
            raise InputError(
                "this task starts the answer (gen_prefix), but the model has to think first; "
                "set `gen_prefix: null` in a copy of the task"
            )
        if not self.tokenizer.chat_template:
            raise InputError(
                f"the tokenizer of {self.model.name} has no chat template: leave out --apply_chat_template"
            )
        protocol, *_ = self._settings({})
        prompt = ChatPrompt(protocol.question_text(self.tokenizer, chat_history))
        prompt.messages = chat_history
        return prompt

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """Returns the template that rounds are rendered with, for the harness's records."""
        if isinstance(chat_template, str):
            raise InputError(
                f"--apply_chat_template {chat_template}: rounds use the checkpoint's own template; leave out the name"
            )
        return self.tokenizer.chat_template if chat_template else None

    @property
    def tokenizer_name(self) -> str:
        """Identifies the tokenizer in the prompt cache of `--cache_requests`."""
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def get_model_info(self) -> dict[str, Any]:
        """Returns the facts that the harness writes to `config` in its results file."""
        protocol, *_ = self._settings({})
        about = {"protocol": asdict(protocol), "engine": self.kind, "model_hash": self.model.identity}
        return {"sawtooth": about | {"seed": self.seed, "episodes": self.statistics}}


def final_answer(episode: Episode, until: Sequence[str] = ()) -> str:
    """Returns an episode's answer, cut at the first of `until`; "" if the episode did not end in an answer."""
    if episode.stop_reason != StopReason.ANSWERED:
        return ""
    answer = answer_part(episode.final_text).lstrip()
    ends = [place for stop in until if stop and (place := answer.find(stop)) >= 0]
    return answer[: min(ends)] if ends else answer


def generative_kin(name: str) -> list[str]:
    """Returns up to three generate_until tasks of the same family (first word) with the closest names."""
    from lm_eval.tasks import TaskManager

    family = name.partition("_")[0]
    kin = [
        other
        for other, entry in TaskManager().task_index.items()
        if other.partition("_")[0] == family and (entry.cfg or {}).get("output_type") == "generate_until"
    ]
    return difflib.get_close_matches(name, kin, n=3, cutoff=0.0)
