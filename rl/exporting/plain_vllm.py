"""Greedy rounds by plain vLLM on an exported folder, parsed by the folder's own generate.py.

python -P plain_vllm.py FOLDER ANSWER < {questions, max_tokens, dtype}; as in plain_transformers.py.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")

import torch
from transformers import AutoConfig, AutoTokenizer, GenerationConfig
from vllm import LLM, SamplingParams


def main(folder: str, answer: str) -> None:
    request = json.load(sys.stdin)
    sys.path.insert(0, str(Path(__file__).parent))
    from plain_transformers import load, question_ids

    own = load(Path(folder) / "custom_generate" / "generate.py")
    plain = load(Path(folder) / "custom_generate" / "plain_text.py")
    protocol = json.loads((Path(folder) / "protocol.json").read_text(encoding="utf-8"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    questions = []
    ends = GenerationConfig.from_pretrained(folder).eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    for question in request["questions"]:
        ids = question_ids(plain, tokenizer, question, protocol)
        questions.append(own.Question(ids, tokenizer, protocol, ends))
    limit = AutoConfig.from_pretrained(folder).get_text_config().max_position_embeddings
    most = max(len(q.prompt) for q in questions) + 2 * request["max_tokens"] + protocol["keep_tokens"] + 64
    settings = {"max_model_len": min(limit, most)}
    if not torch.cuda.is_available():
        settings |= {"enforce_eager": True, "kv_cache_memory_bytes": 1 << 30}
    llm = LLM(model=folder, dtype=request["dtype"], **settings)
    while open_ := [question for question in questions if question.stop_reason is None]:
        room = settings["max_model_len"]
        for question in open_:
            if len(question.prompt) >= room:
                question.stop_reason = "failed"
        open_ = [question for question in open_ if question.stop_reason is None]
        sampling = [
            SamplingParams(temperature=0.0, max_tokens=min(request["max_tokens"], room - len(q.prompt))) for q in open_
        ]
        outputs = llm.generate([{"prompt_token_ids": q.prompt} for q in open_], sampling, use_tqdm=False)
        for question, output in zip(open_, outputs, strict=True):
            question.take(list(output.outputs[0].token_ids), output.outputs[0].finish_reason)
    Path(answer).write_text(json.dumps([{"rounds": q.rounds, "stop_reason": q.stop_reason} for q in questions]))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
