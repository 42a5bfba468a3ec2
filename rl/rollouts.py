"""Episodes for a generation batch: tasks of this rank, the policy's newest weights, the episodes of all ranks."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import broadcast_object_list, gather_object
from tqdm.auto import tqdm
from transformers import GenerationConfig

from rl.arrival import is_looked_at, probe_prompts, refuse_gap, sample_probe, sum_of_gaps
from rl.samples import collate
from rl.settings.schema import ConfigError
from rl.settings.unsupported import VLLM_SETTINGS, read_generation_kwargs
from rollout.episodes import run_episodes
from rollout.hf_engine import TransformersEngine
from rollout.remote.pool import NoServerError
from rollout.types import Engine, Episode, Sampling, Task, question_text
from rollout.weights import policy_tensors

if TYPE_CHECKING:
    from rl.trainer import EpisodeGRPOTrainer


def tasks_of(trainer: EpisodeGRPOTrainer, rows: list[dict[str, Any]], mode: str) -> list[Task]:
    """One task a row. TRL repeats each question num_generations times in a row, over all ranks."""
    size = trainer.num_generations if mode == "train" else trainer.num_generations_eval
    first = trainer.accelerator.process_index * len(rows)
    return [task_of(row, (first + index) // size) for index, row in enumerate(rows)]


def task_of(row: dict[str, Any], group: int) -> Task:
    """An episode to roll out for a row of the dataset."""
    columns = {key: value for key, value in row.items() if key != "prompt"}
    return Task(row["prompt"], row.get("answer", row.get("solution")), group, columns)


def episodes_of_all_ranks(trainer: EpisodeGRPOTrainer, rolled: Callable[[], list[Episode]]) -> list[Episode]:
    """Calls `rolled` for this rank's episodes, waits, and returns the episodes of all ranks, in rank order.

    Raises:
        NoServerError: the servers are gone for good. All ranks have then saved a checkpoint together.
    """
    started = time.perf_counter()
    outcome: list[Any] = []
    try:
        outcome = rolled()
    except NoServerError as error:
        outcome = [error]
    gathered = gather_object(outcome)
    trainer.add_time("time/rollout", time.perf_counter() - started)
    lost = next((item for item in gathered if isinstance(item, NoServerError)), None)
    if lost is not None:
        if trainer.model.training and trainer.state.global_step:
            trainer._save_checkpoint(trainer.model, trial=None)
        raise lost
    return gathered


def roll_out_now(trainer: EpisodeGRPOTrainer, tasks: list[Task]) -> list[Episode]:
    """Episodes of all ranks for each rank's `tasks`, from the policy as it is."""
    sync_weights(trainer)
    sampling = sampling_of(trainer, tasks)
    hidden = trainer.args.disable_tqdm or not trainer.accelerator.is_main_process
    with tqdm(total=len(tasks), desc="rollout", unit="episode", leave=False, disable=hidden) as bar:
        rolled = partial(
            run_episodes,
            tasks,
            channel_of(trainer.engine),
            trainer.protocol,
            trainer._tokenizer,
            sampling,
            on_episode=lambda *_: bar.update(),
        )
        return episodes_of_all_ranks(trainer, rolled)


def channel_of(engine: Engine) -> Engine:
    """The engine as one of several callers at the same time sees it."""
    channel = getattr(engine, "channel", None)
    return engine if channel is None else channel()


def sampling_of(trainer: EpisodeGRPOTrainer, tasks: list[Task], ahead: int = 0) -> Sampling:
    """How a generation batch is sampled that is trained on `ahead` accumulation steps from now."""
    seeded = getattr(trainer.args, "seeded_rollouts", False)
    fields, further = trainer.further_sampling
    settings = {
        "max_tokens": trainer.max_completion_length,
        "temperature": trainer.temperature,
        "top_p": trainer.top_p,
        "top_k": trainer.top_k or 0,
        "min_p": trainer.min_p or 0.0,
        "repetition_penalty": trainer.repetition_penalty,
        "seed": _seed(trainer, tasks, ahead) if seeded else None,
    }
    return Sampling(**settings | fields, further=further)


