"""Compare an exported folder in plain transformers and plain vLLM with the trainer's own rounds.

reference (checkpoint, TransformersEngine, run_episodes) and folder (separate processes) -> compare -> one line each
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rl.exporting.checkpoint import check_checkpoint, load_checkpoint
from rl.exporting.compare import Comparison, Difference, GreedyEpisode, compare
from rl.exporting.export import load_protocol
from rl.exporting.generation import most_tokens
from rollout.errors import InputError
from rollout.protocol import PROTOCOL_FILE, RoundProtocol
from rollout.types import Question

ENGINES = ("transformers", "vllm")
_BATCH = 64
_LOGITS = 1e-4  # maximum difference of two logits, as a share of the largest


def check_export(
    folder: Path,
    sets: dict[str, Sequence[Question]],
    *,
    against: Path | None = None,
    base: str | None = None,
    engines: Sequence[str] = ENGINES,
    max_tokens: int | None = None,
    dtype: str = "float32",
    log: Callable[[str], Any] = print,
) -> bool:
    """Print a line for the weights and one for each question set and engine. Returns True if only ties differ.

    Args:
        sets: name -> questions.
        against: the checkpoint that the folder was exported from; None: the trainer's engine runs the folder itself.
        base: base model of `against`, if that is an adapter that names none.
        max_tokens: of a round; None: from the folder's generation config.
        dtype: for loading all models. float32 gives the fewest ties.

    Raises:
        InputError: the folder is not an export, or vLLM is not installed.
    """
    check_checkpoint(folder)
    protocol = load_protocol(folder)
    trained = load_protocol(against) if against and (against / PROTOCOL_FILE).exists() else protocol
    if not (folder / "custom_generate" / "generate.py").exists():
        raise InputError(f"{folder} has no custom_generate/generate.py: it was not made by `sawtooth export`")
    if "vllm" in engines and find_spec("vllm") is None:
        raise InputError("vLLM is not installed: install it, or check without it: --engines transformers")
    reference = _Reference(against or folder, base, trained, dtype)
    bound = max_tokens or _round_bound(folder, protocol, reference)
    good = True
    if against is not None:
        good = _check_weights(reference, folder, base, dtype, next(iter(sets.values()))[0], log)
    answers = {name: reference.answer(questions, bound) for name, questions in sets.items()}
    reference.make_room()
    for engine in engines:
        everything = [question for questions in sets.values() for question in questions]
        request = {"questions": everything, "max_tokens": bound, "dtype": dtype, "batch_size": _BATCH}
        theirs = iter(_run_plain(engine, folder, request))
        for name, ours in answers.items():
            found = compare(ours, [next(theirs) for _ in ours], reference.margin)
            log(_line(name, engine, found, len(ours), reference.tokenizer))
            good = good and found.same
    return good


class _Reference:
    """The checkpoint as the trainer rolls it out."""

    def __init__(self, path: Path, base: str | None, protocol: RoundProtocol, dtype: str):
        import torch
        from transformers import GenerationConfig

        self.path, self.protocol = path, protocol
        model, self.tokenizer = load_checkpoint(path, base, dtype)
        # A base model's repetition penalty is not part of training; its end tokens are.
        model.generation_config = GenerationConfig(eos_token_id=model.generation_config.eos_token_id)
        self.model = model.to("cuda" if torch.cuda.is_available() else "cpu").eval()

    def answer(self, questions: Sequence[Question], max_tokens: int) -> list[GreedyEpisode]:
        from rollout.episodes import run_episodes
        from rollout.hf_engine import TransformersEngine
        from rollout.types import Sampling, Task

        engine = TransformersEngine(self.model, self.tokenizer, batch_size=_BATCH)
        sampling = Sampling(max_tokens=max_tokens, temperature=0.0)
        episodes = run_episodes([Task(q) for q in questions], engine, self.protocol, self.tokenizer, sampling)
        return [
            GreedyEpisode([(s.prompt_ids, s.completion_ids) for s in episode.segments], str(episode.stop_reason))
            for episode in episodes
        ]

    def make_room(self) -> None:
        """Free the GPU for the engines that follow; from now on this model runs on the CPU."""
        import torch

        self.model.to("cpu")
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def logits(self, ids: list[int]) -> Any:
        """Return [T, V]: the logits after each of the ids."""
        return _logits(self.model, ids)

    def margin(self, ids: list[int], one: int, other: int) -> float:
        logprobs = self.logits(ids)[-1].log_softmax(-1)
        return float((logprobs[one] - logprobs[other]).abs())


def _logits(model: Any, ids: list[int]) -> Any:
    import torch

    with torch.no_grad():
        return model(input_ids=torch.tensor([ids], device=model.device)).logits[0].float()


def _round_bound(folder: Path, protocol: RoundProtocol, reference: _Reference) -> int:
    path = folder / "generation_config.json"
    given = json.loads(path.read_text()).get("max_new_tokens") if path.exists() else None
    return given or most_tokens(protocol) or reference.model.config.get_text_config().max_position_embeddings


def _check_weights(
    reference: _Reference, folder: Path, base: str | None, dtype: str, question: Question, log: Callable[[str], Any]
) -> bool:
    """Compare the two models' logits on one prompt, with the checkpoint's weights rounded to the folder's dtype."""
    from transformers import AutoConfig

    ids = reference.protocol.question_ids(reference.tokenizer, question)
    stored = str(AutoConfig.from_pretrained(folder).dtype).removeprefix("torch.")
    rounded = "" if stored == dtype else f", the checkpoint's weights rounded to {stored}"
    ours = reference.logits(ids) if not rounded else _logits_of(reference.path, base, stored, dtype, ids)
    theirs = _logits_of(folder, None, stored, dtype, ids)
    if ours.shape != theirs.shape:
        log(f"weights: {theirs.shape[1]} logits, but {ours.shape[1]} in {reference.path}: DIFFERENT")
        return False
    apart, largest = float((ours.cpu() - theirs).abs().max()), float(ours.abs().max())
    good = apart <= _LOGITS * largest
    end = rounded if good else f"{rounded}: DIFFERENT"
    log(f"weights: logits on {len(ids)} tokens differ by at most {apart:.2g} (largest logit {largest:.3g}){end}")
    return good


