"""`rank_step` with exports of its policy on the way; `test_publish.py` runs it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from rl.app.run_config import load_config
from rl.exporting.publish import make_publisher
from rl.trainer import EpisodeGRPOTrainer
from tests import rank_step


class PublishingTrainer(EpisodeGRPOTrainer):
    def train(self, *args, **kwargs):
        publisher = make_publisher(load_config(Path("runs/r/config.yaml")), self.protocol, "a=0 b+2 ?")
        self.add_callback(publisher)
        super().train(*args, **kwargs)
        publisher.finish(wait=True)


if __name__ == "__main__":
    rank_step.EpisodeGRPOTrainer = PublishingTrainer
    rank_step.main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))
