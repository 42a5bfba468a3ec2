"""`rank_step` with exports of its policy on the way; `test_export_callback.py` runs it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from rl.app.run_config import load_config
from rl.exporting.export_callback import ExportCallback
from rl.trainer import EpisodeGRPOTrainer
from tests import rank_step


class ExportingTrainer(EpisodeGRPOTrainer):
    def train(self, *args, **kwargs):
        exports = ExportCallback(load_config(Path("runs/r/config.yaml")), self.protocol)
        self.add_callback(exports)
        super().train(*args, **kwargs)
        exports.finish(wait=True)


if __name__ == "__main__":
    rank_step.EpisodeGRPOTrainer = ExportingTrainer
    rank_step.main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))
