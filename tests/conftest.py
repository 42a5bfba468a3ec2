"""Shared by all tests: a tiny model from nothing, and a scripted engine for the round loop."""

from __future__ import annotations

import os
import tempfile
from collections import deque
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

from rollout.types import Completion, Sampling

settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")
MODULES = tempfile.TemporaryDirectory()  # transformers copies a model's own code there, file by file: one a process
os.environ.setdefault("HF_MODULES_CACHE", MODULES.name)
SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    folder = SHARED / "data"
    if not folder.exists():
        pytest.skip("the shared development data is not beside this checkout")
    return folder


def build_model(path: Path, **settings) -> str:
    from examples.chains.model import build

    build(str(path), **({"hidden": 32, "layers": 2, "heads": 2} | settings))
    return str(path)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> str:
    """Folder of an untrained model of 40,000 parameters with the demo's tokenizer."""
    return build_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def tokenizer(tiny_model):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_model)


class ScriptedEngine:
    """Answers each request with the next text of its question's script, one request a poll, newest first."""

    def __init__(self, tokenizer, scripts: dict[str, list], logprob: float = -1.0):
        self.tokenizer, self.logprob = tokenizer, logprob
        self.scripts = {question: deque(texts) for question, texts in scripts.items()}
        self.waiting: list[tuple[int, str]] = []
        self.prompts: list[list[int]] = []
        self.order: list[int] = []

    def submit(self, request_id: int, prompt_ids: list[int], sampling: Sampling) -> None:
        text = self.tokenizer.decode(prompt_ids)
        question = next(q for q in self.scripts if q in text)
        self.prompts.append(prompt_ids)
        self.waiting.append((request_id, question))

    def poll(self) -> list[Completion]:
        request_id, question = self.waiting.pop()
        self.order.append(request_id)
        step = self.scripts[question].popleft()
        text, reason = step if isinstance(step, tuple) else (step, "stop")
        if reason == "error":
            return [Completion(request_id, [], None, "error", text)]
        ids = self.tokenizer.encode(text, add_special_tokens=False)
        if reason == "stop":
            ids = [*ids, self.tokenizer.eos_token_id]
        return [Completion(request_id, ids, [self.logprob] * len(ids), reason)]


@pytest.fixture(scope="session")
def rounds_model(tmp_path_factory) -> str:
    """Folder of a small model that has learnt to write rounds, with `protocol.json`."""
    from tests.rounds_model import build_rounds_model

    return build_rounds_model(tmp_path_factory.mktemp("rounds"))
