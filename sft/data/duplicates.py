"""Finds exact and near-duplicate questions in a stream with SQLite: memory does not grow with their number.

Exact: equal after `normalize`. Near: MinHash signatures over word 3-grams (Broder 1997), retrieved by bands of their
rows (locality-sensitive hashing) and confirmed by the share of equal rows, which estimates the Jaccard similarity.
At 0.8 that is one changed word in 29 or more; a shorter question is a near duplicate only if the change is at its
ends. In mathematics a single symbol changes the question, so near duplicates must also have the same numbers, operators
and variables in the same order. Other changes, such as "largest" for "smallest", only count as a changed word.
"""

from __future__ import annotations

import hashlib
import re
import sqlite3
import unicodedata
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from rensa import RMinHash

from rollout.errors import InputError

SHINGLE_WORDS = 3
SEED = 42
RECALL = 0.95
"""Minimum probability that the bands find a pair whose similarity equals the threshold."""

_DELIMITERS = re.compile(r"\\[()\[\]]")  # of LaTeX formulas: \( \) \[ \]
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\s\u3040-\u30ff\u3400-\u9fff]+")
_PUNCTUATION = ".,;:!?\"'`()[]{}$‘’“”、。"  # without operators: `l+4`, `-3` and `5%` are not changed
_FORMULA = re.compile(
    r"""
    \d+(?:\.\d+)?
    | [+*/=<>^%!|−±×÷√≤≥≠]
    | (?<![a-z])- | -(?![a-z])                  # a minus, not a hyphen between letters
    | (?<![a-z])[b-hj-zα-ω](?![a-z])            # a variable; "a" and "i" are words as well
    | \b(?:half|twice|double|triple|zero|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve
        |twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety|hundred|thousand|million)\b
    """,
    re.VERBOSE,
)

_TABLES = """
CREATE TABLE IF NOT EXISTS duplicate_settings (settings TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS duplicate_questions (
    number INTEGER PRIMARY KEY, exact INTEGER NOT NULL, signature BLOB);
CREATE INDEX IF NOT EXISTS duplicate_exact ON duplicate_questions (exact, number);
CREATE TABLE IF NOT EXISTS duplicate_bands (
    band INTEGER NOT NULL, number INTEGER NOT NULL, PRIMARY KEY (band, number)) WITHOUT ROWID;
"""


def normalize(text: str) -> str:
    """Returns the text in Unicode NFKC, casefolded, with whitespace collapsed to single spaces."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def words(text: str) -> list[str]:
    """Returns normalized words without the punctuation at their ends; each Chinese or Japanese character is one."""
    found = _WORD.findall(_DELIMITERS.sub(" ", normalize(text)))
    return [word for part in found if (word := part.strip(_PUNCTUATION))]


def hash64(text: str) -> int:
    """Hashes to a signed 64-bit integer that is the same in every process and machine, and fits SQLite's INTEGER."""
    return _hash_bytes(_encode(text))


@dataclass(frozen=True, kw_only=True)
class _Features:
    exact: int
    signature: np.ndarray | None  # [num_perm], uint32; None: near duplicates are off, or no words
    bands: tuple[int, ...]


