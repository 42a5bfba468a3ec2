"""Finds training questions that overlap an evaluation set, by word n-grams.

One shared n-gram is enough, as is common practice: n is 8 in s1 (arXiv 2501.19393) and in Open R1's script, and
13 in GPT-3 (arXiv 2005.14165, appendix C). A smaller n finds more copies, but also stock phrases:
"m and n are relatively prime positive integers" ends many AIME-like questions, and is 8 words by itself.
The words with which all questions of a set begin or end are its template and are ignored: else every question of
reasoning-gym's chain_sum would overlap every other. Paraphrases and translations are missed: they share no n-gram.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile

from rollout.errors import InputError
from sft.data.duplicates import hash64, words


@dataclass(frozen=True, kw_only=True)
class EvalSet:
    """Location of an evaluation set's questions on the Hugging Face Hub."""

    hub_id: str
    config: str | None = None
    """None: the only or default one."""
    split: str
    column: str
    """Contains the question."""


EVAL_SETS: dict[str, EvalSet] = {
    "MATH-500": EvalSet(hub_id="HuggingFaceH4/MATH-500", split="test", column="problem"),
    "AIME24": EvalSet(hub_id="HuggingFaceH4/aime_2024", split="train", column="problem"),
    "AIME25": EvalSet(hub_id="math-ai/aime25", split="test", column="problem"),
    "AMC23": EvalSet(hub_id="math-ai/amc23", split="test", column="question"),
    "GPQA-diamond": EvalSet(hub_id="Idavidrein/gpqa", config="gpqa_diamond", split="train", column="Question"),
    "GSM8K": EvalSet(hub_id="openai/gsm8k", config="main", split="test", column="question"),
}
"""By short name. GPQA is gated: it needs a token whose owner accepted its terms."""

_LEAST_QUESTIONS = 5
"""Shorter prefixes may match by chance."""


class Contamination:
    """n-gram overlap of questions with evaluation sets.

    An evaluation question of fewer than `n` words is one n-gram, which matches only if it is the whole question.

    Args:
        sets: name -> its questions. A question that overlaps several is attributed to the first of them.

    Raises:
        InputError: `n` is below 1, or a set contains no question.
    """

    def __init__(self, sets: Mapping[str, Iterable[str]], n: int = 8):
        if n < 1:
            raise InputError(f"n is {n}; it must be at least 1")
        self.n = n
        self.sizes: dict[str, int] = {}
        """Questions of each set."""
        self._names = list(sets)
        self._ngrams: dict[int, int] = {}  # hash -> place in `_names`
        self._templates: set[tuple[tuple[str, ...], tuple[str, ...]]] = {((), ())}
        """Words that a set's questions begin and end with."""
        for place, (name, questions) in enumerate(sets.items()):
            parts = [words(question) for question in questions]
            self.sizes[name] = len(parts)
            if not parts:
                raise InputError(f"the evaluation set {name!r} contains no questions")
            template = _template(parts)
            self._templates.add(template)
            for question in parts:
                for ngram in self._hashes(_inner(question, template)):
                    self._ngrams.setdefault(ngram, place)

    @property
    def digest(self) -> str:
        """Identifies the sets and `n`."""
        total = 0
        for ngram, place in self._ngrams.items():
            total ^= hash64(f"{ngram} {place}")  # in any order
        return f"{self.n} {self._names} {total}"

    def find(self, question: str) -> str | None:
        """Returns the name of the first set that shares an n-gram with the question; None: clean."""
        parts = words(question)
        inner = {tuple(_inner(parts, template)) for template in self._templates}
        places = [self._ngrams[n] for part in inner for n in self._hashes(part) if n in self._ngrams]
        if not places:
            return None
        return self._names[min(places)]

    def _hashes(self, parts: Sequence[str]) -> list[int]:
        last = max(len(parts) - self.n, 0)
        return [hash64(" ".join(parts[i : i + self.n])) for i in range(last + 1)] if parts else []


def _template(questions: Sequence[Sequence[str]]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Returns the words that begin, and that end, all questions of a set; none if they are few or identical."""
    if len(questions) < _LEAST_QUESTIONS or len(set(map(tuple, questions))) == 1:
        return (), ()
    start = _common(questions)
    rest = [question[len(start) :] for question in questions]
    return start, _common([part[::-1] for part in rest])[::-1]


def _common(questions: Sequence[Sequence[str]]) -> tuple[str, ...]:
    columns = zip(*questions, strict=False)
    return tuple(column[0] for column in takewhile(lambda column: len(set(column)) == 1, columns))


def _inner(question: Sequence[str], template: tuple[tuple[str, ...], tuple[str, ...]]) -> Sequence[str]:
    """Returns a question without the template; one that does not match it stays whole."""
    start, end = template
    stop = len(question) - len(end)
    fits = stop >= len(start) and tuple(question[: len(start)]) == start and tuple(question[stop:]) == end
    return question[len(start) : stop] if fits else question
