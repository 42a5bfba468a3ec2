"""One group of episodes side by side, and a single round as the model saw it."""

from __future__ import annotations

import json
import os
from typing import Any

from rl.evaluation.plots import context_over_time
from rl.monitor.episode_files import Unreadable, stamp_of
from rl.monitor.filters import question_id
from rl.monitor.index import EpisodeIndex, text_id
from rl.monitor.runs import NotThere, Run
from rl.monitor.texts import changes, plain_question, render
from rl.monitor.tokens import Decoder, decoder_of
from rollout.protocol import RoundProtocol, get_protocol

_MOST_OTHERS = 1000  # most other groups of the same question in a response
_OTHERS = """
SELECT source, step, "group" FROM episodes
WHERE run = ? AND question = ? AND NOT (source = ? AND step = ? AND "group" = ?)
GROUP BY source, step, "group" ORDER BY starts_with(source, 'eval/'), step, source, "group" LIMIT ?
"""


class Groups:
    """Reads complete episodes from the indexed files."""

    def __init__(self, index: EpisodeIndex):
        self._index = index

    def group(self, run: Run, source: str, step: int, group: str) -> dict[str, Any]:
        """Answers `/api/group`.

        Raises:
            NotThere: the group does not exist, or its file is gone.
            ValueError: its file can't be read.
        """
        what = f"group {group} of {source}, step {step}"
        rows = self._rows(run, what, 'source = ? AND step = ? AND "group" = ?', [source, step, group])
        protocol, decoder = protocol_of(run), decoder_of(run.folder)
        number = text_id(rows[0]["question"])
        others = self._index.query(_OTHERS, [run.id, number, source, step, group, _MOST_OTHERS])
        return {
            "run": run.id,
            "source": source,
            "step": step,
            "group": group,
            "qid": question_id(number),
            "question": render(plain_question(rows[0]["question"])),
            "answer": rows[0].get("answer"),
            "episodes": [_episode(row, protocol, decoder) for row in rows],
            "others": others,
        }

    def round(self, run: Run, source: str, step: int, episode: int, round: int) -> dict[str, Any]:
        """Answers `/api/round`: the prompt as the model received it, the output, and each token with its logprob.

        Args:
            round: counted from 0.

        Raises:
            NotThere, ValueError: as `group`.
        """
        what = f"episode {episode} of {source}, step {step}"
        row = self._rows(run, what, "source = ? AND step = ? AND episode = ?", [source, step, episode])[0]
        rounds = row["rounds"]
        if not 0 <= round < len(rounds):
            raise NotThere(f"{run.id} has no round {round + 1} of {what}: it has {len(rounds)}")
        item, decoder = rounds[round], decoder_of(run.folder)
        prompt, written = _ids(item, "prompt_ids"), _ids(item, "completion_ids")
        shared = _shared(_ids(rounds[0], "prompt_ids"), prompt)
        logprobs = item.get("logprobs") or []
        text = item.get("text") or ""
        pieces = [("question", prompt[:shared]), ("history", prompt[shared:])]
        return {
            "prompt": [{"kind": kind, "text": decoder.text(ids)} for kind, ids in pieces if ids],
            "thinking": render(protocol_of(run).parse(text).think or ""),
            "output": text,
            "tokens": [
                {"text": piece, "logprob": logprobs[place] if place < len(logprobs) else None}
                for place, piece in enumerate(decoder.pieces(written))
            ],
            "note": decoder.note,
        }

    def _rows(self, run: Run, what: str, where: str, values: list[Any]) -> list[dict[str, Any]]:
        """Returns complete rows of the newest file with a match; indexes again if that file has changed."""
        self._index.load(run)
        sql = f"SELECT file, row FROM episodes WHERE run = ? AND {where} ORDER BY file DESC, row"
        for last in (False, True):
            found = self._index.query(sql, [run.id, *values])
            number = found[0]["file"] if found else -1
            file = self._index.files(run).get(number)
            if file:
                try:
                    as_indexed = stamp_of(os.stat(file.path)) == file.stamp
                except OSError:
                    raise NotThere(f"{run.id}: {file.name}, which contained {what}, no longer exists") from None
                if as_indexed:
                    try:
                        return self._index.read(file, [row["row"] for row in found if row["file"] == number])
                    except Unreadable as error:
                        raise Unreadable(f"{file.name} {error}") from None
            if not last:
                self._index.load(run, 2.0, every=0.0)  # the file is new, or not the one that was indexed
        progress = self._index.progress(run)
        read = "" if progress["files"] == progress["of"] else f" so far ({progress['files']} of {progress['of']} files)"
        raise NotThere(f"{run.id} has no {what}{read}")


