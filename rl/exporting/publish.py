"""Exports of the policy while RL trains: every k steps, to runs/<name>/export/step-N and to the Hub.

step -> whole weights (all ranks; the only part that training waits for) -> Courier: folder, card, upload
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from accelerate.utils import extract_model_from_parallel
from peft import PeftModel
from torch import nn
from tqdm.auto import tqdm
from transformers.trainer_callback import TrainerCallback

from rl.app.run_config import RunConfig
from rl.exporting.courier import Courier
from rl.exporting.upload import check_reachable, tag_name
from rollout.protocol import RoundProtocol
from rollout.types import Question
from sft.train import save_final


def make_publisher(config: RunConfig, protocol: RoundProtocol, question: Question) -> Publisher | None:
    """The callback that `export.every_steps` asks for. None where it asks for none.

    Args:
        question: an example for the model card.

    Raises:
        UploadError: nothing could be uploaded from here, as there is no token.
    """
    if config.export.every_steps is None:
        return None
    check_reachable(config.export.repo_id)
    return Publisher(config, protocol, question)


class Publisher(TrainerCallback):
    """Exports the policy at each multiple of `export.every_steps`. Training goes on as it would without.

    Logs `export/failed`: the uploads that have failed so far.
    """

    def __init__(self, config: RunConfig, protocol: RoundProtocol, question: Question):
        self.config, self.protocol, self.question = config, protocol, question
        self.courier: Courier | None = None  # on the first rank only
        self._metrics: dict[str, float] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            folder, settings = self.config.folder / "export", self.config.export
            self.courier = Courier(folder, self._job, keep=settings.keep, log=tqdm.write)
            self.courier.take_up(state.global_step)

    def pop_metrics(self) -> dict[str, float]:
        """What goes into the next log."""
        found, self._metrics = self._metrics, {}
        return found

    def on_step_end(
        self, args: Any, state: Any, control: Any, model: Any = None, processing_class: Any = None, **kwargs: Any
    ) -> None:
        step = state.global_step
        if step % self.config.export.every_steps == 0:
            weights = self.config.folder / "export" / f"step-{step}.weights"
            if self.courier:
                shutil.rmtree(weights, ignore_errors=True)  # of a training that was interrupted
            with _unchanged(extract_model_from_parallel(model)):
                save_final(model, processing_class, self.protocol, weights)
            if self.courier:
                self.courier.send(step)
        if self.courier:
            self._metrics = {"export/failed": float(self.courier.failures)}

    def finish(self, wait: bool) -> None:
        """Called after the last step that all ranks take together: an upload may last longer than they would wait.

        Args:
            wait: until all is sent, what failed once more; else (training goes on later) an upload is broken off.
        """
        if self.courier:
            self.courier.finish(wait)

    def _job(self, step: int, again: bool) -> dict[str, Any]:
        """What `publish_job` is to do for a step."""
        config, settings = self.config, self.config.export
        sampling = {
            "temperature": config.eval.temperature,
            "top_p": config.eval.top_p,
            "max_tokens": config.eval.max_tokens or (config.rl or {}).get("max_completion_length"),
        }
        return {
            "run": str(config.folder),
            "step": step,
            "question": self.question,
            "eval_settings": sampling,
            "repo_id": settings.repo_id,
            "upload": {
                "private": settings.private,
                "tag": tag_name(config.name, step),
                "move_tag": settings.move_tag or again,
                "message": f"{config.name}: step {step} of RL",
            },
        }


@contextmanager
def _unchanged(model: nn.Module) -> Iterator[None]:
    """What an adapter is merged into has its very bits again afterwards: taking it out leaves rounding errors behind.

    Under ZeRO-3 the merge is made in gathered copies, and there is nothing to put back.
    """
    frozen = [p for p in model.parameters() if not p.requires_grad and not hasattr(p, "ds_id")]
    kept = [p.detach().to("cpu", copy=True) for p in frozen] if isinstance(model, PeftModel) else []
    yield
    for parameter, before in zip(frozen[: len(kept)], kept, strict=True):
        parameter.data.copy_(before)
