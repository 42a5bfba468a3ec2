"""`sawtooth serve-rollouts`: vLLM's OpenAI server, set up so that a trainer can use it and change its weights."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from rollout.quiet import ENVIRONMENT


def server_command(model: str, host: str, port: int, arguments: list[str]) -> tuple[list[str], dict[str, str]]:
    """Returns command and environment of one rollout server; `arguments` are further ones of vLLM's server.

    The server accepts weights from any client that can reach it (vLLM's development mode): use a private network.
    """
    root = str(Path(__file__).resolve().parents[2])
    command = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model, "--served-model-name", "policy",
        "--host", host, "--port", str(port),
        "--worker-extension-cls", "rollout.remote.worker.RolloutWorker",
        "--logprobs-mode", "processed_logprobs",  # of the sampling distribution
        "--generation-config", "vllm",  # only the request's own sampling settings
        "--uvicorn-log-level", "warning",
        *arguments,
    ]  # fmt: skip
    environment = (
        ENVIRONMENT
        | {"PYTHONWARNINGS": "ignore::FutureWarning"}
        | os.environ
        | {
            "VLLM_SERVER_DEV_MODE": "1",
            "PYTHONSAFEPATH": "1",
            "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")])),
        }
    )
    return command, environment
