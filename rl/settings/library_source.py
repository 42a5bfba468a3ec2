"""Reads the fields of a library's config class from its source code.

Importing `trl.SFTConfig` and `trl.GRPOConfig` takes ten seconds, and `--dry-run` should take one.
"""

from __future__ import annotations

import ast
import importlib.util
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Field:
    """One field of a config class. `choices`: all values it may have; empty if the source lists none."""

    annotation: str
    choices: tuple[Any, ...] = ()


@dataclass
class Source:
    """Fields of a class, including inherited ones. `looked_at`: those that its constructor uses."""

    fields: dict[str, Field] = field(default_factory=dict)
    looked_at: set[str] = field(default_factory=set)


@cache
def library_source(name: str) -> Source:
    """Returns the source of "SFTConfig", "EpisodeGRPOConfig" or "LoraConfig"."""
    if name == "LoraConfig":
        peft = _package("peft")
        mixin, config = peft / "config.py", peft / "tuners" / "lora" / "config.py"
        chain = [(mixin, "PeftConfigMixin"), (mixin, "PeftConfig"), (config, "LoraConfig")]
        return _read(chain, {})
    trl, transformers = _package("trl") / "trainer", _package("transformers")
    chain = [(transformers / "training_args.py", "TrainingArguments"), (trl / "base_config.py", "_BaseConfig")]
    if name == "SFTConfig":
        chain.append((trl / "sft_config.py", "SFTConfig"))
    else:
        ours = Path(__file__).parents[1] / "config.py"
        chain += [(trl / "grpo_config.py", "GRPOConfig"), (ours, "EpisodeGRPOConfig")]
    return _read(chain, _enums(transformers / "trainer_utils.py") | _enums(transformers / "training_args.py"))


@cache
def engine_arguments() -> dict[str, str]:
    """Returns the arguments that `vllm.LLM` takes, with their annotations; empty if vLLM is not installed."""
    if importlib.util.find_spec("vllm") is None:
        return {}
    vllm = _package("vllm")
    fields = _classes(vllm / "engine" / "arg_utils.py")["EngineArgs"].body
    own = _classes(vllm / "entrypoints" / "llm.py")["LLM"].body
    arguments = next(node.args for node in own if isinstance(node, ast.FunctionDef) and node.name == "__init__")
    found = {node.target.id: node.annotation for node in fields if isinstance(node, ast.AnnAssign)}
    found |= {a.arg: a.annotation for a in (*arguments.args, *arguments.kwonlyargs) if a.annotation}
    named = _named_choices(vllm / "config")
    return {
        name: " | ".join(named.get(part, part) for part in ast.unparse(annotation).split(" | "))
        for name, annotation in found.items()
    }


def _named_choices(folder: Path) -> dict[str, str]:
    """Returns each `Name = Literal[...]` in a package's modules, with the names inside it resolved."""
    assigned = {
        ast.unparse(node.targets[0] if isinstance(node, ast.Assign) else node.target): node.value.slice
        for path in sorted(folder.glob("*.py"))
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.Assign | ast.AnnAssign) and ast.unparse(node.value or node).startswith("Literal[")
    }

    def values(part: ast.expr) -> list[str]:
        if isinstance(part, ast.Tuple):
            return [value for each in part.elts for value in values(each)]
        if isinstance(part, ast.Name):
            return values(assigned[part.id]) if part.id in assigned else []
        return [ast.unparse(part)]

    return {name: f"Literal[{', '.join(values(choices))}]" for name, choices in assigned.items()}


@cache
def cache_implementations() -> tuple[str, ...]:
    """Returns the kinds of cache of transformers' `generate`."""
    tree = ast.parse((_package("transformers") / "generation" / "configuration_utils.py").read_text(encoding="utf-8"))
    named = {a.targets[0].id: a.value for a in tree.body if isinstance(a, ast.Assign) and "CACHE" in ast.unparse(a)}
    return tuple(c for name in ("STATIC", "DYNAMIC") for c in ast.literal_eval(named[f"{name}_CACHE_IMPLEMENTATIONS"]))


@cache
def generation_settings() -> frozenset[str]:
    """Returns the names of the settings that transformers' `generate` takes."""
    body = _classes(_package("transformers") / "generation" / "configuration_utils.py")["GenerationConfig"].body
    start = next(node for node in body if isinstance(node, ast.FunctionDef) and node.name == "__init__")
    taken = [node for node in ast.walk(start) if isinstance(node, ast.Call) and ast.unparse(node.func) == "kwargs.pop"]
    return frozenset(node.args[0].value for node in taken if isinstance(node.args[0], ast.Constant))


@cache
def deepspeed_settings() -> tuple[frozenset[str], frozenset[str]]:
    """Returns DeepSpeed's top-level JSON keys, and those of `zero_optimization`; empty if it is not installed."""
    if importlib.util.find_spec("deepspeed") is None:
        return frozenset(), frozenset()
    folder = _package("deepspeed")
    words = set()
    for path in [*folder.rglob("constants.py"), *folder.rglob("config.py")]:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        words |= {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
    zero = _classes(folder / "runtime" / "zero" / "config.py")["DeepSpeedZeroConfig"].body
    fields = [node for node in zero if isinstance(node, ast.AnnAssign)]
    aliases = [k.value.value for f in fields for k in getattr(f.value, "keywords", ()) if k.arg == "alias"]
    words = {word for word in words if word.isidentifier()}
    return frozenset(words), frozenset([*(field.target.id for field in fields), *aliases])


def _package(name: str) -> Path:
    return Path(importlib.util.find_spec(name).submodule_search_locations[0])


@cache
def _classes(path: Path) -> dict[str, ast.ClassDef]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}


def _enums(path: Path) -> dict[str, tuple[str, ...]]:
    """Returns the values of each string enum in a file."""
    found = {}
    for name, node in _classes(path).items():
        if any(ast.unparse(base).endswith("Enum") for base in node.bases):
            values = [a.value for a in node.body if isinstance(a, ast.Assign)]
            found[name] = tuple(v.value for v in values if isinstance(v, ast.Constant))
    return found


def _read(chain: list[tuple[Path, str]], enums: dict[str, tuple[str, ...]]) -> Source:
    source = Source()
    for path, class_name in chain:
        for node in _classes(path)[class_name].body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                annotation = ast.unparse(node.annotation).strip("'\"")
                if "ClassVar" not in annotation and "init=False" not in ast.unparse(node.value or ast.Constant(None)):
                    choices = (
                        _choices(node.value) or _literal(annotation) or enums.get(annotation.partition(" ")[0], ())
                    )
                    source.fields[node.target.id] = Field(annotation, choices)
            elif isinstance(node, ast.FunctionDef) and (node.name == "__post_init__" or "validate" in node.name):
                parts = [part for part in ast.walk(node) if isinstance(part, ast.Attribute)]
                source.looked_at |= {p.attr for p in parts if ast.unparse(p.value) == "self"}
    source.looked_at &= source.fields.keys()
    return source


def _literal(annotation: str) -> tuple[Any, ...]:
    """Returns the values of `Literal['a', 'b']`."""
    inner = annotation.removeprefix("Literal[").removesuffix("]")
    return ast.literal_eval(f"({inner},)") if inner != annotation and "[" not in inner else ()


def _choices(default: ast.expr | None) -> tuple[Any, ...]:
    """Returns `metadata={"choices": [...]}` of a `field(...)`, if it is a plain list."""
    for node in ast.walk(default) if default is not None else ():
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and key.value == "choices" and isinstance(value, ast.List):
                    return tuple(ast.literal_eval(value))
    return ()
