"""The sections of a model card, as Markdown. Each takes what it needs; what is not known is not said."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rl.exporting.run_facts import base_model, shown
from rollout.protocol import RoundProtocol

_ROUNDS = {
    "inftythink": "each round thinks and writes a summary of it, and the next round sees the question and that summary "
    "only, until one writes the answer",
    "delethink": "it thinks in chunks of a fixed length, and each sees the question and the end of the last chunk only",
    "vanilla": "one round of thinking, then the answer",
}

_SETTINGS = {
    "num_train_epochs": "epochs", "learning_rate": "learning rate", "lr_scheduler_type": "schedule",
    "warmup_steps": "warm-up steps", "weight_decay": "weight decay", "per_device_train_batch_size": "batch a device",
    "gradient_accumulation_steps": "accumulation", "num_generations": "episodes a question",
    "max_completion_length": "most tokens a round", "max_length": "most tokens a row", "temperature": "temperature",
    "loss_type": "loss", "beta": "KL weight", "bf16": "bf16",
}  # fmt: skip
"""Shown of trl's settings, where a stage's config gives them; all others have their defaults."""

_REWARD = ("combine", "gate", "name")

_PAPERS = """\
@article{yan2025inftythink,
  title = {InftyThink: Breaking the Length Limits of Long-Context Reasoning in Large Language Models},
  author = {Yan, Yuchen and Shen, Yongliang and Liu, Yang and Jiang, Jin and Zhang, Mengdi and Shao, Jian and Zhuang, \
Yueting},
  journal = {arXiv preprint arXiv:2503.06692},
  year = {2025}
}
@article{yan2026inftythinkplus,
  title = {InftyThink+: Effective and Efficient Infinite-Horizon Reasoning via Reinforcement Learning},
  author = {Yan, Yuchen and Jiang, Liang and Jiang, Jin and Li, Shuaicheng and Wen, Zujie and Zhang, Zhiqiang and \
Zhou, Jun and Shao, Jian and Zhuang, Yueting and Shen, Yongliang},
  journal = {arXiv preprint arXiv:2602.06960},
  year = {2026}
}"""


def head(name: str, protocol: RoundProtocol, run: dict[str, Any] | None) -> str:
    """Title, and what the model is."""
    text = f"# {name}\n\nA language model that reasons by the {protocol.name} protocol: {_ROUNDS[protocol.name]}."
    if not run:
        return text + " Exported by Sawtooth."
    model = run["config"]["model"]
    base = base_model(run["config"])
    if base:
        start = f"[{base}](https://huggingface.co/{base})"
    else:
        start = f"a model built from nothing by `{shown(model['build'])}`" if model["build"] else shown(model["path"])
    stages = ["SFT on rounds"] if "sft" in run["steps"] else []
    stages += ["GRPO over whole episodes"] if "rl" in run["steps"] else []
    how = " and ".join(stages)
    return f"{text} Made by Sawtooth from {start}{f', by {how}' if how else ''}."


def results(
    summary: Sequence[dict[str, Any]], settings: dict[str, Any], protocol: RoundProtocol, run: dict[str, Any] | None
) -> str:
    """What was measured, and how."""
    if not summary:
        when = f"A model from mid-training, at step {run['step']}. " if run and run["step"] is not None else ""
        return f"## Results\n{when}Not evaluated."
    from rl.evaluation.evaluate import format_table

    given = {"samples": summary[-1]["samples"], "max_rounds": protocol.max_rounds, **settings}
    told = f"{given['samples']} samples a question"
    for key, word in (("temperature", "temperature"), ("top_p", "top-p"), ("top_k", "top-k"), ("seed", "seed")):
        told += f", {word} {given[key]}" if given.get(key) is not None else ""
    told += f"; at most {given['max_rounds']} rounds"
    told += f" of {given['max_tokens']} tokens" if given.get("max_tokens") else ""
    return f"## Results\nMeasured by `sawtooth eval`: {told}.\n\n{format_table(summary)}"


def how_to_run(transformers: str, vllm: str, server: str) -> str:
    """The three ways, each with code that runs as it stands."""
    return (
        "## How to run it\n`protocol.json` holds how the rounds go.\n\n"
        "### transformers\nThe rounds run behind `generate`, by the code in `custom_generate/`; "
        "`return_dict_in_generate=True` gives all of them.\n\n"
        f"```python\n{transformers}```\n\n"
        f"### vLLM\nA round is plain generation:\n\n```python\n{vllm}```\n\n"
        "### An OpenAI endpoint\nWith Sawtooth, a server runs the rounds; a client sees the answer, the thinking as "
        f"`reasoning_content`.\n\n```sh\n{server}```"
    )


def training(protocol: RoundProtocol, run: dict[str, Any] | None) -> str:
    """Protocol, settings, rewards, versions."""
    facts = {"protocol": f"`{protocol.name}`"}
    if protocol.name != "vanilla":
        facts["most rounds of an episode"] = protocol.max_rounds
        facts["most tokens of a segment"] = protocol.segment_tokens
    if protocol.name == "inftythink":
        facts["most tokens of a summary"] = protocol.summary_tokens
    if protocol.name == "delethink":
        facts["tokens carried on"] = f"the first {protocol.keep_tokens} and the last {protocol.carry_tokens}"
    if run:
        config = run["config"]
        if "rl" in run["steps"]:
            facts["rewards"] = ", ".join(map(_reward, config["rewards"]))
        lora = config["model"]["lora"]
        if lora:
            facts["LoRA (merged)"] = ", ".join(f"{key} {value}" for key, value in lora.items())
        facts |= {"seed": config["seed"], "weights": config["model"]["dtype"]}
        facts["versions at the export"] = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
        facts["commit of Sawtooth at the export"] = run["commit"]
    rows = [f"| {key} | {value} |" for key, value in facts.items() if value is not None]
    text = "## Training\n" + "\n".join(["| | |", "|---|---|", *rows])
    return text + (f"\n\n{_stages(run)}" if run and run["steps"] else "")


def _reward(entry: dict[str, Any]) -> str:
    # Of text only what is the reward's own: a plugin's settings may hold paths, addresses and keys.
    further = {
        key: value for key, value in entry.items()
        if key in _REWARD or isinstance(value, (int, float)) or (isinstance(value, dict) and "schedule" in value)
    }  # fmt: skip
    told = ", ".join(f"{key} {value}" for key, value in further.items())
    return f"`{shown(entry['fn'])}`" + (f" ({told})" if told else "")


def _stages(run: dict[str, Any]) -> str:
    """A column for each stage that ran, a row for each setting that one of them gives."""
    stages = [stage for stage in ("sft", "rl") if stage in run["steps"]]
    given = {stage: run["config"][stage] or {} for stage in stages}
    rows = [["steps", *(run["steps"][stage] for stage in stages)]]
    for key, word in _SETTINGS.items():
        if any(key in given[stage] for stage in stages):
            rows.append([word, *(given[stage].get(key, "–") for stage in stages)])
    lines = [["", *(stage.upper() for stage in stages)], ["---"] * (1 + len(stages)), *rows]
    table = "\n".join("| " + " | ".join(map(str, cells)) + " |" for cells in lines)
    return f"{table}\n\nAll other settings have trl's or Sawtooth's defaults."


def data(run: dict[str, Any] | None) -> str:
    """What it was trained on, and how that was cut into rounds."""
    if not run:
        return ""
    given, report = run["config"]["data"], run["data"]
    sources = {"traces": given["traces"] or given["prepared"], "questions of RL": given["questions"]}
    lines = [f"* {what}: `{shown(source)}`" for what, source in sources.items() if source]
    if report:
        dropped = ", ".join(f"{reason}: {count}" for reason, count in report["dropped"].items())
        lines.append(f"* {report['kept']} of {report['traces']} traces used, {report['rounds']} rounds")
        lines.append(f"* traces left out: {dropped or 'none'}")
        segments = (report.get("tokens") or {}).get("segment")
        if segments:
            lines.append(f"* tokens of a segment: median {segments['median']}, most {segments['max']}")
        summarizer = run["config"]["summarizer"]
        lines.append(f"* summaries by `{shown(summarizer['fn'] or summarizer['model'])}`")
        checked = ", ".join(report.get("decontaminated") or [])
        lines.append(f"* no question shares words with: {checked or 'not checked'}")
    return "## Data\n" + "\n".join(lines)


def licence_and_limits(
    protocol: RoundProtocol, summary: Sequence[dict[str, Any]], licence: str | None, run: dict[str, Any] | None
) -> str:
    """The licence, or that there is none; what the model can't do."""
    text = f"## Licence\n{licence}" if licence else (
        "## Licence\nNo licence has been chosen for this model. Those of its base model and of its data hold."
    )  # fmt: skip
    limits = [
        "* It was trained on verifiable questions. Its answers may be wrong, and its thinking may not be how it came "
        "to them.",
    ]
    if protocol.name == "inftythink":
        limits.append("* What a summary leaves out is lost to all later rounds.")
    for row in summary:
        if row["stage"] == "rl" and row.get("stops"):  # the model that is exported
            stops = ", ".join(f"{reason} {100 * share:.1f} %" for reason, share in row["stops"].items() if share)
            label = f", {row['label']}" if row.get("label", row["protocol"]) != row["protocol"] else ""
            limits.append(f"* How episodes ended on {row['dataset']}{label}: {stops}.")
    return f"{text}\n\n## Limits\n" + "\n".join(limits)


def citation(protocol: RoundProtocol) -> str:
    """The papers of the method."""
    kin = " Delethink is arXiv 2510.06557." if protocol.name == "delethink" else ""
    return f"## Citation\nThe method is InftyThink's and InftyThink+'s.{kin}\n\n```bibtex\n{_PAPERS}\n```"