def further_sampling(args: Any, engine: Engine) -> tuple[dict[str, Any], tuple[tuple[str, Any], ...]]:
    """`generation_kwargs` and `cache_implementation` as fields of `Sampling` and as the engine's own settings.

    Raises:
        ConfigError: a setting that the engine or the episode loop can't take.
    """
    known = None
    if isinstance(engine, TransformersEngine):
        known = {name for name in vars(GenerationConfig()) if not name.startswith("_")}
    elif type(engine).__name__ in ("VLLMEngine", "ServerEngine"):
        known = VLLM_SETTINGS
    fields, further = read_generation_kwargs("", args.generation_kwargs, args.temperature, known)
    if args.cache_implementation is not None:
        if not isinstance(engine, TransformersEngine):
            raise ConfigError("cache_implementation is a setting of transformers' `generate`, which is not the engine")
        further = (("cache_implementation", args.cache_implementation), *further)
    return fields, further


def generates_itself(engine: Engine, model: Any) -> bool:
    """True where the engine samples with the very weights that are trained."""
    if not isinstance(engine, TransformersEngine):
        return False
    trained = {id(parameter) for parameter in model.parameters()}
    return any(id(parameter) in trained for parameter in engine.model.parameters())


def vllm_settings(args: Any) -> dict[str, Any]:
    """Arguments of `vllm.LLM` by TRL's settings, where the trainer starts it."""
    settings = {"model_impl": args.vllm_model_impl, "trust_remote_code": args.trust_remote_code}
    if torch.cuda.is_available():
        settings["gpu_memory_utilization"] = args.vllm_gpu_memory_utilization
    return settings


def _seed(trainer: EpisodeGRPOTrainer, tasks: list[Task], ahead: int) -> int:
    """Another one for each generation batch, each rank and each wave of further questions."""
    first, accumulation = tasks[0].group_id if tasks else 0, trainer.args.gradient_accumulation_steps
    batch = trainer.state.global_step * accumulation + trainer._step % accumulation + ahead
    return zlib.crc32(f"{trainer.args.seed}/{batch}/{trainer.accelerator.process_index}/{first}".encode())


def sync_weights(trainer: EpisodeGRPOTrainer) -> None:
    """Gives the engine the weights of this optimizer step, if its own are a copy. Every rank calls it."""
    engine, step = trainer.engine, trainer.state.global_step
    sync = getattr(engine, "sync_weights", None)
    if sync is None or trainer.synced_step == step:
        return
    started = time.perf_counter()
    if hasattr(engine, "announce"):
        engine.announce(step)
        trainer.accelerator.wait_for_everyone()
    with policy_tensors(trainer.accelerator.unwrap_model(trainer.model)) as tensors:
        told = [sync(tensors)]
    if hasattr(engine, "adopt"):  # servers: one rank has written the weights, all make sure of what they talk to
        broadcast_object_list(told)
        engine.adopt(told[0])
    trainer.synced_step = step
    if trainer.deepspeed is not None or not trainer.is_deepspeed_enabled:  # it can't run before DeepSpeed has it
        trainer.syncs += 1
        if is_looked_at(trainer.syncs):
            _look_at(trainer)
    trainer.add_time("time/sync", time.perf_counter() - started)


def _look_at(trainer: EpisodeGRPOTrainer) -> None:
    """Stops the run where the engine's logprobs are not those of the policy. Every rank calls it."""
    tokenizer, model, pad = trainer._tokenizer, trainer.model, trainer._tokenizer.pad_token_id
    texts = [question_text(prompt) for prompt in trainer.train_dataset[:8]["prompt"]]
    prompts = probe_prompts(texts, partial(tokenizer.encode, add_special_tokens=False), tokenizer.eos_token_id)
    engine = channel_of(trainer.engine)
    samples = sample_probe(engine, prompts, trainer.temperature, trainer.max_completion_length, pad)
    batch = collate(samples, pad, trainer.accelerator.device)
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)  # [B, P + T]
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
    training = model.training
    model.eval()
    with torch.no_grad():
        logps = trainer._get_per_token_logps_and_entropies(model, ids, mask, batch["completion_ids"].size(1))[0]
    model.train(training)
    both = {str(model.dtype), f"torch.{getattr(trainer.engine, 'dtype', 'unknown')}"}
    exact = both <= {"torch.float32", "torch.float64"} and trainer.accelerator.mixed_precision == "no"
    refuse_gap(gather_object([sum_of_gaps(logps, batch)]), "float32" if exact else "half")
