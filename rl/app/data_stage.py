"""Runs the data stage: config in, `runs/<name>/data` out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rl.app.run_config import ConfigError, RunConfig
from rollout.errors import loading
from rollout.types import question_text
from sft.data.parts import clean_up
from sft.data.sources import Source, load_rows, open_source

if TYPE_CHECKING:
    from sft.data.contamination import Contamination


def run_data(config: RunConfig, base_model: Callable[[RunConfig], str]) -> None:
    """Makes the rounds, a report and a dataset card, or copies the rounds that `data.prepared` names.

    Args:
        base_model: returns the checkpoint whose tokenizer counts; called once the source is known to exist.
    """
    folder = config.folder / "data"
    if config.data.prepared:
        rounds = _take_prepared(config, folder)
        print(f"data: {rounds} rounds from {config.data.prepared}")
        return
    source = traces_source(config)
    if source.length == 0:
        raise ConfigError(f"data {source.spec!r} is empty: there is nothing to train on")
    contamination = _contamination(config)
    model = base_model(config)
    from transformers import AutoTokenizer

    from rollout.tokenizer_check import check_tokenizer
    from sft.data.prepare import DataStage
    from sft.data.report import make_report
    from sft.data.writers import make_writer

    with loading(f"model {model}"):
        tokenizer = AutoTokenizer.from_pretrained(model)
    check_tokenizer(tokenizer, config.protocol)
    stage = DataStage(
        source,
        folder,
        config.protocol,
        tokenizer,
        config.data,
        config.summarizer,
        lambda say: make_writer(config.summarizer, config.protocol.summary_tokens, say, _concurrency(config)),
        contamination,
        _concurrency(config),
        config.seed,
    )
    stage.run()
    if stage.selector.form:
        print(f"data: read as {stage.selector.form}")
    dataset = stage.join()
    sets = contamination.sizes if contamination else {}
    report = make_report(folder, config.protocol.max_rounds, config.summarizer.price, sets)
    print(f"data: {report['kept']} of {report['traces']} traces kept, {report['rounds']} rounds; {folder}/report.md")
    for reason, count in report["dropped"].items():
        print(f"data: not used: {count} x {reason}")
    if not report["kept"]:
        shutil.rmtree(dataset)
        clean_up(folder)  # else corrected settings would be refused
        raise ConfigError(f"no trace of {source.spec} could be used: {folder}/report.md shows the first cases")
    _write_card(config, model, report)


def _write_card(config: RunConfig, model: str, report: dict[str, Any]) -> None:
    from sft.data.card import write_card

    dataset = config.folder / "data" / "dataset"
    write_card(
        dataset,
        report,
        name=config.data.repo_id or config.name,
        load=config.data.repo_id or str(dataset),
        source=source_settings(config.data.traces, "traces")[0],
        model=config.model.path or model,
        eta=config.protocol.segment_tokens,
        gamma=config.protocol.summary_tokens,
        summarizer=config.summarizer.model or config.summarizer.fn or "none",
        license=config.data.license,
    )


def check_push(config: RunConfig) -> None:
    """Checks the push settings before the work, not after it.

    Raises:
        ConfigError: there is no name to push to.
    """
    if not config.data.repo_id:
        raise ConfigError("data.repo_id is missing: set it to user/name on the Hub")


def push(config: RunConfig) -> str:
    """Sends the finished data set to the Hub, with a dataset card of the current settings."""
    from sft.data.card import push_data

    report = config.folder / "data" / "report.json"
    if report.exists() and config.data.traces:
        _write_card(config, str(config.folder / "base"), json.loads(report.read_text()))
    return push_data(config.folder / "data" / "dataset", config.data.repo_id, config.data.private)


def traces_source(config: RunConfig) -> Source:
    """Returns the source that `data.traces` names."""
    spec, settings = source_settings(config.data.traces, "traces")
    return open_source(spec, **settings)


def source_settings(source: str | dict[str, Any], where: str) -> tuple[str, dict[str, Any]]:
    """Returns spec and further settings of `data.<where>`: a source, or {source: …} with its settings."""
    settings = {"source": source} if isinstance(source, str) else dict(source)
    spec = settings.pop("source", "")
    if not spec:
        raise ConfigError(f"data.{where} is missing: set it to a Hub dataset, a local file, or module:function")
    return spec, settings


def _take_prepared(config: RunConfig, folder: Path) -> int:
    """Copies existing rounds to `dataset/`. Returns their number."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    where, target = config.data.prepared, folder / "dataset"
    local = next(
        (p for p in (Path(where), Path(where) / "dataset", Path(where) / "data" / "dataset") if _is_data(p)), None
    )
    if local is None and Path(where).exists():
        raise ConfigError(f"data.prepared: {where} contains no rounds/*.parquet: it is not a finished data stage")
    partial = folder / "dataset.tmp"
    shutil.rmtree(partial, ignore_errors=True)
    if local is not None:
        shutil.copytree(local, partial)
    else:
        _download(where, partial)
    rows, longest = 0, 0
    for path in (partial / "rounds").glob("*.parquet"):
        for batch in pq.ParquetFile(path).iter_batches(columns=["segment_tokens"]):  # never a whole file at once
            rows += len(batch)
            longest = max(longest, pc.max(batch.column(0)).as_py() or 0)
    if longest > config.protocol.segment_tokens and config.protocol.name == "inftythink":
        raise ConfigError(
            f"data.prepared: {where} has segments of {longest} tokens, more than protocol.segment_tokens "
            f"({config.protocol.segment_tokens}): raise it"
        )
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
    return rows


