"""Training questions that overlap an evaluation set, by n-grams of words.

One shared n-gram is enough, which is the field's practice: n is 8 in s1 (arXiv 2501.19393) and in Open R1's script,
13 in GPT-3 (arXiv 2005.14165, appendix C). The smaller n finds more copies, and stock phrases with them:
"m and n are relatively prime positive integers" ends many a question of AIME's kind, and is 8 words by itself.
Left out: paraphrases and translations, which share no n-gram.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sft.duplicates import hash64, words


@dataclass(frozen=True, kw_only=True)
class EvalSet:
    """Where an evaluation set's questions are on the Hugging Face Hub."""

    hub_id: str
    config: str | None = None
    """None: the only or default one."""
    split: str
    column: str
    """Holds the question."""


EVAL_SETS: dict[str, EvalSet] = {
    "MATH-500": EvalSet(hub_id="HuggingFaceH4/MATH-500", split="test", column="problem"),
    "AIME24": EvalSet(hub_id="HuggingFaceH4/aime_2024", split="train", column="problem"),
    "AIME25": EvalSet(hub_id="math-ai/aime25", split="test", column="problem"),
    "AMC23": EvalSet(hub_id="math-ai/amc23", split="test", column="question"),
    "GPQA-diamond": EvalSet(hub_id="Idavidrein/gpqa", config="gpqa_diamond", split="train", column="Question"),
    "GSM8K": EvalSet(hub_id="openai/gsm8k", config="main", split="test", column="question"),
}
"""By short name. GPQA is gated: it takes a token whose owner accepted its terms."""


class Contamination:
    """n-gram overlap of questions with evaluation sets.

    An evaluation question of fewer than `n` words is one n-gram, found only where it is the whole question.

    Args:
        sets: name -> its questions. A question that overlaps several is put down to the first of them.

    Raises:
        ValueError: `n` is below 1, or a set holds no question.
    """

    def __init__(self, sets: Mapping[str, Iterable[str]], n: int = 8):
        if n < 1:
            raise ValueError(f"n is {n}; it must be at least 1")
        self.n = n
        self.sizes: dict[str, int] = {}
        """Questions of each set."""
        self._names = list(sets)
        self._ngrams: dict[int, int] = {}  # hash -> place in `_names`
        for place, (name, questions) in enumerate(sets.items()):
            self.sizes[name] = 0
            for question in questions:
                self.sizes[name] += 1
                for ngram in self._hashes(question):
                    self._ngrams.setdefault(ngram, place)
            if not self.sizes[name]:
                raise ValueError(f"the evaluation set {name!r} holds no question")

    @property
    def digest(self) -> str:
        """Changes with the sets and with `n`."""
        total = 0
        for ngram, place in self._ngrams.items():
            total ^= hash64(f"{ngram} {place}")  # in any order
        return f"{self.n} {self._names} {total}"

    def find(self, question: str) -> str | None:
        """Name of the first set that shares an n-gram with the question; None: clean."""
        places = [self._ngrams[ngram] for ngram in self._hashes(question) if ngram in self._ngrams]
        if not places:
            return None
        return self._names[min(places)]

    def _hashes(self, question: str) -> list[int]:
        parts = words(question)
        last = max(len(parts) - self.n, 0)
        return [hash64(" ".join(parts[i : i + self.n])) for i in range(last + 1)] if parts else []
