"""Reads a config as written: YAML without duplicate keys, and `section.key=value` overrides."""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import Any

import yaml

from rl.settings.schema import ConfigError

_MOST_NODES = 100_000  # values of a config with its aliases expanded; more is a mistake or an attack
_PLAIN = (str, int, float, bool, type(None))
_OTHER_ENCODINGS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)


class _Loader(yaml.SafeLoader):
    """Raises an error for duplicate keys, of which YAML silently takes the last. Merges (`<<`) may be overridden. Dates
    and base-60 numbers (16:4) of YAML 1.1 are text, as in YAML 1.2. 010 is an error, because it is 8 in YAML 1.1 and 10
    in YAML 1.2."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        first: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            line, name = key.start_mark.line + 1, (key.tag, key.value)
            if name in first:
                raise ConfigError(f"line {line}: duplicate key {key.value!r} (first on line {first[name]})")
            first[name] = line
        return node

    def resolve(self, kind: type, value: Any, implicit: Any) -> str:
        tag = super().resolve(kind, value, implicit)
        plain = kind is yaml.ScalarNode and implicit[0]
        text = plain and (tag.endswith(":timestamp") or (tag.endswith((":int", ":float")) and ":" in value))
        return self.DEFAULT_SCALAR_TAG if text else tag

    def construct_number(self, node: yaml.ScalarNode) -> Any:
        number = node.value.replace("_", "").lstrip("+-")
        if len(number) > 1 and number[0] == "0" and number.isdigit():
            raise ConfigError(
                f"line {node.start_mark.line + 1}: {node.value} begins with a 0, so YAML reads it as octal: "
                "leave the 0 out, or put it in quotes if it is text"
            )
        return self.construct_yaml_int(node)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_number)


def read_config(path: Path) -> dict[str, Any]:
    """Returns the mapping in a YAML file.

    Raises:
        ConfigError: one line on why it can't be read.
    """
    if not path.exists():
        raise ConfigError(f"there is no config {path}")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} can't be read: {error.strerror}") from error
    if data.startswith(_OTHER_ENCODINGS):
        raise ConfigError(f"{path} is UTF-16 or UTF-32: save it as UTF-8")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ConfigError(
            f"{path}, line {line}: byte {data[error.start]:#04x} is not UTF-8: save it as UTF-8"
        ) from error
    raw = _parse(text, str(path), "is not YAML")
    if raw is None:
        raise ConfigError(f"{path} is empty: it must contain sections (name:, model:, …)")
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} must contain sections (name:, model:, …), not {type(raw).__name__}")
    _refuse_endless(raw, path)
    return _unshared(raw)


def _parse(text: str, what: str, fault: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)  # a SafeLoader
    except ConfigError as error:
        raise ConfigError(f"{what}, {error}") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a number of 5,000 digits
        raise ConfigError(f"{what} {fault}: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise ConfigError(f"{what} {fault}: it is nested too deeply") from error


def refuse_odd_values(where: str, value: Any) -> None:
    """Raises ConfigError if a tag such as `!!timestamp` or `!!set` has made a value that JSON can't represent."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, _PLAIN):
                raise ConfigError(f"{where or 'the config'} contains the key {key!r}: put it in quotes")
            refuse_odd_values(f"{where}.{key}" if where else str(key), inner)
    elif isinstance(value, list):
        for inner in value:
            refuse_odd_values(where, inner)
    elif not isinstance(value, _PLAIN):
        raise ConfigError(f"{where} is {value!r}; it must be text (in quotes), a number, true, false, null or a list")


def _refuse_endless(raw: Any, path: Path) -> None:
    """Raises ConfigError if aliases of aliases expand to too many values, or an alias contains itself."""
    waiting, count = [raw], 0
    while waiting:
        node = waiting.pop()
        count += 1
        if count > _MOST_NODES:
            raise ConfigError(f"{path} contains more than {_MOST_NODES:,} values with its aliases (*name) expanded")
        if isinstance(node, dict):
            waiting += node.values()
        elif isinstance(node, list):
            waiting += node


def _unshared(node: Any) -> Any:
    """Returns a copy without shared objects: an override of one place would change the other."""
    if isinstance(node, dict):
        return {key: _unshared(value) for key, value in node.items()}
    return [_unshared(value) for value in node] if isinstance(node, list) else node


def override(raw: dict[str, Any], text: str) -> None:
    """Applies one `section.key=value`, with or without leading dashes, to `raw`; the value is YAML.

    Raises:
        ConfigError: it can't be parsed, or its key does not fit the config.
    """
    key, equals, value = text.lstrip("-").partition("=")
    if not equals or not key:
        raise ConfigError(f"can't read {text!r}: write --section.key=value")
    value = _parse(value, f"the value of {text!r}", "is not YAML")
    *parents, last = key.split(".")
    node: Any = raw
    for part in parents:
        if isinstance(node, list):
            node = node[_index(node, part, text)]
        else:
            if not isinstance(node.get(part), (dict, list)):
                node[part] = {}
            node = node[part]
        if not isinstance(node, (dict, list)):
            raise ConfigError(f"{text!r}: {part!r} is {node!r}, which has no keys")
    if isinstance(node, list):
        node[_index(node, last, text)] = value
    else:
        node[last] = value


def _index(items: list[Any], part: str, text: str) -> int:
    if not part.isdecimal() or int(part) >= len(items):
        raise ConfigError(f"{text!r}: {part!r} is not an index into a list of {len(items)} (counted from 0)")
    return int(part)
