"""RL's progress bar, with one short line per log instead of every metric."""

from __future__ import annotations

from typing import Any

from transformers.trainer_callback import ProgressCallback

_SHOWN = {
    "reward/mean": "reward {:.3f}",
    "accuracy/mean": "accuracy {:.3f}",
    "episode/rounds/mean": "rounds {:.2f}",
    "episode/tokens/mean": "tokens {:.0f}",
    "episode/stop/truncated": "truncated {:.3f}",
    "mismatch/logprob_diff/mean": "mismatch {:.1e}",
    "step_time": "{:.1f} s",
}


class ShortProgress(ProgressCallback):
    """Shows step, reward, accuracy, rounds, tokens, truncation, mismatch and time; `metrics.jsonl` has the rest."""

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if not state.is_world_process_zero or self.training_bar is None or not logs:
            return
        parts = [text.format(logs[name]) for name, text in _SHOWN.items() if isinstance(logs.get(name), float)]
        if parts:
            self.training_bar.write(f"step {state.global_step}: " + ", ".join(parts))
