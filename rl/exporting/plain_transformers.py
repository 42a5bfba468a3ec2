"""Greedy rounds by plain transformers and the exported folder's own custom_generate. Run as a script by `check.py`.

python -P plain_transformers.py FOLDER ANSWER < {questions, max_tokens, dtype, batch_size}
ANSWER gets, for each question, {prompt, rounds: [[prompt ids, completion ids], …], stop_reason}. Imports
only torch and transformers, nothing from this project.
"""

from __future__ import annotations

import importlib
import json
import sys
import types
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def load(path: Path):
    """Import a file as a module of a package named after its folder."""
    folder = path.parent.name
    package = types.ModuleType(folder)
    package.__path__ = [str(path.parent)]
    sys.modules[folder] = package
    return importlib.import_module(f"{folder}.{path.stem}")


def question_ids(plain_text, tokenizer, question: str | list[dict], protocol: dict) -> list[int]:
    """Return the prompt ids of a question, as in rollouts."""
    how = {"literal": protocol.get("control_tokens", False), "template": protocol.get("chat_template_kwargs")}
    return plain_text.encode(tokenizer, plain_text.mark_question(tokenizer, question, chat=protocol["chat"], **how))


def main(folder: str, answer: str) -> None:
    request = json.load(sys.stdin)
    protocol = json.loads((Path(folder) / "protocol.json").read_text(encoding="utf-8"))
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=request["dtype"])
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    own = load(Path(folder) / "custom_generate" / "plain_text.py")
    asked = [question_ids(own, tokenizer, question, protocol) for question in request["questions"]]
    size = request["batch_size"]
    results = []
    for first in range(0, len(asked), size):
        rows = [{"input_ids": ids} for ids in asked[first : first + size]]
        batch = tokenizer.pad(rows, return_tensors="pt")
        output = model.generate(
            **batch.to(model.device), tokenizer=tokenizer, custom_generate=folder, trust_remote_code=True,
            do_sample=False, max_new_tokens=request["max_tokens"], return_dict_in_generate=True,
        )  # fmt: skip
        for rounds, reason in zip(output.rounds, output.stop_reason, strict=True):
            results.append({"rounds": rounds, "stop_reason": reason})
    Path(answer).write_text(json.dumps(results))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
