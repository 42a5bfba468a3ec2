"""The process that builds one export of a training and uploads it: `python -m rl.exporting.publish_job JOB` (JSON)."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from rl.exporting.upload import upload
from rollout.errors import UserError


def publish(job: dict[str, Any]) -> str:
    """step-N.weights becomes step-N, which is uploaded. What was built before is only uploaded. Returns the address.

    Args:
        job: folder (where both are), run, step, question, eval_settings, repo_id, upload (arguments of `upload`).
    """
    run, target = Path(job["run"]), Path(job["folder"]) / f"step-{job['step']}"
    weights = target.with_name(target.name + ".weights")
    if weights.exists():
        from rl.exporting.export import export_model
        from rl.exporting.run_facts import run_facts

        export_model(
            weights,
            target,
            name=f"{run.name}, step {job['step']}",
            summary=[],
            eval_settings=job["eval_settings"],
            question=job["question"],
            repo_id=job["repo_id"],
            run=run_facts(run, step=job["step"]),
        )
        shutil.rmtree(weights)
    return upload(target, job["repo_id"], **job["upload"])


if __name__ == "__main__":
    try:
        print(publish(json.loads(sys.argv[1])))
    except UserError as error:
        sys.exit(str(error))
