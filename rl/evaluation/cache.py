"""Caches each finished episode on disk at once: a killed evaluation resumes, and no sample is drawn twice.

setting (model, protocol, steering, sampling, engine) + question + number of the sample -> episode
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import zlib
from array import array
from base64 import b64decode, b64encode
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rollout.errors import InputError
from rollout.protocol import RoundProtocol
from rollout.types import Episode, Question, Segment, Start, StopReason, Task
from sft.data.journal import open_database

_FORM = 1  # version of the format and of what a setting generates: a change invalidates old samples

_TABLES = """
CREATE TABLE IF NOT EXISTS settings (setting TEXT PRIMARY KEY, described TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS episodes (setting TEXT NOT NULL, question TEXT NOT NULL, sample INTEGER NOT NULL,
  episode BLOB NOT NULL, PRIMARY KEY (setting, question, sample));
CREATE TABLE IF NOT EXISTS files (path TEXT PRIMARY KEY, stamp TEXT NOT NULL, digest TEXT NOT NULL) WITHOUT ROWID;
"""

Place = tuple[str, int]
"""A question's hash and the number of the sample."""


@dataclass(frozen=True)
class Kept:
    """A finished episode and how many ran concurrently when it was sampled, on which its latency depends."""

    episode: Episode
    in_flight: int


def default_path() -> Path:
    """Returns `sawtooth/episodes.sqlite` in the user's cache folder (`$XDG_CACHE_HOME`, else ~/.cache)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sawtooth" / "episodes.sqlite"


def open_cache(place: str | None) -> EpisodeCache | None:
    """Opens the cache in a file; None: the user's own file; "none": no cache."""
    return None if place == "none" else EpisodeCache(Path(place).expanduser() if place else default_path())


def hash_question(question: Question, start: Start | None = None) -> str:
    """Returns a hash of a question with its prompt and what its episodes start from, for keys and seeds."""
    text = question if isinstance(question, str) else json.dumps(question, sort_keys=True)
    if start not in (None, Start()):  # without one, the key that samples have had before there were any
        given = {name: value for name, value in asdict(start).items() if name != "sources"}
        text = json.dumps([text, given], sort_keys=True)
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:32]


class EpisodeCache:
    """Finished episodes in SQLite. Several processes may share a file; a kill loses none whose `put` has returned.

    Raises:
        InputError: the file is not such a cache.
    """

    def __init__(self, path: Path):
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._database = open_database(path)
            self._database.executescript(_TABLES)
            self._database.execute("SELECT setting, question, sample, episode FROM episodes LIMIT 0")
        except sqlite3.DatabaseError as error:
            raise InputError(f"{path} can't be used as the cache of samples ({error}): name another --cache") from error

    def open(self, described: dict[str, Any]) -> str:
        """Returns the key of a setting.

        Args:
            described: all that an episode depends on except its question and its sample's number.
        """
        text = json.dumps({"form": _FORM, **described}, sort_keys=True)
        setting = hashlib.sha256(text.encode()).hexdigest()[:32]
        self._database.execute("INSERT INTO settings VALUES (?, ?) ON CONFLICT DO NOTHING", (setting, text))
        return setting

    def get(self, setting: str, place: Place, task: Task, protocol: RoundProtocol) -> Kept | None:
        query = "SELECT episode FROM episodes WHERE setting = ? AND question = ? AND sample = ?"
        row = self._database.execute(query, (setting, *place)).fetchone()
        return _decode(row[0], task, protocol) if row else None

    def samples(self, setting: str, questions: Iterable[str]) -> set[Place]:
        """Returns the places that have an episode."""
        query = "SELECT sample FROM episodes WHERE setting = ? AND question = ?"
        return {(q, sample) for q in set(questions) for (sample,) in self._database.execute(query, (setting, q))}

    def put(self, setting: str, place: Place, kept: Kept) -> None:
        """Stores an episode, unless another process was first: `get` then returns that one."""
        self._database.execute(
            "INSERT INTO episodes VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING", (setting, *place, _encode(kept))
        )

    def digest(self, path: Path) -> str:
        """Returns the SHA-256 of a file, read again only if its size or mtime has changed: weights are large."""
        name, status = str(path.resolve()), path.stat()
        stamp = f"{status.st_size} {status.st_mtime_ns}"
        row = self._database.execute("SELECT stamp, digest FROM files WHERE path = ?", (name,)).fetchone()
        if row and row[0] == stamp:
            return row[1]
        digest = digest_of(path)
        self._database.execute("REPLACE INTO files VALUES (?, ?, ?)", (name, stamp, digest))
        return digest

    def close(self) -> None:
        self._database.close()


def digest_of(path: Path) -> str:
    """Returns the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_SAME = ("prompt_ids", "completion_ids", "text", "finish_reason", "summary_tokens", "given", "opening", "dropped")


def _encode(kept: Kept) -> bytes:
    rounds = []
    for segment in kept.episode.segments:
        numbers = None if segment.logprobs is None else b64encode(array("f", segment.logprobs).tobytes()).decode()
        rounds.append({name: getattr(segment, name) for name in _SAME} | {"logprobs": numbers})
    stored = {
        "stop_reason": str(kept.episode.stop_reason),
        "seconds": kept.episode.seconds,
        "in_flight": kept.in_flight,
    }
    return zlib.compress(json.dumps(stored | {"rounds": rounds}).encode(), level=1)


def _decode(blob: bytes, task: Task, protocol: RoundProtocol) -> Kept:
    stored = json.loads(zlib.decompress(blob))
    segments = []
    for one in stored["rounds"]:
        numbers = None if one["logprobs"] is None else array("f", b64decode(one["logprobs"])).tolist()
        segments.append(Segment(**one | {"logprobs": numbers}, turn=protocol.parse(one["text"])))
    episode = Episode(
        question=task.question,
        answer=task.answer,
        group_id=task.group_id,
        segments=segments,
        stop_reason=StopReason(stored["stop_reason"]),
        columns=dict(task.columns),
        seconds=stored["seconds"],
        start=task.start,
    )
    return Kept(episode, stored["in_flight"])
