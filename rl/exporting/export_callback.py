"""Export the policy while RL trains: every k steps, to runs/<name>/export/step-N and to the Hub.

step -> whole weights (all ranks; training waits only for this) -> BackgroundUploader: folder, card, upload
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
from rl.exporting.background import BackgroundUploader
from rl.exporting.upload import check_reachable
from rollout.protocol import RoundProtocol
from sft.train import save_final


class ExportCallback(TrainerCallback):
    """Exports the policy at each multiple of `export.every_steps`. Training is bit-identical without it.

    Logs `export/failed`: the uploads that have failed so far. Without `export.every_steps` it does nothing.

    Raises:
        UploadError: no upload is possible, for example because there is no token.
    """

    def __init__(self, config: RunConfig, protocol: RoundProtocol):
        if config.export.every_steps:
            check_reachable(config.export.repo_id)
        self.folder, self.settings, self.protocol = config.folder / "export", config.export, protocol
        self.uploader: BackgroundUploader | None = None  # on the first rank only

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.settings.every_steps and state.is_world_process_zero:
            self.uploader = BackgroundUploader(self.folder, self.settings.keep, log=tqdm.write)
            self.uploader.resume(state.global_step)

    def on_step_end(
        self, args: Any, state: Any, control: Any, model: Any = None, processing_class: Any = None, **kwargs: Any
    ) -> None:
        step, every = state.global_step, self.settings.every_steps
        if every and step % every == 0:
            weights = self.folder / f"step-{step}.weights"
            if self.uploader:
                shutil.rmtree(weights, ignore_errors=True)  # left by an interrupted training
            with _unchanged(extract_model_from_parallel(model)):
                save_final(model, processing_class, self.protocol, weights)
            if self.uploader:
                self.uploader.submit(step)
        if self.uploader:
            self.uploader.poll()

    def pop_metrics(self) -> dict[str, float]:
        """Return the metrics for the next log."""
        return {"export/failed": float(self.uploader.failures)} if self.uploader else {}

    def finish(self, wait: bool) -> None:
        """Called after the last step that all ranks share, because an upload may outlast their timeout.

        Args:
            wait: until all is sent, with one retry of failed uploads; else (training resumes later) stop the upload.
        """
        if self.uploader:
            self.uploader.finish(wait)


@contextmanager
def _unchanged(model: nn.Module) -> Iterator[None]:
    """Restore the exact bits of the weights that an adapter is merged into: unmerging leaves rounding errors behind.

    Under ZeRO-3 the merge is made in gathered copies, and there is nothing to restore.
    """
    frozen = [p for p in model.parameters() if not p.requires_grad and not hasattr(p, "ds_id")]
    kept = [p.detach().to("cpu", copy=True) for p in frozen] if isinstance(model, PeftModel) else []
    yield
    for parameter, before in zip(frozen[: len(kept)], kept, strict=True):
        parameter.data.copy_(before)