def _logits_of(path: Path, base: str | None, stored: str, dtype: str, ids: list[int]) -> Any:
    """Return the logits [T, V] of a model that is loaded in one dtype and runs in another, on the CPU."""
    import torch

    model, _ = load_checkpoint(path, base, stored)
    return _logits(model.to(getattr(torch, dtype)).eval(), ids)


def _run_plain(engine: str, folder: Path, request: dict[str, Any]) -> list[GreedyEpisode]:
    """Generate the folder's greedy rounds in a process that imports nothing from this project."""
    script = Path(__file__).with_name(f"plain_{engine}.py")
    with tempfile.TemporaryDirectory() as scratch:
        answer = Path(scratch) / "answer.json"
        result = subprocess.run(
            [sys.executable, "-P", str(script), str(folder), str(answer)],
            input=json.dumps(request), capture_output=True, text=True,
        )  # fmt: skip
        if result.returncode:
            last = (result.stderr.strip() or "no message").splitlines()
            raise InputError(f"{folder} does not run in plain {engine}: {last[-1]}\n" + "\n".join(last[-15:-1]))
        return [GreedyEpisode(row["rounds"], row["stop_reason"]) for row in json.loads(answer.read_text())]


def _line(name: str, engine: str, found: Comparison, questions: int, tokenizer: Any) -> str:
    label = "transformers, custom_generate" if engine == "transformers" else "vLLM"
    text = f"{name}: {label}: {questions} questions, {found.rounds} rounds, {found.tokens} tokens compared: "
    if not found.differences:
        return text + "the same"
    ties = sum(difference.is_tie for difference in found.differences)
    others = [difference for difference in found.differences if not difference.is_tie]
    tied = f"{ties} tie{'s' * (ties > 1)} between the two best tokens"
    if not others:
        return f"{text}the same except for {tied}; first {_place(found.differences[0], tokenizer)}"
    counted = f"DIFFERENT on {len(others)} question{'s' * (len(others) > 1)}" + (f", and {tied}" if ties else "")
    return f"{text}{counted}; first {_place(others[0], tokenizer)}"


def _place(difference: Difference, tokenizer: Any) -> str:
    where = f"question {difference.question + 1}, round {difference.round + 1}"
    if difference.position is not None:
        where += f", token {difference.position + 1}"
    if difference.tokens is None:
        return f"{where}: {difference.what}"
    one, other = (tokenizer.decode([token]) for token in difference.tokens)
    return f"{where}: {one!r} and {other!r}, log-probabilities {difference.margin:.2g} apart"
