"""GRPO over whole episodes on TRL's trainer (InftyThink+, arXiv 2602.06960, section 3).

rows -> run_episodes -> score_episodes -> group_advantages -> episode_to_samples -> microbatches -> TRL's loss

What TRL's trainer keeps: config, data order, loss types, KL, PEFT, logging, checkpoints. What changes: one generation
batch is a batch of episodes; each of its accumulation steps holds whole episodes, as any number of micro-batches.
"""

from __future__ import annotations

import contextlib
import inspect
import math
import random
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers.trainer_callback import ProgressCallback
from trl import GRPOTrainer

from rewards.model import RewardModel
from rewards.score import Scores, as_rewards
from rewards.state import load_reward_states, save_reward_states
from rl.ahead import Ahead
from rl.config import EpisodeGRPOConfig, refuse_unsupported
from rl.groups import batch_advantages, batch_metrics, drop_metrics, dropped_groups, refill, without
from rl.loss import EpisodeLoss
from rl.metrics_file import DropLaterEpisodes
from rl.policy import MicroBatch, to_microbatches
from rl.progress import ShortProgress
from rl.ranks import gradients_stay_local
from rl.resume import load_generation, save_generation
from rl.rollouts import further_sampling, generates_itself, roll_out_now, tasks_of, vllm_settings
from rl.samples import TrainingSample, episode_to_samples
from rl.scoring import Scorer, with_models
from rl.settings.unsupported import refuse_rewards
from rl.trackers import add_trackers
from rl.trl_metrics import trained_tokens, trl_metrics
from rollout.errors import InputError, UserError
from rollout.protocol import RoundProtocol, get_protocol
from rollout.store import EpisodeStore
from rollout.types import Engine, Episode, StopReason
from sft.faults import StopWhenNotFinite
from sft.going_on import GoesOn


