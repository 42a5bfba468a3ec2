"""GRPO over whole episodes on TRL's trainer (InftyThink+, arXiv 2602.06960, section 3).

rows -> run_episodes -> score_episodes -> group_advantages -> episode_to_samples -> microbatches -> TRL's loss

Kept from TRL: config, data order, loss types, KL, PEFT, logging, checkpoints. Changed: a generation batch consists of
episodes, and each of its accumulation steps contains whole episodes, in any number of micro-batches.
"""

from __future__ import annotations

import inspect
import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from trl import GRPOTrainer

from rewards.score import Scores, as_rewards
from rewards.state import load_reward_states, save_reward_states
from rl.advantages import batch_advantages
from rl.async_rollouts import AsyncRollouter
from rl.baseline import with_baseline
from rl.config import EpisodeGRPOConfig, refuse_unsupported
from rl.dynamic_sampling import dropped_groups, refill, without
from rl.metrics import batch_metrics, trained_tokens, trl_metrics
from rl.metrics_file import DropLaterEpisodes
from rl.microbatches import MicroBatch, assign_episodes, plan_microbatches
from rl.rollouts import Rollouter, generates_itself, sampling_of, tasks_of
from rl.samples import TrainingSample, episode_to_samples
from rl.scoring import Scorer, with_models
from rl.settings.dtypes import engine_dtype, mixed_dtype
from rl.settings.unsupported import refuse_rewards
from rl.trackers import EpisodeTable
from rl.trl_seam import ROW_MEAN_LOSSES, TRLSeam
from rl.weight_sync import PROBED, Probe, WeightSync
from rollout.engines import make_engine
from rollout.errors import InputError, NoServerError, UserError
from rollout.protocol import RoundProtocol, get_protocol
from rollout.store import EpisodeStore
from rollout.types import Engine, Episode, StopReason, Task


