"""Variants of a model: protocol, ablations, budgets. Each value after the first varies only its switch."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rl.evaluation.consistency import Vote
from rl.evaluation.names import short_path
from rl.settings.schema import ConfigError, check_section
from rollout.interventions import Interventions
from rollout.protocol import KINDS, RoundProtocol, get_protocol

_CARRY, _KEEP = 4096, 100  # of the delethink paper, for chunks of 8192


@dataclass(frozen=True)
class ProtocolChoice:
    """A protocol to run a model under, regardless of the one it was trained with."""

    name: str
    max_tokens: int | None = None  # per round; None: the evaluation's, and for vanilla the total of all rounds
    settings: dict[str, Any] = field(default_factory=dict)  # of `RoundProtocol`; the model's own if omitted

    @property
    def label(self) -> str:
        """The label in tables: the name and the given settings."""
        settings = self.settings | ({"max_tokens": self.max_tokens} if self.max_tokens else {})
        return " ".join([self.name, *(f"{key}={value}" for key, value in settings.items())])

    def resolve(self, own: RoundProtocol | None, max_tokens: int, max_rounds: int | None) -> tuple[RoundProtocol, int]:
        """Returns the protocol and the maximum tokens of a round.

        Args:
            own: the model's, if it has one.
            max_tokens, max_rounds: the evaluation's; None: as many rounds as the model's own protocol has.
        """
        base = own or RoundProtocol()
        rounds = self.settings.get("max_rounds") or max_rounds or base.max_rounds
        chunk = self.settings.get("segment_tokens") if self.name == "delethink" else None
        most = self.max_tokens or chunk or (max_tokens * rounds if self.name == "vanilla" else max_tokens)
        settings: dict[str, Any] = {"max_rounds": rounds}
        if self.name == "delethink":
            settings["segment_tokens"] = most
            if base.name != "delethink":
                settings["carry_tokens"] = min(_CARRY, max(1, most // 2))
                settings["keep_tokens"] = min(_KEEP, most // 8)
        names = ["segment_tokens", "summary_tokens", "chat", "control_tokens"]
        names += ["carry_tokens", "keep_tokens"] if base.name == "delethink" else []
        kept = {name: getattr(base, name) for name in names}
        return get_protocol(self.name, **kept | settings | self.settings), most


@dataclass(frozen=True)
class Variant:
    """One way to run a model; each is a row of the table."""

    protocol: ProtocolChoice | None = None  # None: the model's own
    summarize_at: str = "model"
    summarizer: str | dict[str, Any] = "model"
    min_thinking: int = 0
    max_thinking: int | None = None

    def label(self, protocol: str) -> str:
        """Returns the label in tables: the protocol and the interventions.

        Args:
            protocol: the model's own.
        """
        parts = [protocol if self.protocol is None else self.protocol.label]
        if self.summarize_at != "model":
            parts.append(f"summarize-at {self.summarize_at}")
        if self.summarizer != "model":
            parts.append(f"summarizer {_short(self.summarizer)}")
        if self.min_thinking:
            parts.append(f"thinking at least {self.min_thinking}")
        if self.max_thinking is not None:
            parts.append(f"thinking at most {self.max_thinking}")
        return ", ".join(parts)


def _short(summarizer: str | dict[str, Any]) -> str:
    """Shortens an absolute path or URL to its name or host: tables and model cards are published."""
    spec = summarizer
    if isinstance(spec, dict):
        spec = str(spec.get("model") or spec.get("fn") or spec.get("url"))
    if "://" in spec:
        return urlsplit(spec).hostname or "a server"
    if Path(spec).is_dir():
        return short_path(Path(spec))
    return Path(spec).name if Path(spec).is_absolute() else spec


SWITCHES = tuple(field.name for field in dataclasses.fields(Variant))
_TWO = ("summarize_at", "summarizer")  # of summaries, which only inftythink has


def make_variants(switches: dict[str, Sequence[Any] | None]) -> list[Variant]:
    """Returns the baseline, with the first value of every switch, and a variant for every further value.

    Args:
        switches: by name in `SWITCHES`; None or empty: the default. Summary switches are varied under inftythink.

    Raises:
        ValueError: a value is invalid for its switch.
    """
    given = {name: [_READ[name](value) for value in values] for name, values in switches.items() if values}
    protocols = given.get("protocol") or [None]
    summaries = next((p for p in protocols if p is None or p.name == "inftythink"), protocols[0])
    if summaries is not None and summaries.name != "inftythink":
        for name in _TWO:
            if any(value != "model" for value in given.get(name, [])):
                raise ConfigError(f"{name} controls summaries, but {summaries.name} has none: add inftythink")
    base = Variant(**{name: values[0] for name, values in given.items()})
    made = []
    for protocol in protocols:
        made.append(replace(base, protocol=protocol))
        if protocol is not summaries:
            made[-1] = replace(made[-1], summarize_at="model", summarizer="model")
    for name, values in given.items():
        if name != "protocol":
            made += [replace(base, protocol=summaries, **{name: value}) for value in values[1:]]
    for variant in made:
        Interventions(variant.summarize_at, variant.min_thinking, variant.max_thinking)  # raises for an invalid value
    return [variant for place, variant in enumerate(made) if variant not in made[:place]]


def as_list(value: Any) -> list[Any] | None:
    """Returns the value or values of a switch as a list."""
    return value if value is None or isinstance(value, list) else [value]


def read_protocol(value: str | dict[str, Any]) -> ProtocolChoice:
    """Parses `vanilla`, `vanilla:max_tokens=32768` or, in YAML, `{name: vanilla, max_tokens: 32768}`."""
    if isinstance(value, str):
        name, _, text = value.partition(":")
        settings: dict[str, Any] = {}
        for part in filter(None, text.split(",")):
            key, equals, number = part.partition("=")
            if not equals or not number.isdigit():
                raise ConfigError(f"protocol {value!r}: write {name}:key=number, as in delethink:carry_tokens=4096")
            settings[key.strip()] = int(number)
    elif not isinstance(value, dict):
        raise ConfigError(f"protocol is {value!r}; it must be a name, or {{name: …}}")
    else:
        settings = dict(value)
        name = settings.pop("name", "")
    if name not in KINDS:
        raise ConfigError(f"protocol is {name!r}; known protocols: {', '.join(KINDS)}")
    known = {f.name: str(f.type) for f in dataclasses.fields(RoundProtocol) if f.name != "name"}
    settings = check_section(f"protocol {name}", settings, known | {"max_tokens": "int"})
    if settings.get("max_tokens", 1) < 1:
        raise ConfigError(f"protocol {name}.max_tokens is {settings['max_tokens']}; it must be at least 1")
    return ProtocolChoice(name, settings.pop("max_tokens", None), settings)


def read_vote(value: int | str | None) -> Vote | None:
    """Parses `16`, or `16:4` (up to 16 samples in windows of 4); "none" or None: no vote."""
    if value in (None, "none"):
        return None
    most, colon, window = str(value).partition(":")
    if not most.isdecimal() or (colon and not window.isdecimal()):
        raise ConfigError(f"vote is {value!r}; write N or N:WINDOW samples, as 16 or 16:4")
    return Vote(int(most), int(window) if colon else min(Vote.window, max(1, int(most))))


def _count(name: str) -> Any:
    def read(value: Any) -> int | None:
        if value in (None, "none"):
            return None
        try:
            if isinstance(value, bool | float):
                raise ValueError
            if int(value) < 0:
                raise ValueError
            return int(value)
        except (ValueError, TypeError):
            raise ConfigError(f"{name} is {value!r}; it must be a number of tokens, or none") from None

    return read


_READ = {
    "protocol": read_protocol,
    "summarize_at": str,
    "summarizer": lambda value: value,
    "min_thinking": lambda value: _count("min_thinking")(value) or 0,
    "max_thinking": _count("max_thinking"),
}