def protocol_of(run: Run) -> RoundProtocol:
    """Returns the run's protocol, or the default one if its config names none or an unknown one."""
    settings = {"name": "inftythink"} | run.protocol()
    try:
        return get_protocol(**settings)
    except (TypeError, ValueError):
        name = settings["name"]
        return get_protocol(name if name in ("vanilla", "delethink") else "inftythink")


def _episode(row: dict[str, Any], protocol: RoundProtocol, decoder: Decoder) -> dict[str, Any]:
    rounds = row["rounds"]
    items = [{name: _ids(item, name) for name in ("prompt_ids", "completion_ids")} for item in rounds]
    generated, saw, single = context_over_time(items) if items else ([], [], [])
    kept = ("episode", "error", "correct", "reward", "advantage", "seconds", "policy_steps")
    return {name: row.get(name) for name in kept} | {
        "stop_reason": row.get("stop_reason") or "unknown",
        "rewards": json_object(row.get("rewards")),
        "rounds_count": row["num_rounds"],
        "tokens": row["num_tokens"],
        "peak": row.get("peak_context"),
        "columns": json_object(row.get("columns")),
        "start": _start(row),
        "saw": {"generated": generated, "rounds": saw, "single": single},
        "rounds": _rounds(rounds, row.get("start_history"), protocol, decoder),
    }


def _start(row: dict[str, Any]) -> dict[str, str]:
    """Returns what the episode started from, in words; empty if from its question alone."""
    given = {"text before the question": "start_text", "summary": "start_history", "first output": "start_opening"}
    return {name: row[column] for name, column in given.items() if row.get(column)}


def _rounds(
    rounds: list[dict[str, Any]], before: str | None, protocol: RoundProtocol, decoder: Decoder
) -> list[dict[str, Any]]:
    """Returns what the page shows of each round; `before`: the summary that the first one continues from."""
    found = []
    for place, item in enumerate(rounds):
        turn = protocol.parse(item.get("text") or "")
        prompt, written = _ids(item, "prompt_ids"), _ids(item, "completion_ids")
        shared = _shared(_ids(rounds[0], "prompt_ids"), prompt)
        sampled = (item.get("logprobs") or [])[item.get("opening") or 0 :]
        logprobs = [value for value in sampled if value is not None]
        summary = item.get("summary") or turn.summary
        one = {
            "round": place,
            "kind": item.get("kind") or turn.kind,
            "fault": item.get("fault") or (turn.fault if item.get("kind") == "malformed" else None),
            "finish_reason": item.get("finish_reason"),
            "prompt_tokens": len(prompt),
            "question_tokens": shared,
            "history_tokens": len(prompt) - shared,
            "completion_tokens": len(written),
            "logprob_mean": sum(logprobs) / len(logprobs) if logprobs else None,
            "logprob_min": min(logprobs, default=None),
            "thinking_chars": len(turn.think or ""),
            "summary": None if summary is None else render(summary),
            "summary_changes": None if summary is None or before is None else changes(before, summary),
            "conclusion": None if turn.conclusion is None else render(turn.conclusion),
            "policy_steps": item.get("policy_steps"),
        }
        if one["finish_reason"] == "length":  # truncated, or a delethink chunk: not malformed
            one["fault"] = None
        if protocol.name == "delethink" and place < len(rounds) - 1:
            one["kind"] = "chunk"
        counted = {
            "summary_tokens": decoder.summary_tokens(written),
            "thinking_tokens": decoder.thinking_tokens(written),
        }
        found.append(one | {name: count for name, count in counted.items() if count is not None})
        before = before if summary is None else summary
    return found


def _ids(item: dict[str, Any], name: str) -> list[int]:
    return item.get(name) or []


def _shared(first: list[int], prompt: list[int]) -> int:
    """Returns how many ids of a round's prompt belong to the question: the prefix shared with round 1's prompt."""
    same = min(len(first), len(prompt))
    return next((place for place in range(same) if first[place] != prompt[place]), same)


def json_object(text: Any) -> dict[str, Any]:
    """Parses a stored JSON object; returns an empty one if it is invalid."""
    try:
        value = json.loads(text or "{}")
    except (TypeError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
