"""vLLM's own servers under the trainer: its logprobs before, during and after new weights."""

from __future__ import annotations

import copy
import os
import random
import signal
import socket
import subprocess
import urllib.request
from contextlib import contextmanager

import pytest
import torch
from transformers import AutoModelForCausalLM

from rollout.remote.engine import ServerEngine
from rollout.remote.launch import server_command
from rollout.types import Sampling
from rollout.weights import policy_tensors, write_checkpoint
from tests.conftest import build_model
from tests.test_servers import wait_until
from tests.test_vllm import check_logprobs_over_syncs

_UNDER_WAY = 48  # requests, more than a server works on at once


def gaps(model, prompt, completion):
    """Abs(logprob of `model` - logprob of the engine) of each token."""
    with torch.no_grad():
        logps = model(input_ids=torch.tensor([prompt + completion.token_ids])).logits[0].log_softmax(-1)
    ids = torch.tensor(completion.token_ids)
    chosen = logps[len(prompt) - 1 : -1].gather(1, ids[:, None])[:, 0]
    return (chosen - torch.tensor(completion.logprobs)).abs()


def generated(port):
    """Tokens that a vLLM server has sampled."""
    text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60).read().decode()
    lines = [line for line in text.splitlines() if line.startswith("vllm:generation_tokens_total")]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def vllm_server(model, port, max_len=96):
    arguments = ["--dtype", "float32", "--max-model-len", str(max_len), "--max-num-seqs", "16", "--enforce-eager"]
    command, environment = server_command(model, "127.0.0.1", port, arguments)
    environment |= {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_vllms_server_has_the_trainers_logprobs_before_and_after_syncs(tmp_path, tied):
    path = build_model(tmp_path / "model", tie_word_embeddings=tied, hidden=64)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    rng = random.Random(0)
    asked = [[rng.randrange(20, 200) for _ in range(rng.randrange(3, 30))] for _ in range(12)]
    sampling = Sampling(max_tokens=16)
    port = free_port()
    with vllm_server(path, port):
        engine = ServerEngine([f"http://127.0.0.1:{port}"], tmp_path / "weights", model_path=path, patience=240)
        try:
            assert engine.max_model_len == 96
            check_logprobs_over_syncs(engine, model, asked, sampling)
        finally:
            engine.close()


@pytest.mark.slow
def test_a_request_under_way_goes_on_with_the_new_weights(tmp_path, monkeypatch):
    """Its first tokens are from the old weights, the others from the new ones, over keys and values of the new ones."""
    path = build_model(tmp_path / "model", hidden=64)
    old = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    new = copy.deepcopy(old)
    for parameter in new.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    prompt, port = [30, 31, 32], free_port()
    with vllm_server(path, port, max_len=512):
        engine = ServerEngine([f"http://127.0.0.1:{port}"], tmp_path / "weights", model_path=path, patience=240)

        def write_and_ask(*written):
            """Asks when the second weights are on disk: however slow it is, the requests are under way at the swap."""
            write_checkpoint(*written)
            if engine.pool.servers[0].policy_step == 0:
                for index in range(_UNDER_WAY):
                    engine.submit(index, prompt, Sampling(max_tokens=500))
                wait_until(lambda: generated(port) >= 60)
                engine.announce(1)

        monkeypatch.setattr("rollout.remote.engine.write_checkpoint", write_and_ask)
        try:
            engine.announce(0)
            for model in (old, new):
                with policy_tensors(model) as tensors:
                    engine.sync_weights(tensors)
            cuts, ended = [], 0
            while sum(cuts) < 3 and ended < _UNDER_WAY:  # the others are of one model: they ended before, or queued
                done = engine.poll()
                ended += len(done)
                for completion in [c for c in done if c.policy_steps == (0, 1)]:
                    before, after = gaps(old, prompt, completion), gaps(new, prompt, completion)
                    # Where the tokens before fit the old weights best, and those after the new ones.
                    cost = [float(before[:c].sum() + after[c:].sum()) for c in range(len(before) + 1)]
                    cut = cost.index(min(cost))
                    assert all(gap < 1e-4 for gap in [*before[:cut].tolist(), *after[cut:].tolist()])
                    cuts.append(0 < cut < len(before))
            assert sum(cuts) >= 3
        finally:
            engine.close()