class EpisodeGRPOTrainer(GoesOn, StopWhenNotFinite, EpisodeLoss, GRPOTrainer):
    """`trl.GRPOTrainer` whose completions are episodes of several rounds.

    Takes all of TRL's arguments, and:

    Args:
        protocol: how an episode is cut into rounds; None: one round, as TRL itself does.
        engine: what generates; None: vLLM in this process if `args.use_vllm`, else the model's own `generate`.
        episodes_dir: folder for the parquet files of every step's episodes; None: they are not stored.

    `train_dataset` has `prompt` (the question: text or chat messages) and any columns; `answer` or `solution` is the
    gold answer. Batch sizes count episodes. Truncated and malformed episodes are trained on with the reward they get
    (0 by the `answer` reward), or left out if truncated and `mask_truncated_completions`. An episode that can't be
    scored is left out; where one failed, its whole group is.
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
        given = given.arguments
        refuse_unsupported(args, given, starts_vllm=args.use_vllm and engine is None)
        if not isinstance(reward_funcs, (list, tuple)):
            reward_funcs = [] if reward_funcs is None else [reward_funcs]
        loading = {"trust_remote_code": args.trust_remote_code, **(args.model_init_kwargs or {})}
        if args.world_size > 1:
            loading["device_map"] = None
        reward_funcs = with_models(reward_funcs, given.get("reward_processing_classes"), loading)
        rewards = as_rewards(reward_funcs)
        refuse_rewards("", vars(args), rewards)
        use_vllm, args.use_vllm = args.use_vllm, False  # the engine is ours: TRL must not start its own
        log_completions, args.log_completions = args.log_completions, False  # so is the table of episodes
        models = [r.fn if isinstance(r.fn, RewardModel) else None for r in rewards]
        given["reward_funcs"] = [m.load() if m else r.fn for m, r in zip(models, rewards, strict=True)]
        given["reward_processing_classes"] = [m.tokenizer if m else None for m in models]
        super().__init__(**{name: value for name, value in given.items() if name != "self"})
        args.use_vllm, args.log_completions = use_vllm, log_completions
        if self._is_vlm or self.is_fsdp_enabled:
            kind = "a model for images: episodes are text only" if self._is_vlm else "FSDP: shard with DeepSpeed"
            raise InputError(f"EpisodeGRPOTrainer does not train {kind}")
        self.use_vllm = True  # TRL's loss multiplies by the importance ratio that we put into its inputs
        protocol = protocol or get_protocol("vanilla", segment_tokens=args.max_completion_length, chat=False)
        template = protocol.chat_template_kwargs | self.chat_template_kwargs
        self.protocol = protocol.replace(chat_template_kwargs=template)
        for prepared, fn in zip(self.reward_funcs, models, strict=True):
            if fn:
                fn.take(prepared, self.accelerator.device, protocol.chat, template)
        weights = args.reward_weights or [reward.weight for reward in rewards]
        self.rewards = [replace(reward, weight=w) for reward, w in zip(rewards, weights, strict=True)]
        self._scorer = Scorer(self.rewards, self.accelerator)
        if getattr(args, "dynamic_sampling", False) and not any(r.verifier for r in self.rewards):
            raise InputError("dynamic_sampling looks at accuracy: it needs the `answer` reward or another verifier")
        self.engine = engine or self._make_engine(use_vllm)
        # The policy's own `generate` needs no correction; top_p and its kin would look like a mismatch.
        if generates_itself(self.engine, self.model):
            self.vllm_importance_sampling_correction = False
        self.further_sampling = further_sampling(args, self.engine)
        if log_completions and not {"wandb", "trackio"} & {*args.report_to}:  # TRL writes files beside its table, too
            episodes_dir = episodes_dir or Path(args.output_dir) / "episodes"
        self.store = EpisodeStore(episodes_dir) if episodes_dir else None
        if self.store:
            self.add_callback(DropLaterEpisodes(self.store))
        self.synced_step, self.syncs = -1, 0
        if not self.is_deepspeed_enabled:  # which moves the model later
            _ = self.padding_free  # refused now, not at the first step
        if not args.disable_tqdm:
            self.remove_callback(ProgressCallback)
            self.add_callback(ShortProgress)
        self.table = add_trackers(self)
        self._start_counting()
        depth = getattr(args, "async_steps", 0)
        if depth and not hasattr(self.engine, "channel"):
            raise InputError(f"async_steps is {depth}: rollouts ahead of the training need `engine: server`")
        self._ahead = Ahead(self, depth) if depth else None

    def _make_engine(self, use_vllm: bool) -> Engine:
        from rl.settings.dtypes import engine_dtype, mixed_dtype
        from rollout.engines import make_engine

        weights, mixed = str(self.model.dtype).removeprefix("torch."), mixed_dtype(vars(self.args), on_card=False)
        return make_engine(
            "vllm" if use_vllm else "transformers",
            model_path=self.model.config._name_or_path,
            model=self.model,
            tokenizer=self._tokenizer,
            dtype=engine_dtype(weights, mixed, self.accelerator.device.type == "cuda"),
            seed=self.args.seed + self.accelerator.process_index if use_vllm else None,
            max_model_len=self.args.vllm_max_model_length,
            load_format="dummy" if use_vllm else None,  # all it has comes by sync: `rl.arrival`
            **(vllm_settings(self.args) if use_vllm else {}),
        )

    # One generation batch: rows in, micro-batches for each of its accumulation steps out.

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """One accumulation step: forward and backward over all micro-batches of its episodes."""
        started = time.perf_counter()
        model.train()
        if self._step % self._generate_every == 0 or self._buffered_inputs is None:
            self._buffered_inputs = self._generate_and_score_completions(inputs)
        slot = self._buffered_inputs[self._step % self.args.steps_per_generation]
        generated = time.perf_counter()
        loss = torch.zeros((), device=self.accelerator.device)
        for index, micro in enumerate(slot):
            last = index == len(slot) - 1
            with contextlib.nullcontext() if last else gradients_stay_local(self.accelerator, model):
                loss += super(GRPOTrainer, self).training_step(model, micro.tensors(self), num_items_in_batch)
        self._step += 1
        if self._ahead:
            self._ahead.advance()
        finished = time.perf_counter()
        self._current_train_step_time += finished - started
        self.add_time("time/update", finished - generated)
        if self._step % self.args.gradient_accumulation_steps == 0:
            self._metrics["train"]["step_time"].append(self._current_train_step_time)
            self._log_times("train")
            self._current_train_step_time = 0.0
        return loss

    @property
    def _generate_every(self) -> int:
        """Accumulation steps that a generation batch serves."""
        return self.args.steps_per_generation * self.num_iterations

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> tuple:
        batches = self._ahead.watch(epoch_iterator) if self._ahead else epoch_iterator
        return super().get_batch_samples(batches, num_batches, device)

    def _prepare_inputs(self, inputs: Any) -> Any:
        return inputs  # micro-batches come ready for the device

    def prediction_step(self, model: Any, inputs: Any, prediction_loss_only: bool, ignore_keys: Any = None) -> tuple:
        """Evaluation during training: rolls out, scores, and gives the loss of these episodes."""
        with torch.no_grad():
            slots = self._generate_and_score_completions(inputs)
            losses = [self.compute_loss(model, micro.tensors(self)).detach() for slot in slots for micro in slot]
        self._log_times("eval")
        return torch.stack(losses).sum(), None, None

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> list[list[MicroBatch]]:
        """Rolls out this rank's share of the episodes, scores those of all ranks, and deals all rows out to the ranks.

        Returns:
            for each accumulation step of the generation batch (one in evaluation), this rank's micro-batches.
        """
        mode = "train" if self.model.training else "eval"
        if mode == "train" and self._ahead:
            episodes = self._ahead.episodes(inputs)
        else:
            episodes = roll_out_now(self, tasks_of(self, inputs, mode))
        if all(e.stop_reason == StopReason.FAILED for e in episodes):
            raise UserError(f"all {len(episodes)} episodes of this step failed; the first: {episodes[0].error}")
        scores, asked = self.score(episodes), len({e.group_id for e in episodes})
        if mode == "train" and getattr(self.args, "dynamic_sampling", False):
            episodes, scores, dropped = refill(self, episodes, scores)
        else:
            dropped = dropped_groups(episodes, None)
        group_ids = [e.group_id for e in episodes]
        totals = without(dropped, episodes, scores.total)
        step, ways = self.state.global_step, (self.scale_rewards, self.multi_objective_aggregation)
        advantages = batch_advantages(self.rewards, scores, totals, group_ids, step, *ways)  # [episodes]
        if mode == "train":
            self.state.num_input_tokens_seen += trained_tokens(episodes)
        self._metrics[mode]["num_tokens"] = [self.state.num_input_tokens_seen]
        logged = drop_metrics(dropped, asked, len(set(group_ids))) | trl_metrics(episodes, scores, advantages, *ways)
        self._log_episodes(mode, episodes, scores, advantages, logged)
        samples = [
            episode_to_samples(e, advantages[i].item(), i) if self._is_trained(e, totals[i]) else []
            for i, e in enumerate(episodes)
        ]
        slots = self.args.steps_per_generation if mode == "train" else 1
        return to_microbatches(self, self._assign(samples, slots))

    def score(self, episodes: list[Episode]) -> Scores:
        """Rewards of whole groups: functions run once, on the main process, models on all."""
        started = time.perf_counter()
        metrics = self._metrics["train" if self.model.training else "eval"]  # the main process's are the logged ones
        scores = self._scorer(
            episodes,
            {
                "trainer_state": self.state,
                "log_metric": lambda name, value: metrics[name].append(float(value)),
            },
        )
        self.add_time("time/reward", time.perf_counter() - started)
        return scores

    def _is_trained(self, episode: Episode, total: float) -> bool:
        if self.mask_truncated_completions and episode.stop_reason == StopReason.TRUNCATED:
            return False
        return not math.isnan(total)

    def _assign(self, samples: list[list[TrainingSample]], slots: int) -> list[list[TrainingSample]]:
        """Whole episodes to accumulation steps, at random when a generation batch serves several optimizer steps."""
        order = list(range(len(samples)))
        if slots > 1:
            random.Random(f"{self.args.seed}/{self.state.global_step}").shuffle(order)  # the same on every rank
        size = math.ceil(len(samples) / slots)
        shares = [[samples[i] for i in order[slot * size : (slot + 1) * size]] for slot in range(slots)]
        return [[sample for episode in share for sample in episode] for share in shares]

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        if self.accelerator.is_main_process:  # first, as the checkpoint is whole when its last file is there
            save_reward_states(self.rewards, folder)
        if not self.args.save_only_model:
            slots = self._buffered_inputs if self._step % self._generate_every else None
            save_generation(folder, self.accelerator.process_index, self.accelerator.num_processes, self._step, slots)
            self.accelerator.wait_for_everyone()
        super()._save_checkpoint(model, trial)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            load_reward_states(self.rewards, Path(checkpoint))
            self._step, self._buffered_inputs = load_generation(
                Path(checkpoint),
                self.accelerator.process_index,
                self.accelerator.num_processes,
                self.args.gradient_accumulation_steps,
                self._generate_every,
                self.accelerator.device,
            )

    def _log_episodes(
        self, mode: str, episodes: list[Episode], scores: Scores, advantages: torch.Tensor, further: dict[str, float]
    ) -> None:
        step = self.state.global_step
        for key, value in (batch_metrics(episodes, scores, step, self.protocol.max_rounds) | further).items():
            self._metrics[mode][key].append(float(value))
        if not self.accelerator.is_main_process:
            return
        for name, values in scores.extra.items():
            self._logs["extra"][name].extend(values)
        if self.table and mode == "train":
            self.table.hold(step, episodes, scores, advantages)
        if self.store:
            started = time.perf_counter()
            self.store.write_step(mode, step, episodes, scores, advantages)
            self.add_time("time/store", time.perf_counter() - started)
