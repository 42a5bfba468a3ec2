"""Reads rows of public chain-of-thought datasets: row -> (turns before, drafts) -> SourceRow.

A row contains its generations in one of four forms, tried in the order of FORMS: a list of texts, chat messages,
reasoning and conclusion in two columns, or one text that includes the thinking.
"""

from __future__ import annotations

import numbers
from dataclasses import dataclass
from typing import Any

from rewards.readers import read_json
from rollout.errors import InputError
from sft.data.thinking import THINKING, Unreadable, checked_text, join_columns, split_thinking

FORMS = ("generations", "messages", "reasoning", "trace")
COLUMNS = {
    "generations": "generations",
    "messages": "messages conversations",
    "reasoning": "reasoning_content reasoning thinking thinking_trajectories deepseek_reasoning "
    "deepseek_thinking_trajectory complex_cot",
    "conclusion": "conclusion content response attempt deepseek_attempt deepseek_solution output completion "
    "solution answer",  # the last two are gold if the row has another of these
    "trace": "trace response output completion generation generated_solution deepseek_solution solution",
    "question": "question problem prompt instruction query input messages conversations",
    "answer": "answer final_answer expected_answer gold ground_truth reference_answer reward_model",
    "correct": "",  # only if the user names it: otherwise such a column may be the right choice of a quiz
    "id": "id uuid unique_id problem_id question_id idx index",
}
"""Our name of a column, and its names in datasets (in any case), the most reliable first."""

ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "model": "assistant"}
ROLES |= {"system": "system", "developer": "system", "ai": "assistant", "bot": "assistant", "chatbot": "assistant"}
FLAGS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@dataclass(frozen=True)
class Generation:
    """One chain of thought that a model wrote."""

    reasoning: str  # inside the thinking tags, without newlines at its ends
    conclusion: str  # everything after the closing tag, without end tokens and trailing whitespace
    correct: bool | None  # the dataset's own flag; None: no flag


@dataclass(frozen=True)
class SourceRow:
    """The content of one row of a dataset."""

    question: str | list[dict[str, str]]  # chat messages if it is more than one user message
    answer: str | None  # the gold answer
    generations: list[Generation]  # at least one
    problems: list[str]  # reasons of this row's other generations, which can't be used
    id: str | None


def recognize(row: dict[str, Any]) -> str:
    """Returns the name of a row's format, for the log: a known dataset, or the columns that are read.

    Raises:
        Unreadable: the format is unknown.
    """
    return _Columns(row, {}).format()


def read_row(row: dict[str, Any], columns: dict[str, str] | None = None) -> SourceRow:
    """Reads the question, gold answer and generations of a row.

    Args:
        columns: our name of a column (a key of COLUMNS) -> the row's; "a.b" is the key b of the dict in column a.
            Unnamed columns are recognized.

    Raises:
        Unreadable: the row, or each of its generations, can't be used.
        InputError: `columns` has an unknown name, a column that the row does not have, or two forms.
    """
    source = _Columns(row, columns or {})
    form = source.form()
    before, drafts = _drafts(source, form)
    if source.format() == "OpenThoughts":  # its system prompt describes the markup that is removed here
        before = [turn for turn in before if turn["role"] != "system"]
    elif not _absent(system := source.row.get("system")) and all(turn["role"] != "system" for turn in before):
        before = [{"role": "system", "content": checked_text(system, "system prompt")}, *before]
    question = _question(before)
    generations, problems = [], []
    for (reasoning, text), correct, complete in zip(drafts, *_flags_of(source, form, len(drafts)), strict=True):
        try:
            if complete is False:
                raise Unreadable("generation not complete")
            if reasoning is None and _absent(text):
                raise Unreadable("no generation")
            pair = split_thinking(text) if reasoning is None else join_columns(reasoning, text)
            generations.append(Generation(*pair, correct))
        except Unreadable as error:
            problems.append(str(error))
    if not generations:
        raise Unreadable(problems[0] if problems else "no generation")
    answer = source.value("answer")
    if form == "reasoning" and source.name("conclusion") == source.name("answer") and "answer" not in source.named:
        answer = None  # the model's own text is not a gold answer
    return SourceRow(question, _label(answer, "answer"), generations, problems, _label(source.value("id"), "id"))


