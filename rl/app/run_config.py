"""The YAML config of a run: its sections, their checks, its stages, and the resolved copy in the run folder."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from rl.app.config_file import override, read_config, refuse_odd_values
from rl.app.config_paths import expand_paths
from rl.app.data_config import check_data
from rl.app.run_files import RUNS
from rl.settings.dtypes import check_dtypes
from rl.settings.schema import ConfigError, check_installed, check_section, check_table, check_value, unknown_key
from rl.settings.trainer_rules import check_choice, check_finite, check_lora, check_rule, check_trainer
from rl.settings.unsupported import refuse_in_run, refuse_settings
from rollout.atomic import atomic
from rollout.engines import ENGINES
from rollout.errors import UserError
from rollout.protocol import RoundProtocol, get_protocol
from sft.data.settings import DataSettings, SummarizerSettings


@dataclass
class ModelSection:
    path: str = ""  # folder or Hub id; optional with `build`
    build: str | None = None  # path.py:name, called with the folder to write an untrained model to
    build_args: dict = field(default_factory=dict)
    dtype: str = "auto"  # of the trained weights: auto, float32, bfloat16; auto: float32 in full fine-tuning
    half_adamw: bool = False  # full fine-tuning with weights and AdamW in bfloat16, which rounds small updates away
    attn_implementation: str | None = None  # as transformers takes it: flash_attention_2 makes passes padding-free
    lora: dict | None = None  # any field of peft.LoraConfig


@dataclass
class RolloutSection:
    engine: str = "vllm"
    dtype: str | None = None  # of the engine; null: the weights' dtype, but bfloat16 on a GPU unless rl.bf16: false
    max_model_len: int | None = None
    urls: list = field(default_factory=list)  # engine server: addresses of `sawtooth serve-rollouts`
    weights_dir: str | None = None  # engine server: a folder that all machines see; null: runs/<name>/weights
    async_steps: int = 0  # engine server: generation batches that roll out while one trains; 0: strictly on-policy
    settings: dict = field(default_factory=dict)  # any further argument of vllm.LLM, or of ServerEngine


@dataclass
class EvalSection:
    samples: int = 4  # episodes per question
    temperature: float = 0.7
    top_p: float = 0.95
    max_tokens: int | None = None  # per round; null: rl.max_completion_length
    max_rounds: int | None = None  # null: the protocol's
    stages: list | None = None  # models: base, sft, rl; null: the trained ones, and base if only one is trained
    k: list | None = None  # of pass@k and maj@k; null: 1, 8 and the samples
    vote: int | str | None = None  # 16:4: self-consistency over up to 16 samples, in windows of 4, with early stop
    search: str | list | None = None  # best:16@0.9, tree:64:4:2@0.9, …: until a score is reached (docs/eval.md)
    score: str = "confidence"  # of the searches: confidence, agreement, oracle, or a reward function
    # Switches: one value, or a list of the baseline followed by variants, each with its own row.
    protocol: str | dict | list | None = None  # null: the checkpoint's; {name: vanilla, max_tokens: 32768}
    summarizer: str | dict | list | None = None  # model, another model, path.py:function, {url: …, model: …}
    summarize_at: str | list | None = None  # thinking tokens of a round: model (it decides), fixed:N, random:A-B
    min_thinking: int | list | None = None  # tokens before which the model may not conclude
    max_thinking: int | str | list | None = None  # tokens after which it must
    prompt: str | None = None  # around each question: "{question} …"; null: a named set's own, else nothing
    limit: int | None = None  # use only this many first questions of each set
    cache: str | None = None  # file of finished samples; null: in the user's cache folder; none: nowhere

    def __post_init__(self):
        """Checks the section, so that a mistake is reported when a run starts, not at its evaluation."""
        from rl.evaluation.search_settings import read_search
        from rl.evaluation.statistics import check_k
        from rl.evaluation.variants import SWITCHES, as_list, make_variants, read_vote

        for key in ("samples", "max_tokens", "max_rounds", "limit"):
            check_rule(f"eval.{key}", getattr(self, key), "at least 1")
        check_rule("eval.temperature", self.temperature, "at least 0")
        check_rule("eval.top_p", self.top_p, "above 0, and 1 at most")
        if self.prompt is not None and "{question}" not in self.prompt:
            raise ConfigError(f"eval.prompt is {self.prompt!r}; it must contain {{question}}")
        make_variants({name: as_list(getattr(self, name)) for name in SWITCHES})
        read_vote(self.vote)
        for search in as_list(self.search) or []:
            read_search(search)
        if self.stages == []:
            raise ConfigError("eval.stages is empty: name base, sft or rl, or leave it out")
        for writer in as_list(self.summarizer) or ():
            if not writer or not isinstance(writer, str | dict):
                raise ConfigError(
                    f"eval.summarizer is {writer!r}; it must be a model, path.py:function, or keys of `summarizer`"
                )
        for k in self.k or []:
            check_value("eval.k", k, "int")
            check_k(k, self.samples)


@dataclass
class ExportSection:
    repo_id: str | None = None  # user/name on the Hub
    private: bool = True
    push: bool = False
    tag: str | None = None  # of the upload; null: the run's name
    move_tag: bool = False  # move a tag that is on other content
    license: str | None = None  # as the Hub spells it: apache-2.0; null: the base model's, if its card names one
    language: str | list | None = None  # of the data, as codes: en
    every_steps: int | None = None  # export and upload RL's policy every this many steps
    keep: int = 2  # maximum number of these exports kept on this machine

    def __post_init__(self):
        for key in ("push", "every_steps"):
            if getattr(self, key) and not self.repo_id:
                raise ConfigError(f"export.{key} needs export.repo_id: set it to user/name on the Hub")
        for code in self.language if isinstance(self.language, list) else ():
            if not isinstance(code, str):
                raise ConfigError(
                    f"export.language contains {code!r}; each must be a language code as text, such as en"
                )
        if self.repo_id and self.repo_id.count("/") != 1:
            raise ConfigError(f"export.repo_id is {self.repo_id!r}; write user/name, as on the Hub")
        for key in ("every_steps", "keep"):
            if getattr(self, key) is not None and getattr(self, key) < 1:
                raise ConfigError(f"export.{key} is {getattr(self, key)}; it must be at least 1")


RENAMED = {"eval.who": "eval.summarizer", "eval.when": "eval.summarize_at"}
"""Old spelling -> key. Accepted for one release."""

_SECTIONS = {
    "model": ModelSection,
    "data": DataSettings,
    "summarizer": SummarizerSettings,
    "rollout": RolloutSection,
    "eval": EvalSection,
    "export": ExportSection,
}
_ATTENTION = ("eager", "sdpa", "flash_attention_2", "flash_attention_3", "flash_attention_4", "flex_attention")
_TOP = ["name", "seed", "protocol", "sft", "rl", "rewards", *_SECTIONS]


@dataclass
class RunConfig:
    """A checked config. `sft` and `rl` hold the given fields of `trl.SFTConfig` and `EpisodeGRPOConfig`; None: the run
    has no such stage."""

    name: str
    seed: int
    model: ModelSection
    protocol: RoundProtocol
    data: DataSettings
    summarizer: SummarizerSettings
    sft: dict[str, Any] | None
    rl: dict[str, Any] | None
    rollout: RolloutSection
    rewards: list[dict[str, Any]]
    eval: EvalSection
    export: ExportSection

    @property
    def folder(self) -> Path:
        """`runs/<name>`, in the working directory."""
        return RUNS / self.name

    @property
    def stages(self) -> list[str]:
        """This run's stages, in order."""
        has = {
            "data": bool(self.data.traces or self.data.prepared),
            "sft": self.sft is not None,
            "rl": self.rl is not None,
            "eval": bool(self.data.eval),
            "export": self.sft is not None or self.rl is not None,
        }
        return [stage for stage, there in has.items() if there]

    @property
    def trained(self) -> list[str]:
        """The stages that train; the last one produces the run's model."""
        return [stage for stage in ("sft", "rl") if stage in self.stages]

    def trainer_settings(self, stage: str) -> dict[str, Any]:
        """Returns the settings of `sft` or `rl`, with defaults for the tracker's project and run name."""
        check_installed(f"{stage}.", getattr(self, stage))
        return {"project": "sawtooth", "run_name": f"{self.name}-{stage}", **getattr(self, stage)}

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True)

    def save(self) -> None:
        """Writes the resolved config to the run folder."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with atomic(self.folder / "config.yaml") as path:
            path.write_text(self.to_yaml())


def load_config(path: str | Path, overrides: list[str] | None = None) -> RunConfig:
    """Reads, overrides and checks a config.

    Args:
        overrides: `section.key=value` strings, with or without leading dashes; values are YAML.

    Raises:
        ConfigError: one line on what is wrong and where.
    """
    path = Path(path)
    raw = read_config(path)
    for text in overrides or []:
        override(raw, text)
    raw.setdefault("name", path.stem)
    return parse_config(raw)


def parse_config(raw: dict[str, Any]) -> RunConfig:
    """Checks every section; raises at the first mistake."""
    for key in raw:
        if key not in _TOP:
            raise unknown_key("", key, _TOP)
    refuse_odd_values("", raw)
    raw = expand_paths(_renamed(raw))
    name = check_value("name", raw.get("name"), "str")
    if not name.strip() or "/" in name or not name.isprintable() or name.startswith("."):
        raise ConfigError(f"name is {name!r}; it names a folder in runs/, so it can't contain a slash or line break")
    sections: dict[str, Any] = {}
    for key, section_type in _SECTIONS.items():
        fields = {f.name: str(f.type) for f in dataclasses.fields(section_type)}
        sections[key] = section_type(**check_section(key, _mapping(raw, key), fields))
    rewards = check_value("rewards", raw.get("rewards", [{"fn": "answer"}]), "list")
    seed = check_value("seed", raw.get("seed", 0), "int")
    check_rule("seed", seed, "from 0 to 4294967295")
    data = sections["data"]
    config = RunConfig(
        name=name,
        seed=seed,
        protocol=_protocol(_mapping(raw, "protocol")),
        sft=_trainer(raw, "sft", bool(data.traces or data.prepared)),
        rl=_trainer(raw, "rl", bool(data.questions)),
        rewards=rewards,
        **sections,
    )
    _check_whole(config)
    if config.eval.stages is None:
        config.eval.stages = config.trained if len(config.trained) == 2 else ["base", *config.trained]
    return config


def _renamed(raw: dict[str, Any]) -> dict[str, Any]:
    """Returns a copy with old key names replaced by the new ones."""
    raw = {key: dict(value) if isinstance(value, dict) else value for key, value in raw.items()}
    for old, new in RENAMED.items():
        (section, old_key), new_key = old.split("."), new.partition(".")[2]
        if isinstance(raw.get(section), dict) and old_key in raw[section]:
            if new_key in raw[section]:
                raise ConfigError(f"{old} is the old name of {new}: leave one of them out")
            raw[section][new_key] = raw[section].pop(old_key)
    return raw


def _trainer(raw: dict[str, Any], stage: str, has_data: bool) -> dict[str, Any] | None:
    """Returns the section of a stage that trains; None if it is null, or omitted along with its data."""
    if raw.get(stage) is None and (stage in raw or not has_data):
        return None
    return check_trainer(stage, _mapping(raw, stage))


def _mapping(raw: dict[str, Any], key: str) -> dict[str, Any]:
    section = raw.get(key)
    if section is None:
        return {}
    if not isinstance(section, dict):
        raise ConfigError(f"{key} must be a mapping, not {section!r}")
    return section


def _protocol(section: dict[str, Any]) -> RoundProtocol:
    fields = {f.name: str(f.type) for f in dataclasses.fields(RoundProtocol)}
    checked = check_section("protocol", section, fields)
    check_rule("protocol.keep_tokens", checked.get("keep_tokens"), "at least 0")
    for key in checked.get("chat_template_kwargs", ()):
        if not isinstance(key, str):
            raise ConfigError(
                f"protocol.chat_template_kwargs contains the key {key!r}; a template's variable names are text"
            )
    try:
        return get_protocol(checked.pop("name", "inftythink"), **checked)
    except UserError as error:
        raise ConfigError(str(error)) from error


def _check_whole(config: RunConfig) -> None:
    """Checks values beyond their types, and combinations of keys."""
    if not config.model.path and not config.model.build:
        raise ConfigError("model.path is missing: a checkpoint's folder or its name on the Hub")
    check_choice("model.dtype", config.model.dtype, ("auto", "float32", "bfloat16", "float16"))
    check_lora(config.model.lora)
    if config.model.build_args and not config.model.build:
        raise ConfigError("model.build_args needs model.build, the function that takes them")
    attention = config.model.attn_implementation
    if attention is not None and "/" not in attention:  # with a slash, a kernel on the Hub
        check_choice("model.attn_implementation", attention, _ATTENTION)
    check_rule("rollout.max_model_len", config.rollout.max_model_len, "at least 1")
    check_rule("rollout.async_steps", config.rollout.async_steps, "at least 0")
    if config.rollout.engine not in ENGINES:
        raise ConfigError(f"rollout.engine is {config.rollout.engine!r}; it must be one of {', '.join(ENGINES)}")
    for url in config.rollout.urls:
        good = isinstance(url, str) and url.startswith(("http://", "https://"))
        if not good or config.rollout.urls.count(url) > 1:
            raise ConfigError(
                f"rollout.urls contains {url!r}; each must begin with http:// or https:// and be listed once"
            )
    if config.rollout.weights_dir and config.rollout.engine != "server":
        raise ConfigError("rollout.weights_dir needs `engine: server`: other engines get the weights without a folder")
    if (config.rollout.engine == "server") != bool(config.rollout.urls):
        raise ConfigError("rollout.urls and `engine: server` go together: list the servers, such as [http://host:8000]")
    if config.rollout.async_steps and config.rollout.engine != "server":
        raise ConfigError(
            "rollout.async_steps needs `engine: server`: an engine in the trainer's process can't overlap"
        )
    check_dtypes(config)
    check_data(config)
    check_finite("", config.to_dict())
    check_table("rl.", config.rl or {})
    for entry in config.rewards:
        if not isinstance(entry, dict) or ("fn" not in entry and "model" not in entry):
            raise ConfigError(f"rewards: {entry!r} must have `fn` or `model`, as in {{fn: answer, weight: 1.0}}")
    for stage in config.eval.stages or ():
        if config.eval.stages.count(stage) > 1:
            raise ConfigError(f"eval.stages lists {stage!r} twice: leave one of them out")
        if stage not in ("base", "sft", "rl"):
            raise ConfigError(f"eval.stages contains {stage!r}; it may contain base, sft and rl")
        if stage != "base" and stage not in config.stages:
            raise ConfigError(f"eval.stages contains {stage!r}, a stage that this run does not have")
    refuse_settings("sft.", config.sft or {})
    refuse_in_run(config.rl or {}, config.rollout.engine, config.rollout.settings, config.rewards)