class Duplicates:
    """Index of questions by row number; the caller commits.

    A question is compared only with those of smaller numbers: a resumed run that reads a row again, when later rows
    are already in the tables, gets the same result as the first time.

    Args:
        near: minimum estimated Jaccard similarity of a near duplicate, 0.5 to 1; None: exact duplicates only.
        num_perm: rows of a signature, 4 bytes each. The estimate's error is sqrt(near * (1 - near) / num_perm), 0.035.

    Raises:
        InputError: a setting is out of range, or the database was filled with other settings or another version of
            the MinHash library, whose signatures are not comparable.
    """

    def __init__(self, database: sqlite3.Connection, near: float | None = 0.8, num_perm: int = 128):
        if near is not None and not 0.5 <= near <= 1.0:
            raise InputError(f"near is {near}; it must be from 0.5 to 1, or None for exact duplicates only")
        if num_perm < 16:
            raise InputError(f"num_perm is {num_perm}; it must be at least 16")
        self.database, self.near, self.num_perm = database, near, num_perm
        self.band_rows = _band_rows(near, num_perm) if near is not None else 0
        self._features = lru_cache(maxsize=64)(self._describe)  # `add` mostly follows `find` of the same question
        for statement in _TABLES.split(";"):  # `executescript` would commit the caller's open transaction
            database.execute(statement)
        self._check_settings()

    def find(self, number: int, question: str) -> str | None:
        """Returns "exact duplicate" or "near duplicate" of a question with a smaller number, else None."""
        features = self._features(question)
        query = "SELECT 1 FROM duplicate_questions WHERE exact = ? AND number < ? LIMIT 1"
        if self.database.execute(query, (features.exact, number)).fetchone():
            return "exact duplicate"
        if features.signature is None:
            return None
        marks = ", ".join("?" * len(features.bands))
        candidates = self.database.execute(
            "SELECT signature FROM duplicate_questions WHERE number IN "
            f"(SELECT number FROM duplicate_bands WHERE band IN ({marks}) AND number < ?)",
            (*features.bands, number),
        )
        for (stored,) in candidates:
            if np.mean(features.signature == np.frombuffer(stored, "<u4")) >= self.near:
                return "near duplicate"
        return None

    def add(self, number: int, question: str) -> None:
        """Stores the question for later comparisons. An existing number is not changed."""
        features = self._features(question)
        signature = None if features.signature is None else features.signature.tobytes()
        added = self.database.execute(
            "INSERT OR IGNORE INTO duplicate_questions VALUES (?, ?, ?)", (number, features.exact, signature)
        )
        if added.rowcount:
            rows = [(band, number) for band in features.bands]
            self.database.executemany("INSERT OR IGNORE INTO duplicate_bands VALUES (?, ?)", rows)

    def _describe(self, question: str) -> _Features:
        exact, parts = hash64(normalize(question)), words(question)
        if self.near is None or not parts:
            return _Features(exact=exact, signature=None, bands=())
        signature = self._sign(parts)
        # The formulas are part of every band's key: questions that differ in one never become candidates.
        formulae = _encode(" ".join(_FORMULA.findall(normalize(question))))
        starts = range(0, self.num_perm - self.band_rows + 1, self.band_rows)  # omits rows that do not fill a band
        rows = [i.to_bytes(4, "little") + signature[i : i + self.band_rows].tobytes() for i in starts]
        bands = tuple(_hash_bytes(row + formulae) for row in rows)
        return _Features(exact=exact, signature=signature, bands=bands)

    def _sign(self, parts: list[str]) -> np.ndarray:
        last = max(len(parts) - SHINGLE_WORDS, 0)
        minhash = RMinHash(num_perm=self.num_perm, seed=SEED)
        minhash.update([_encode(" ".join(parts[i : i + SHINGLE_WORDS])) for i in range(last + 1)])
        return np.array(minhash.digest(), "<u4")

    def _check_settings(self) -> None:
        settings = "exact"
        if self.near is not None:  # the signature of a fixed text identifies the library's version
            probe = _hash_bytes(self._sign(words("What is the sum of the first ten odd numbers?")).tobytes())
            settings = f"near {self.near}, num_perm {self.num_perm}, signatures {probe:x}"
        stored = self.database.execute("SELECT settings FROM duplicate_settings").fetchone()
        if stored is None:
            self.database.execute("INSERT INTO duplicate_settings VALUES (?)", (settings,))
        elif stored[0] != settings:
            raise InputError(f"the questions were stored with {stored[0]!r}, not {settings!r}: start with a new file")


def _band_rows(near: float, num_perm: int) -> int:
    """Returns the most rows per band (fewest candidates) with which a pair at `near` is found with `RECALL`."""
    fits = [rows for rows in range(1, num_perm + 1) if 1 - (1 - near**rows) ** (num_perm // rows) > RECALL]
    return max(fits)


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")  # JSON may contain half a surrogate pair


def _hash_bytes(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little", signed=True)
