"""Greedy rounds by plain transformers and the exported folder's own custom_generate. Run as a file, by `check.py`.

python -P plain_transformers.py FOLDER ANSWER < {questions, max_tokens, dtype, batch_size}
ANSWER gets, for each question, {prompt, rounds: [[prompt ids, completion ids], …], stop_reason}. Nothing of this
project is imported: torch and transformers do.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def question_text(tokenizer, question: str | list[dict], chat: bool) -> str:
    """What a user of the folder writes: the question through the chat template."""
    if isinstance(question, str):
        if not chat or not tokenizer.chat_template:
            return question
        question = [{"role": "user", "content": question}]
    return tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True)


def main(folder: str, answer: str) -> None:
    request = json.load(sys.stdin)
    chat = json.loads((Path(folder) / "protocol.json").read_text(encoding="utf-8"))["chat"]
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=request["dtype"])
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    texts = [question_text(tokenizer, question, chat) for question in request["questions"]]
    size = request["batch_size"]
    results = []
    for first in range(0, len(texts), size):
        batch = tokenizer(texts[first : first + size], add_special_tokens=False, padding=True, return_tensors="pt")
        output = model.generate(
            **batch.to(model.device), tokenizer=tokenizer, custom_generate=folder, trust_remote_code=True,
            do_sample=False, max_new_tokens=request["max_tokens"], return_dict_in_generate=True,
        )  # fmt: skip
        for rounds, reason in zip(output.rounds, output.stop_reason, strict=True):
            results.append({"rounds": rounds, "stop_reason": reason})
    Path(answer).write_text(json.dumps(results))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