def _is_data(path: Path) -> bool:
    return any((path / "rounds").glob("*.parquet"))


def _download(repo_id: str, folder: Path) -> None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    patterns = ["rounds/*.parquet", "vanilla/*.parquet", "README.md"]
    try:
        snapshot_download(repo_id, repo_type="dataset", allow_patterns=patterns, local_dir=folder)
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, ConnectionError) as error:
        why = " ".join(str(error).split())[:200]
        raise ConfigError(f"data.prepared: {repo_id} is not a folder here, and the Hub says: {why}") from error
    if not _is_data(folder):
        raise ConfigError(
            f"data.prepared: {repo_id} on the Hub contains no rounds/*.parquet: `sawtooth data` did not make it"
        )


def _contamination(config: RunConfig) -> Contamination | None:
    """Returns the evaluation sets that no question may overlap."""
    from rl.evaluation.sets import load_set
    from sft.data.contamination import EVAL_SETS, Contamination

    sets: dict[str, Iterator[str]] = {}
    for name in config.data.decontaminate:
        if isinstance(name, dict):
            spec, settings = source_settings(name, "decontaminate")
            sets[spec] = _questions(spec, settings, None)
        elif name == "eval":
            for own, source in config.data.eval.items():
                sets[f"data.eval.{own}"] = map(
                    question_text, (row["question"] for row in load_set(source, own, "{question}").rows)
                )
        elif name in EVAL_SETS:
            known = EVAL_SETS[name]
            sets[name] = _questions(known.hub_id, {"name": known.config, "split": known.split}, known.column)
        else:
            sets[name] = _questions(name, {}, None)
    return Contamination(sets, config.data.decontaminate_words) if sets else None


def shared_questions(config: RunConfig, questions: list[dict[str, Any]]) -> list[tuple[str, int, int]]:
    """Returns evaluation sets that share questions with RL: (name, shared, total). Skips sets that can't be read.

    Questions are compared without case and whitespace. Empty if `data.decontaminate` does not contain `eval`.
    """
    from rl.evaluation.sets import load_set
    from sft.data.duplicates import normalize

    if "eval" not in config.data.decontaminate:
        return []
    asked = {normalize(question_text(row["question"])) for row in questions if row.get("question")}
    found = []
    for name, source in config.data.eval.items():
        try:
            rows = load_set(source, name, "{question}").rows
        except (ValueError, OSError):  # evaluation reports it, if it still fails then
            continue
        shared = sum(normalize(question_text(row["question"])) in asked for row in rows)
        if shared:
            found.append((name, shared, len(rows)))
    return found


def _questions(spec: str, settings: dict[str, Any], column: str | None) -> Iterator[str]:
    """Yields the texts of an evaluation set's questions.

    Raises:
        ConfigError: the set can't be read, or has no column of questions.
    """
    for row in load_rows(spec, **settings):
        name = column or next((key for key in ("question", "problem", "prompt", "Question") if key in row), None)
        if name not in row:
            raise ConfigError(
                f"data.decontaminate: {spec} has no column `question` or `problem`; it has {', '.join(row)}"
            )
        yield question_text(row[name])


def _concurrency(config: RunConfig) -> int:
    return config.summarizer.concurrency or (1 if config.summarizer.fn else 64)
