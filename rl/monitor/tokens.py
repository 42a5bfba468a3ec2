"""Decodes token ids with a tokenizer from the run's folder."""

from __future__ import annotations

import re
import threading
from functools import lru_cache
from pathlib import Path
from typing import Any

from rl.app.run_files import NotRead, read_text

_FOLDERS = ("rl/final", "sft/final", "rl/checkpoint-*", "sft/checkpoint-*", "base")
_loading = threading.Lock()


class Decoder:
    """Decodes ids to text; without a tokenizer it gives the ids themselves and a note."""

    def __init__(self, tokenizer: Any = None, note: str | None = None):
        self._tokenizer, self.note = tokenizer, note
        tags = ("<think>", "</think>", "<summary>", "</summary>")
        self._tags = {tag: tokenizer.token_to_id(tag) if tokenizer else None for tag in tags}

    def text(self, ids: list[int]) -> str:
        """Returns the text of the ids, including special tokens."""
        if self._tokenizer is None:
            return " ".join(map(str, ids))
        return self._tokenizer.decode([id for id in ids if 0 <= id < 2**32], skip_special_tokens=False)

    def pieces(self, ids: list[int]) -> list[str]:
        """Returns the text of each id; joined, they are the whole text. A character of several ids goes to the last."""
        if self._tokenizer is None:
            return [str(id) for id in ids]
        from tokenizers.decoders import DecodeStream

        stream = DecodeStream(skip_special_tokens=False)
        pieces = []
        for id in ids:
            try:
                pieces.append(stream.step(self._tokenizer, id) or "")
            except Exception:  # an unknown id, or bytes that are not text
                pieces.append(f"[{id}]")
                stream = DecodeStream(skip_special_tokens=False)
        if pieces and not pieces[-1]:
            pieces[-1] = "\ufffd"  # the rest of its character was never generated
        return pieces

    def summary_tokens(self, ids: list[int]) -> int | None:
        """Counts the tokens between the summary tags; None if a tag is missing or is not a single token."""
        opening, closing = self._place("<summary>", ids), self._place("</summary>", ids)
        return None if opening is None or closing is None or closing < opening else closing - opening - 1

    def thinking_tokens(self, ids: list[int]) -> int | None:
        """Counts the tokens before `</think>`, without an opening tag; None if it is missing or not a single token."""
        opening, closing = self._place("<think>", ids), self._place("</think>", ids)
        return closing if closing is None or opening != 0 else closing - 1

    def _place(self, tag: str, ids: list[int]) -> int | None:
        return ids.index(self._tags[tag]) if self._tags[tag] in ids else None


def decoder_of(folder: Path) -> Decoder:
    """Builds a decoder from the first tokenizer.json of: final RL model, final SFT model, checkpoints, base model."""
    broken = None
    for pattern in _FOLDERS:
        for inner in sorted(folder.glob(pattern), key=_number, reverse=True):
            path = inner / "tokenizer.json"
            try:
                with _loading:  # two requests for a new run load it once
                    return _load(folder, path, path.stat().st_mtime_ns)
            except NotRead as error:
                broken = broken or f"{path.relative_to(folder)} {error.strerror}"
            except OSError:  # no such file
                continue
            except Exception as error:  # tokenizers raises plain Exception
                broken = broken or f"{path.relative_to(folder)} can't be read ({' '.join(str(error).split()):.80})"
    missing = f"no tokenizer.json in {', '.join(_FOLDERS)} of the run's folder"
    return Decoder(note=f"Token ids instead of text: {broken or missing}")


def _number(folder: Path) -> int:
    match = re.search(r"-(\d+)\Z", folder.name)
    return int(match[1]) if match else -1


@lru_cache(maxsize=4)
def _load(folder: Path, path: Path, _changed: int) -> Decoder:
    from tokenizers import Tokenizer

    return Decoder(Tokenizer.from_str(read_text(folder, str(path.relative_to(folder)))))