class EpisodeGRPOTrainer(TRLSeam):
    """`trl.GRPOTrainer` whose completions are episodes of several rounds.

    Takes all of TRL's arguments, and:

    Args:
        protocol: how an episode is cut into rounds; None: one round, as in TRL.
        engine: generates the rollouts; None: vLLM in this process if `args.use_vllm`, else the model's own `generate`.
        episodes_dir: folder for the parquet files of every step's episodes; None: they are not stored.

    `train_dataset` has `prompt` (the question: text or chat messages) and any columns; `answer` or `solution` is the
    gold answer. Batch sizes count episodes. Truncated and malformed episodes are trained on with the reward they get (0
    from the `answer` reward), but `mask_truncated_completions` drops truncated ones. An episode that can't be scored is
    dropped. If an episode failed, its whole group is dropped.
    """

    _tag_names = ["trl", "grpo", "sawtooth"]

    def __init__(
        self,
        model: Any,
        reward_funcs: Any = None,
        args: Any = None,
        *positional: Any,
        protocol: RoundProtocol | None = None,
        engine: Engine | None = None,
        episodes_dir: str | Path | None = None,
        **kwargs: Any,
    ):
        args = args or EpisodeGRPOConfig(output_dir="grpo")
        given = inspect.signature(GRPOTrainer.__init__).bind_partial(self, model, None, args, *positional, **kwargs)
        given = {name: value for name, value in given.arguments.items() if name != "self"}
        refuse_unsupported(args, given, starts_vllm=args.use_vllm and engine is None)
        if not isinstance(reward_funcs, (list, tuple)):
            reward_funcs = [] if reward_funcs is None else [reward_funcs]
        loading = {"trust_remote_code": args.trust_remote_code, **(args.model_init_kwargs or {})}
        if args.world_size > 1:
            loading["device_map"] = None
        rewards = as_rewards(with_models(reward_funcs, given.get("reward_processing_classes"), loading))
        refuse_rewards("", vars(args), rewards)
        if getattr(args, "dynamic_sampling", False) and not any(r.verifier for r in rewards):
            raise InputError("dynamic_sampling looks at accuracy: it needs the `answer` reward or another verifier")
        super().__init__(given, [reward.fn for reward in rewards])
        protocol = protocol or get_protocol("vanilla", segment_tokens=args.max_completion_length, chat=False)
        template = protocol.chat_template_kwargs | self.chat_template_kwargs
        self.protocol = protocol.replace(chat_template_kwargs=template)
        for model, prepared in self.reward_models:
            model.take(prepared, self.accelerator.device, protocol.chat, template)
        weights = args.reward_weights or [reward.weight for reward in rewards]
        self.rewards = [replace(reward, weight=w) for reward, w in zip(rewards, weights, strict=True)]
        self._scorer = Scorer(self.rewards, self.accelerator)
        self.engine = engine or self._make_engine()
        if generates_itself(self.engine, self.model):
            # The model's own `generate` needs no correction; top_p and similar settings would look like a mismatch.
            self.vllm_importance_sampling_correction = False
        self._set_up_rollouts()
        self.table = None
        if args.log_completions:
            if not {"wandb", "trackio"} & {*args.report_to}:  # TRL writes files too
                episodes_dir = episodes_dir or Path(args.output_dir) / "episodes"
            self.table = EpisodeTable(self.callback_handler.callbacks)
            self.add_callback(self.table)
        self.store = EpisodeStore(episodes_dir) if episodes_dir else None
        if self.store:
            self.add_callback(DropLaterEpisodes(self.store))

    def _make_engine(self) -> Engine:
        args = self.args
        settings: dict[str, Any] = {}
        if args.use_vllm:
            settings = {"model_impl": args.vllm_model_impl, "trust_remote_code": args.trust_remote_code}
            settings["seed"] = args.seed + self.accelerator.process_index
            settings["load_format"] = "dummy"  # all weights arrive by sync: `rl.weight_sync`
            if torch.cuda.is_available():
                settings["gpu_memory_utilization"] = args.vllm_gpu_memory_utilization
        weights, mixed = str(self.model.dtype).removeprefix("torch."), mixed_dtype(vars(args), on_card=False)
        return make_engine(
            "vllm" if args.use_vllm else "transformers",
            model_path=self.model.config._name_or_path,
            model=self.model,
            tokenizer=self._tokenizer,
            dtype=engine_dtype(weights, mixed, self.accelerator.device.type == "cuda"),
            max_model_len=args.vllm_max_model_length,
            **settings,
        )

    def _set_up_rollouts(self) -> None:
        args, accelerator, rank = self.args, self.accelerator, self.accelerator.process_index
        sampling = sampling_of(args, self.engine)
        probe = Probe(
            self.engine,
            self.train_dataset[:PROBED]["prompt"],
            self._tokenizer,
            self._logps,
            sampling,
            accelerator.device,
            mixed_precision=accelerator.mixed_precision != "no",
        )
        self._weight_sync = WeightSync(self.engine, accelerator, probe, self.times)
        self.rollouter = Rollouter(
            self.engine,
            self.protocol,
            self._tokenizer,
            sampling,
            seed=args.seed if getattr(args, "seeded_rollouts", False) else None,
            rank=rank,
            ranks=accelerator.num_processes,
            times=self.times,
            progress=accelerator.is_main_process and not args.disable_tqdm,
        )
        depth = getattr(args, "async_steps", 0)
        if depth and not hasattr(self.engine, "channel"):
            raise InputError(f"async_steps is {depth}: rollouts ahead of the training need `engine: server`")
        self._async = None
        if depth:
            of_rows = partial(tasks_of, rank=rank, group_size=self.num_generations)
            self._async = AsyncRollouter(self.rollouter, depth, self._generate_every, of_rows, self.sync_weights)

    # Rollouts.

    def sync_weights(self) -> None:
        """Sends the weights of this optimizer step to the engine. Every rank calls it."""
        can_run = self.deepspeed is not None or not self.is_deepspeed_enabled
        self._weight_sync(self.model, self.state.global_step, can_run)

    def roll_out(self, tasks: list[Task]) -> list[Episode]:
        """Returns all ranks' episodes for each rank's `tasks`, from the current policy."""
        self.sync_weights()
        return self.rollouter.collect(tasks, self._accumulation_steps)

    def roll_out_shared(self, tasks: list[Task]) -> list[Episode]:
        """Returns the episodes for tasks that all ranks know; each rank rolls out a part."""
        return self.roll_out(self.rollouter.share(tasks))

    def add_baseline(self, path: Path) -> None:
        """Measures the untrained model on each question, if a reward needs that (`rl.baseline`)."""
        is_main = self.accelerator.is_main_process
        progress = is_main and not self.args.disable_tqdm
        self.train_dataset = with_baseline(
            self.train_dataset, path, self.rewards, self.roll_out_shared, is_main=is_main, progress=progress
        )
        self.times.flush()  # they are not part of the first step

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> tuple:
        batches = self._async.watch(epoch_iterator) if self._async else epoch_iterator
        return super().get_batch_samples(batches, num_batches, device)

    def _end_accumulation_step(self) -> None:
        if self._async:
            self._async.advance()

    def _episodes_of(self, rows: list[dict[str, Any]], mode: str) -> list[Episode]:
        if mode == "train" and self._async:
            accumulation = self.args.gradient_accumulation_steps
            left = (self.state.max_steps - self.state.global_step) * accumulation - self._step % accumulation
            episodes = self._async.collect(rows, self._accumulation_steps, left)
        else:
            size = self.num_generations if mode == "train" else self.num_generations_eval
            episodes = self.roll_out(tasks_of(rows, self.accelerator.process_index, size))
        if all(e.stop_reason == StopReason.FAILED for e in episodes):
            raise UserError(f"all {len(episodes)} episodes of this step failed; the first: {episodes[0].error}")
        return episodes

    # One generation batch: rows in, micro-batches for each of its accumulation steps out.

    def _make_batch(self, rows: list[dict[str, Any]], mode: str) -> list[list[MicroBatch]]:
        """Rolls out this rank's share of the episodes, scores all ranks' episodes, and deals out their rounds."""
        try:
            return self._slots_of(self._episodes_of(rows, mode), mode)
        except NoServerError:  # raised on all ranks: save the training so far
            if mode == "train" and self.state.global_step:
                self._save_checkpoint(self.model, trial=None)
            raise

    def _slots_of(self, episodes: list[Episode], mode: str) -> list[list[MicroBatch]]:
        step, training = self.state.global_step, mode == "train"
        scores, asked = self.score(episodes), len({e.group_id for e in episodes})
        dropped = dropped_groups(episodes, None)
        if training and getattr(self.args, "dynamic_sampling", False):
            episodes, scores, dropped = refill(
                episodes,
                scores,
                questions=self.train_dataset,
                group_size=self.num_generations,
                most=self.args.max_refills,
                seed=f"{self.args.seed}/{step}",
                roll_out=self.roll_out_shared,
                score=self.score,
            )
        totals, ways = without(dropped, episodes, scores.total), (self.scale_rewards, self.multi_objective_aggregation)
        group_ids = [e.group_id for e in episodes]
        advantages = batch_advantages(self.rewards, scores, totals, group_ids, step, *ways)  # [episodes]
        self._log_values(mode, batch_metrics(episodes, scores, dropped, asked, step, self.protocol.max_rounds))
        self._log_values(mode, trl_metrics(episodes, scores, advantages, *ways))
        self._keep_episodes(mode, episodes, scores, advantages)
        samples = [
            episode_to_samples(e, advantages[i].item(), i) if self._is_trained(e, totals[i]) else []
            for i, e in enumerate(episodes)
        ]
        return self._to_microbatches(samples, self.args.steps_per_generation if training else 1)

    def score(self, episodes: list[Episode]) -> Scores:
        """Scores whole groups. Functions run once, on the main process; reward models run on all ranks."""
        metrics = self._metrics[self._mode]  # only the main process's are logged
        context = {
            "trainer_state": self.state,
            "log_metric": lambda name, value: metrics[name].append(float(value)),
        }
        with self.times.measure("time/reward"):
            return self._scorer(episodes, context)

    def _is_trained(self, episode: Episode, total: float) -> bool:
        if self.mask_truncated_completions and episode.stop_reason == StopReason.TRUNCATED:
            return False
        return not math.isnan(total)

    def _to_microbatches(self, samples: list[list[TrainingSample]], slots: int) -> list[list[MicroBatch]]:
        planned = plan_microbatches(
            assign_episodes(samples, slots, seed=f"{self.args.seed}/{self.state.global_step}"),
            max_tokens=getattr(self.args, "max_tokens_per_microbatch", 32768),
            padding_free=self.padding_free,
            by_rows=self.loss_type in ROW_MEAN_LOSSES,
            accumulation=self.args.gradient_accumulation_steps if self.model.training else 1,
            rank=self.accelerator.process_index,
            ranks=self.accelerator.num_processes,
            pad_token_id=self._tokenizer.pad_token_id,
        )
        for slot in planned:
            for micro in slot:
                self._add_old_and_reference(micro)
        return planned

    def _keep_episodes(self, mode: str, episodes: list[Episode], scores: Scores, advantages: torch.Tensor) -> None:
        """Counts the episodes' tokens; on the main process, stores them and keeps some for the trackers' table."""
        step = self.state.global_step
        if mode == "train":
            self.state.num_input_tokens_seen += trained_tokens(episodes)
        self._metrics[mode]["num_tokens"] = [self.state.num_input_tokens_seen]
        if not self.accelerator.is_main_process:
            return
        for name, values in scores.extra.items():
            self._logs["extra"][name].extend(values)
        if self.table and mode == "train":
            self.table.hold(step, episodes, scores, advantages)
        if self.store:
            with self.times.measure("time/store"):
                self.store.write_step(mode, step, episodes, scores, advantages)

    # Checkpoints.

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        if self.accelerator.is_main_process:  # first: a checkpoint is complete once its last file exists
            save_reward_states(self.rewards, Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}")
        super()._save_checkpoint(model, trial)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            load_reward_states(self.rewards, Path(checkpoint))