class _Columns:
    """A row's columns by our names: the user's mapping, else the first known name that has a value."""

    def __init__(self, row: dict[str, Any], named: dict[str, str]):
        if not isinstance(row, dict):
            raise Unreadable("row is not a dict")
        if unknown := [key for key in named if key not in COLUMNS]:
            raise InputError(f"columns has no {unknown[0]!r}; known: {', '.join(COLUMNS)}")
        forms = {"reasoning" if key == "conclusion" else key for key in named} & {*FORMS}
        if len(forms) > 1:
            raise InputError(f"columns names generations in several forms ({', '.join(sorted(forms))}); name one")
        names = [key for key in row if isinstance(key, str)]
        self.names = ", ".join(names).encode("utf-8", "replace").decode()
        self.row = {key.lower(): row[key] for key in names} | {key: row[key] for key in names}
        self.named, self.named_form = named, next(iter(forms), None)
        self.given = {key: self._reach(row, path) for key, path in named.items()}

    def _reach(self, row: dict[str, Any], path: str) -> Any:
        """Returns the value at a dotted path; None if a dict on the path is null."""
        value: Any = row
        for key in [path] if path in row else path.split("."):
            if value is None:
                return None
            if not isinstance(value, dict) or key not in value:
                raise InputError(f"the row has no column {path!r}; it has {self.names}")
            value = value[key]
        return value

    def name(self, key: str) -> str | None:
        if key in self.named:
            return self.named[key]
        present = [column for column in COLUMNS[key].split() if column in self.row]
        return next((column for column in present if not _absent(self.row[column])), next(iter(present), None))

    def value(self, key: str) -> Any:
        return self.given[key] if key in self.given else self.row.get(self.name(key))

    def form(self) -> str:
        """Returns the form of the generations, one of FORMS."""
        if self.named_form:
            return self.named_form
        forms = [form for form in FORMS if self.name(form) and (form != "reasoning" or self.name("conclusion"))]
        if not forms:
            raise Unreadable(f"no known format: columns {self.names}")
        # if none has a value, the reason is that of the column that should have one
        return next((form for form in forms if self._has_value(form)), forms[0])

    def _has_value(self, form: str) -> bool:
        value = self.value(form)
        if form == "messages":  # without an assistant they are a question, and the generation is in another column
            return any(item.get("role") == "assistant" for item in _turns(value))
        if form == "reasoning":  # in Nemotron's rows such a column is a switch for the thinking
            return not _absent(value) and value not in ("on", "off") and not _absent(self.value("conclusion"))
        return not _absent(value)

    def format(self) -> str:
        form = self.form()
        columns = f"{self.name('question') or 'no question'} + {self.name(form)}"
        if form == "reasoning":
            return f"{self.name('reasoning')} + {self.name('conclusion')}"
        if form != "messages":
            return "OpenR1-Math" if columns == "problem + generations" else columns
        turns = [item for item in _turns(self.value(form)) if item["role"] == "assistant"]
        if turns and isinstance(turns[-1]["content"], str) and THINKING[3][0] in turns[-1]["content"]:
            return "OpenThoughts"
        return "ShareGPT" if self.name(form) == "conversations" else "messages"


def _drafts(source: _Columns, form: str) -> tuple[list[dict[str, Any]], list[tuple[Any, Any]]]:
    """Returns the turns before the generations, and the unchecked (reasoning or None, text) of each generation."""
    value = source.value(form)
    before = [] if form == "messages" and "question" not in source.named else _question_turns(source)
    if form == "reasoning":
        pair = (_listed(value), _listed(source.value("conclusion")))
        if len(pair[0]) != len(pair[1]):
            raise Unreadable("reasonings and conclusions differ in number")
        return before, [tuple("" if _absent(item) else item for item in items) for items in zip(*pair, strict=True)]
    if form != "messages" and not _is_chat(value):
        return before, [(None, text) for text in _listed(value)]
    turns = _chat(value)
    last = max((n for n, turn in enumerate(turns) if turn["role"] == "assistant"), default=None)
    if last is None:
        raise Unreadable("no assistant message")
    if form != "messages" or not before:
        before = before + turns[:last]
    return before, [(turns[last]["reasoning"], turns[last]["content"])]


def _question_turns(source: _Columns) -> list[dict[str, Any]]:
    value = source.value("question")
    if _absent(value):
        raise Unreadable("no question")
    if _is_chat(value):
        return _chat(value)
    text = checked_text(value, "question")
    if source.name("question") == "instruction" and not _absent(more := source.row.get("input")):  # Alpaca
        text = f"{text}\n\n{checked_text(more, 'question')}"
    return [{"role": "user", "content": text}]


def _question(turns: list[dict[str, Any]]) -> str | list[dict[str, str]]:
    turns = [turn for turn in turns if turn["role"] != "system" or turn["content"].strip()]
    if not any(turn["role"] == "user" and turn["content"].strip() for turn in turns):
        raise Unreadable("no question")
    if turns[-1]["role"] == "assistant":
        raise Unreadable("question ends in an assistant message")
    if len(turns) == 1:
        return turns[0]["content"]
    return [{"role": turn["role"], "content": turn["content"]} for turn in turns]


def _turns(value: Any) -> list[dict[str, Any]]:
    """Normalizes messages to {role, named, content, reasoning}, for any known keys; an unknown role is None."""
    turns = []
    for item in [] if _absent(value) else _listed(value):
        # first value that is not null: Parquet gives every message the keys of all messages
        keys = [("role", "from"), ("content", "value"), ("reasoning_content", "reasoning", "thinking")]
        fields = item if isinstance(item, dict) else {}
        role, content, reasoning = (next((fields[k] for k in ks if fields.get(k) is not None), None) for ks in keys)
        named = role.strip() if isinstance(role, str) else ""
        role, reasoning = ROLES.get(named.lower()), None if _absent(reasoning) else reasoning
        turns.append({"role": role, "named": named, "content": content, "reasoning": reasoning})
    return turns


def _chat(value: Any) -> list[dict[str, Any]]:
    """Returns `_turns`, checked to have a role and text, whole or in parts."""
    turns = _turns(value)
    for turn in turns:
        role, content = turn["role"], turn["content"]
        if role is None:
            named = turn["named"].encode("utf-8", "replace").decode()[:30]
            raise Unreadable(
                f"message has the role {named!r}, which is none we know" if named else "message has no role"
            )
        if isinstance(content, list | tuple):
            parts = [part.get("text") if isinstance(part, dict) else part for part in content]
            content = "".join(checked_text(part, f"{role} message") for part in parts)
        turn["content"] = "" if content is None else checked_text(content, f"{role} message")
    return turns


def _flags_of(source: _Columns, form: str, count: int) -> tuple[list[bool | None], list[bool | None]]:
    """Returns (correct, complete) of each generation."""
    row = source.row if form == "generations" else {}
    complete = _flags(row.get("is_reasoning_complete"), count)
    if "correct" in source.named:
        return _flags(source.given["correct"], count), complete
    rules, judge = (_flags(row.get(f"correctness_{who}"), count) for who in ("math_verify", "llama"))
    return [b if a is None else a for a, b in zip(rules, judge, strict=True)], complete


def _flags(value: Any, count: int) -> list[bool | None]:
    flags = [None] * count if _absent(value) else _listed(value)
    if len(flags) != count:
        raise Unreadable("flags and generations differ in number")
    return [None if _absent(flag) else _flag(flag) for flag in flags]


def _flag(value: Any) -> bool:
    if isinstance(value, str):  # from CSV
        value = FLAGS.get(value.strip().lower())
    if not isinstance(value, int | float) or value not in (0, 1):
        raise Unreadable("flag is not true or false")
    return bool(value)


def _label(value: Any, what: str) -> str | None:
    """Reads a gold answer or an id: text, a number, or one of these alone in a list or under "ground_truth".

    The dict may be JSON text, as in a CSV file.
    """
    if isinstance(value, str) and value.lstrip().startswith("{") and "ground_truth" in value:
        as_json = read_json(value)
        value = as_json if isinstance(as_json, dict) and "ground_truth" in as_json else value
    if isinstance(value, dict):
        value = value.get("ground_truth")
    if isinstance(value, list | tuple) and len(value) == 1:
        value = value[0]
    if _absent(value):
        return None
    if not isinstance(value, numbers.Number):
        return checked_text(value, what)
    try:
        return str(value)
    except ValueError:  # an integer with more digits than Python prints
        raise Unreadable(f"{what} is not text") from None


def _is_chat(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(item, dict) for item in value)


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _absent(value: Any) -> bool:
    """Returns True for null as JSON, Parquet and CSV represent it."""
    if isinstance(value, str):
        return not value.strip()
    if isinstance(value, list | tuple | dict):
        return not value
    return value is None or (isinstance(value, float) and value != value)
