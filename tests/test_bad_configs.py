# ruff: noqa: E501 -- a message is one line
"""The config is checked whole before the first stage: each mistake is one line, the same for `run`, a stage, `plan` and
`--dry-run`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rl.app.cli import main
from rl.app.run_config import load_config

GOOD = """
model: {path: model}
protocol: {name: vanilla}
data:
  questions: q.jsonl
  eval: {easy: q.jsonl}
rl:
  max_steps: 2
  num_generations: 4
  max_completion_length: 64
rollout: {engine: transformers, max_model_len: 256}
rewards:
  - {fn: answer}
"""


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A folder with a checkpoint's small files and data, to be checked against."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text(json.dumps({"model_type": "qwen3", "max_position_embeddings": 512}))
    (tmp_path / "model/tokenizer.json").write_text(json.dumps({"added_tokens": [], "model": {"vocab": {"a": 0}}}))
    (tmp_path / "q.jsonl").write_text('{"question": "1 + 1?", "answer": "2"}\n')
    (tmp_path / "mine.py").write_text(
        "def paid(completions, bonus=1.0, **_):\n    return [bonus] * len(completions)\ndef rows(folder):\n    pass\n"
    )
    (tmp_path / "broken.py").write_text("raise KeyError('level')\n")
    (tmp_path / "zero.json").write_text("{")
    return tmp_path


def said(capsys, *arguments):
    """Exit code and stderr of a command."""
    code = main([str(a) for a in arguments])
    return code, capsys.readouterr().err


def refused(capsys, path, message, *overrides):
    """Each command says this one line."""
    for command in (["run", path, "--dry-run"], ["rl", path, "--dry-run"], ["rl", path], ["plan", path]):
        assert said(capsys, *command, *overrides) == (2, f"sawtooth: {message}\n"), command


def write(work, text=GOOD):
    path = work / "x.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_the_good_config_passes(work, capsys):
    path = write(work)
    for stage in ("run", "rl"):
        assert said(capsys, stage, path, "--dry-run") == (0, "")
    assert not Path("runs").exists()  # no check writes anything


NOT_YAML = "x.yaml is not YAML: "


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD + "rl: {temperature: 0.9}\n", "x.yaml, line 14: duplicate key 'rl' (first on line 7)"),
        (GOOD.replace("  max_steps: 2", "  max_steps: 2\n  max_steps: 3"), "duplicate key 'max_steps' (first on line 8)"),
        (GOOD.replace("{fn: answer}", "{fn: answer, weight: 1, weight: 2}"), "duplicate key 'weight' (first on line 13)"),
        ("", "x.yaml is empty: it must contain sections (name:, model:, …)"),
        ("# nothing\n", "x.yaml is empty: it must contain sections (name:, model:, …)"),
        ("- a\n", "x.yaml must contain sections (name:, model:, …), not list"),
        ("rl:\n\tbeta: 1\n", NOT_YAML),
        ("a: [1", NOT_YAML),
        ("a: !!timestamp 2026-13-45\n", NOT_YAML),
        ("seed:\n  010\n", "x.yaml, line 2: 010 begins with a 0, so YAML reads it as octal: leave the 0 out, or"),
        ("a: !!python/object:os.system {}\n", NOT_YAML),
        ("[" * 5000, "it is nested too deeply"),
        ("seed: " + "9" * 5000, NOT_YAML),
        ("name: caf\xe9\n".encode("latin-1"), "x.yaml, line 1: byte 0xe9 is not UTF-8: save it as UTF-8"),
        (GOOD.encode("utf-16"), "x.yaml is UTF-16 or UTF-32: save it as UTF-8"),
        ("a: &a [*a]\n", "contains more than 100,000 values with its aliases (*name) expanded"),
        ("\n".join(f"k{i}: &k{i} [{', '.join([f'*k{i - 1}' if i else '1'] * 9)}]" for i in range(9)), "contains more than"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_config(work, capsys, text, message):
    path = write(work, text)
    for command in (["run", path, "--dry-run"], ["plan", path]):
        code, err = said(capsys, *command)
        assert code == 2 and message in err and err.count("\n") == 1 and str(path) in err


def test_what_is_yaml_all_the_same(work, capsys):
    merged = GOOD.replace(
        "  eval: {easy: q.jsonl}",
        "  eval:\n    a: &a {source: q.jsonl, limit: 1}\n    b: {<<: *a, limit: 2}\n    c: *a",
    )
    config = load_config(write(work, "﻿".encode() + merged.encode()), ["data.eval.a.limit=5"])
    assert [config.data.eval[name]["limit"] for name in "abc"] == [5, 2, 1]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("rl.loss_type=bogus", "rl.loss_type is 'bogus'; it must be one of grpo, dr_grpo, dapo, bnpo, cispo, sapo, luspo, vespo"),
        ("rl.scale_rewards=banana", "rl.scale_rewards is 'banana'; it must be one of group, batch, none, true, false"),
        ("rl.importance_sampling_level=word", "rl.importance_sampling_level is 'word'; it must be one of token, sequence"),
        ("rl.optim=adamw", "rl.optim is 'adamw'; it must be one of grokadamw, adamw_8bit, adalomo, adamw_torch, ademamix, …"),
        ("rl.lr_scheduler_type=cos", "rl.lr_scheduler_type is 'cos'; it must be one of linear, cosine, cosine_with_restarts, polynomial, constant, constant_with_warmup, inverse_sqrt, reduce_lr_on_plateau, cosine_with_min_lr, cosine_warmup_with_min_lr, warmup_stable_decay, greedy"),
        ("rl.beta=", "rl.beta is None; it must be a number"),
        ("rl.beta=.nan", "rl.beta is nan; it must be a number"),
        ("rl.learning_rate=.inf", "rl.learning_rate is inf; it must be a number"),
        ("rl.learning_rate=-1e-6", "rl.learning_rate is -1e-06; it must be at least 0"),
        ("rl.temperature=0", "rl.temperature is 0.0; it must be above 0"),
        ("rl.top_p=1.5", "rl.top_p is 1.5; it must be above 0, and 1 at most"),
        ("rl.max_steps=0", "rl.max_steps is 0; it must be at least 1, or -1 for as many as num_train_epochs give"),
        ("rl.max_steps=true", "rl.max_steps is True; it must be a whole number"),
        ("rl.save_steps=2.5", "rl.save_steps is 2.5; it must be a share below 1, or a whole number"),
        ("rl.num_generations=1", "rl.num_generations is 1; it must be at least 2"),
        ("rl.per_device_train_batch_size=6", "a generation batch of 6 episodes (rl.per_device_train_batch_size 6 x 1 x 1 ranks) is not a multiple of rl.num_generations=4: change one of them or --nproc"),
        ("rl.eval_strategy=steps", "rl.eval_strategy is set by the run itself: leave it out (the trainers have no evaluation data: use the stage `eval`)"),
        ("rl.report_to=[tensorbord]", "rl.report_to is 'tensorbord'; it must be one of all, none, azure_ml, clearml, codecarbon, comet_ml, dagshub, dvclive, flyte, kubeflow, mlflow, neptune, swanlab, tensorboard, trackio, wandb"),
        ("rl.deepspeed=none.json", "rl.deepspeed: there is no file none.json"),
        ("rl.dynamic_sampling=1", "rl.dynamic_sampling is 1; it must be true or false"),
        ("rl.max_completion_length=256", "rl.max_completion_length is 256, rollout.max_model_len is 256: that leaves no room for a prompt"),
        ("rl=[1]", "rl must be a mapping, not [1]"),
        ("rl=false", "rl must be a mapping, not False"),
        ("rollout.max_model_len=513", "rollout.max_model_len is 513, above the context of model, which is 512: lower it"),
        ("rollout={max_model_len: 256, settings: {gpu_memory_utilisation: 0.5}}", "unknown key 'rollout.settings.gpu_memory_utilisation': did you mean 'gpu_memory_utilization'?"),
        ("rollout={max_model_len: 256, settings: {gpu_memory_utilization: 1.5}}", "rollout.settings.gpu_memory_utilization is 1.5; it must be above 0, and 1 at most"),
        ("rollout.max_model_len=0", "rollout.max_model_len is 0; it must be at least 1"),
        ("rewards=[]", "rewards is empty: name at least one, as in `rewards: [{fn: answer}]`"),
        ("rewards=[{fn: answr}]", "rewards: no built-in 'answr'; did you mean 'answer'?"),
        ("rewards=[{fn: 'none.py:f'}]", "'none.py:f': there is no file none.py (paths start at {here}/)"),
        ("rewards=[{fn: 'mine.py:nobody'}]", "'mine.py:nobody': mine.py has no function 'nobody'"),
        ("rewards=[{fn: 'broken.py:f'}]", "'broken.py:f' failed to load: KeyError: 'level' (broken.py, line 1)"),
        ("rewards=[{fn: 'mine.py:paid', bonos: 1}]", "rewards: mine.py:paid has no setting 'bonos'; it takes bonus"),
        ("rewards.0.weight=heavy", "rewards: answer.weight is 'heavy'; it must be a number"),
        ("rewards.0.weight=.nan", "rewards.0.weight is nan; it must be a number"),
        ("rewards=[{fn: exact, combine: multiply}]", "rewards has only `multiply` terms: at least one must `add`"),
        ("model.path=/nowhere/m", "model.path: there is no folder /nowhere/m"),
        ("model.path=~nobody_here/m/x", "model.path: there is no folder ~nobody_here/m/x"),
        ("model.path=${NO_SUCH_VARIABLE}/m", "model.path: the environment variable NO_SUCH_VARIABLE is not set"),
        ("model.path=.", "model.path . contains no config.json: it is not a model that transformers can load"),
        ("model.dtype=float23", "model.dtype is 'float23'; it must be one of auto, float32, bfloat16, float16"),
        ("model.lora.rank=8", "unknown key 'model.lora.rank': did you mean 'rank_pattern'?"),
        ("model.lora.r=0", "model.lora.r is 0; it must be at least 1"),
        ("model.lora.bias=some", "model.lora.bias is 'some'; it must be one of none, all, lora_only"),
        ("protocol.name=inftythink", "model does not know <summary>: SFT teaches a model the rounds (data.traces and a section `sft`); without it, set protocol.name to vanilla"),
        ("data.questions=none.jsonl", "data.questions: data file none.jsonl does not exist"),
        ("data.questions={source: q.jsonl, splt: a}", "data.questions: data 'q.jsonl' is not a function, so it takes no 'splt'; known: name, split, streaming, limit, columns"),
        ("data.questions={columns: {}}", "data.questions has no source: set a Hub data set, a local file, or path.py:function"),
        ("data.questions=", "data.questions is missing, which `rl` rolls out; `rl: null` leaves RL out"),
        ("data.eval.easy={source: 'mine.py:paid', count: 3}", "data.eval.easy: data 'mine.py:paid': missing a required argument: 'completions'"),
        ("sft.max_steps=3", "data.traces is missing, which `sft` trains on (or data.prepared); `sft: null` leaves SFT out"),
        ("eval.stages=[sft]", "eval.stages contains 'sft', a stage that this run does not have"),
        ("eval.samples=0", "eval.samples is 0; it must be at least 1"),
        ("eval.temperature=-1", "eval.temperature is -1.0; it must be at least 0"),
        ("eval.prompt=Hello", "eval.prompt is 'Hello'; it must contain {question}"),
        ("eval.k=[a]", "eval.k is 'a'; it must be a whole number"),
        ("seed=-1", "seed is -1; it must be from 0 to 4294967295"),
        # What a library or a stage would say hours later, or nobody at all.
        ("rl.num_generations=", "rl.num_generations is None; it must be a whole number"),
        ("rl.optim=", "rl.optim is None; it must be OptimizerNames or text"),
        ("rl.reward_weights=[a]", "rl.reward_weights is ['a']; it must be a list, each a number or null"),
        ("rl.save_strategy=no", "rl.save_strategy is False; it must be one of no, steps, epoch, best (YAML reads a bare yes, no, on or off as true or false: put it in quotes)"),
        ("rl.save_strategy=best", "rl.save_strategy is 'best', which needs an evaluation: the trainers have no evaluation data: use the stage `eval`"),
        ("rl.eval_steps=5", "rl.eval_steps is set by the run itself: leave it out (the trainers have no evaluation data: use the stage `eval`)"),
        ("rl.metric_for_best_model=x", "rl.metric_for_best_model is set by the run itself: leave it out (the trainers have no evaluation data: use the stage `eval`)"),
        ("rl.hub_private_repo=true", "rl.hub_private_repo is set by the run itself: leave it out (use `export`)"),
        ("rl.trust_remote_code=true", "rl.trust_remote_code is set by the run itself: leave it out (`model` says how the checkpoint is loaded)"),
        ("rl.label_smoothing_factor=0.1", "rl.label_smoothing_factor is 0.1, which RL does not use: leave it out"),
        ("rl.remove_unused_columns=true", "rl.remove_unused_columns would remove the columns that the rewards read: leave it out"),
        ("rl.generation_kwargs={top_p: 3}", "rl.generation_kwargs.top_p is 3.0; it must be above 0, and 1 at most"),
        ("rl.generation_kwargs={top_k: x}", "rl.generation_kwargs.top_k is 'x'; it must be a whole number"),
        ("rl.cache_implementation=bogus", "rl.cache_implementation is 'bogus'; it must be one of static, offloaded_static, dynamic, offloaded, quantized"),
        ("rl.deepspeed={}", "rl.deepspeed is {}; it must contain DeepSpeed settings, as in configs/deepspeed/zero2.json"),
        ("rl.deepspeed={zero_optimizaton: {}}", "rl.deepspeed: DeepSpeed has no setting 'zero_optimizaton'; did you mean 'zero_optimization'?"),
        ("rl.deepspeed={zero_optimization: {stag: 3}}", "rl.deepspeed.zero_optimization: DeepSpeed has no setting 'stag'; did you mean 'stage'?"),
        ("rollout.settings={bogus: 1}", "unknown key 'rollout.settings.bogus': known keys: batch_size"),
        ("rollout.settings={batch_size: x}", "rollout.settings.batch_size is 'x'; it must be above 0"),
        ("rollout.settings={seed: 3}", "rollout.settings.seed is set by the run itself: leave it out"),
        ("rollout.weights_dir=w", "rollout.weights_dir needs `engine: server`: other engines get the weights without a folder"),
        ("rollout={engine: server, urls: [a:80]}", "rollout.urls contains 'a:80'; each must begin with http:// or https:// and be listed once"),
        ("model.lora={r: 8, target_modules: 3}", "model.lora.target_modules is 3; it must be a list, each text or text or null (put it in quotes)"),
        ("model.lora.inference_mode=true", "model.lora.inference_mode is set by the run itself: leave it out"),
        ("model.attn_implementation=flash", "model.attn_implementation is 'flash'; it must be one of eager, sdpa, flash_attention_2, flash_attention_3, flash_attention_4, flex_attention"),
        ("model.build_args={a: 1}", "model.build_args needs model.build, the function that takes them"),
        ("model={build: 'mine.py:rows', build_args: {size: 3}}", "model.build: mine.py:rows: got an unexpected keyword argument 'size'"),
        ("model.path=$HOME/m", "model.path is '$HOME/m': write a variable as ${NAME}, with only its name in the braces"),
        ("model.path=${HOME:-x}/m", "model.path is '${HOME:-x}/m': write a variable as ${NAME}, with only its name in the braces"),
        ("rl.run_name=${HOME}", "rl.run_name is '${HOME}': variables are expanded only in paths, sources and functions"),
        ("data.eval={'${HOME}': q.jsonl}", "data.eval.${HOME}: variables are not expanded in keys: write the key itself"),
        ("data.eval={no: q.jsonl}", "data.eval contains the name False: a set's name must be text (YAML reads a bare yes, no, on or off as true or false: put it in quotes)"),
        ("data.eval.easy={source: q.jsonl, verifier: numerc}", "data.eval.easy.verifier: no built-in 'numerc'; did you mean 'numeric'?"),
        ("data.eval.easy={source: q.jsonl, prompt: hi}", "data.eval.easy.prompt is 'hi'; it must contain {question}"),
        ("data.questions={source: q.jsonl, streaming: maybe}", "data.questions: data 'q.jsonl': streaming is 'maybe'; it must be true or false"),
        ("data.questions={source: q.jsonl, columns: {question: 3}}", "data.questions: data 'q.jsonl': columns contains 'question': 3; both must be text"),
        ("data.questions={source: q.jsonl, columns: {question: ask}}", "data.questions: q.jsonl has no column 'ask'; it has question, answer: name it, as in {source: …, columns: {question: …}}"),
        ("data.questions=zz*.jsonl", "data.questions: no data file matches zz*.jsonl"),
        ("data.questions=q.txt", "data.questions: data 'q.txt' is not a source: it must be a file (.jsonl, .jsonl.gz, .json, .parquet, .csv), path.py:function or user/name on the Hub"),
        ("data.repo_id=x", "data.repo_id is 'x'; write user/name, as on the Hub"),
        ("summarizer={fn: 'mine.py:rows', model: m}", "summarizer.model has no effect with summarizer.fn: leave it out"),
        ("eval.who=[1]", "eval.summarizer is 1; it must be a model, path.py:function, or keys of `summarizer`"),
        ("eval.summarizer=none.py:f", "eval.summarizer: 'none.py:f': there is no file none.py (paths start at {here}/)"),
        ("eval.stages=[]", "eval.stages is empty: name base, sft or rl, or leave it out"),
        ("export.language=[1]", "export.language contains 1; each must be a language code as text, such as en"),
        ("rewards.0.name=3", "rewards: answer.name is 3; it must be text (it names the reward in tables and metrics)"),
        ('name="a\\nb"', "name is 'a\\nb'; it names a folder in runs/, so it can't contain a slash or line break"),
        ("seed=12:30", "seed is '12:30'; it must be a whole number"),
        ("rl.max_steps=1e3", "rl.max_steps is '1e3'; it must be a whole number"),
        ("rl.learning_rate=!!set {a}", "rl.learning_rate is {'a'}; it must be text (in quotes), a number, true, false, null or a list"),
        ("rl.save_only_model=true", "rl.save_only_model is set by the run itself: leave it out (a stage resumes from its checkpoints, which need the optimizer)"),
        ("rl.enable_jit_checkpoint=true", "rl.enable_jit_checkpoint is set by the run itself: leave it out (SIGTERM saves a checkpoint without it)"),
        ("rl.report_to=''", "rl.report_to is ''; it must be one of all, none, azure_ml, clearml, codecarbon, comet_ml, dagshub, dvclive, flyte, kubeflow, mlflow, neptune, swanlab, tensorboard, trackio, wandb"),
        ("rl.report_to=[none, tensorboard]", "rl.report_to is ['none', 'tensorboard']: all and none can't be combined with others"),
        ("rl.dataloader_prefetch_factor=2", "rl.dataloader_prefetch_factor needs rl.dataloader_num_workers of at least 1: set it, or leave this out"),
        ("rl.dataloader_persistent_workers=true", "rl.dataloader_persistent_workers needs rl.dataloader_num_workers of at least 1: set it, or leave this out"),
        ("rl.optim_target_modules=[q_proj]", "rl.optim_target_modules is for GaLore's and APOLLO's optimizers: leave it out"),
        ("rl={lr_scheduler_type: constant, lr_scheduler_kwargs: {a: 1}}", "rl.lr_scheduler_kwargs has no effect with lr_scheduler_type constant: leave it out"),
        ("rl.gradient_checkpointing_kwargs={use_reentrent: true}", "unknown key 'rl.gradient_checkpointing_kwargs.use_reentrent': did you mean 'use_reentrant'?"),
        ("rl.include_num_input_tokens_seen=some", "rl.include_num_input_tokens_seen is 'some'; it must be one of all, non_padding, no, true, false"),
        ("rl.pad_to_multiple_of=0", "rl.pad_to_multiple_of is 0; it must be at least 1"),
        ("rollout={engine: vllm, max_model_len: 256, settings: {max_num_seqs: '8'}}", "rollout.settings.max_num_seqs is '8'; it must be a whole number or null"),
        ("rollout={engine: vllm, max_model_len: 256, settings: {enforce_eager: maybe}}", "rollout.settings.enforce_eager is 'maybe'; it must be true or false"),
        ("rollout={engine: vllm, max_model_len: 256, settings: {gpu_memory_utilization: 9e-1}}", "rollout.settings.gpu_memory_utilization is '9e-1', which YAML reads as text: write 0.9"),
        ("model.lora={}", "model.lora is empty: name its rank, as {r: 16}, or leave it out to train all weights"),
        ("model.lora={r: 8, target_modules: []}", "model.lora.target_modules is empty: name modules, or all-linear, or leave it out"),
        ("eval.summarizer={fn: x}", "eval.summarizer: 'x' does not name a function: write path/to/file.py:name or package.module:name"),
        ("summarizer.top_p=2", "summarizer.top_p is 2.0; it must be above 0, and 1 at most"),
    ],
    ids=lambda value: value if "=" in value and " is " not in value else "",
)  # fmt: skip
def test_a_mistake_is_the_same_line_everywhere(work, capsys, override, message):
    refused(capsys, write(work), message.replace("{here}", work.name), override)


def test_a_mistake_of_two_keys(work, capsys):
    said_of_two = {
        (
            "protocol.name=inftythink",
            "data.traces=q.jsonl",
        ): "summarizer has no source of summaries: set fn, url or engine",
        (
            "data.traces=q.jsonl",
            "sft.max_length=513",
        ): "sft.max_length is 513, above the model's context, which is 512: lower it",
        (
            "rl.optim_args=x",
            "rl.optim=adamw_torch",
        ): "rl.optim, optim_args, lr_scheduler_type or lr_scheduler_kwargs: ValueError",
    }
    for overrides, message in said_of_two.items():
        code, err = said(capsys, "rl", write(work), "--dry-run", *overrides)
        assert code == 2 and err.startswith(f"sawtooth: {message}") and err.count("\n") == 1, err


def test_ranks_count_for_the_batch(work, capsys):
    path = write(work)
    arguments = ["rl.per_device_train_batch_size=2", "--dry-run"]
    assert said(capsys, "rl", path, *arguments, "--nproc", 2)[0] == 0
    code, err = said(capsys, "rl", path, *arguments)
    assert code == 2 and "x 1 ranks) is not a multiple of rl.num_generations" in err
    assert said(capsys, "eval", path, *arguments)[0] == 0  # it trains nothing, and knows no number of ranks


def test_no_stage_at_all(work, capsys):
    path = write(work, "model: {path: model}\n")
    message = "x has no stage: name data.traces (for SFT), data.questions (for RL) or data.eval"
    assert said(capsys, "run", path, "--dry-run") == (2, f"sawtooth: {message}\n")
    code, err = said(capsys, "sft", write(work), "--dry-run")
    assert code == 2 and "x has no stage sft: add a section `sft`, and set data.traces or data.prepared" in err


def test_without_a_bound_the_models_own_context_leaves_room(work, capsys):
    refused(
        capsys, write(work, GOOD.replace(", max_model_len: 256", "").replace("length: 64", "length: 512")),
        "rl.max_completion_length is 512, the model's context is 512: that leaves no room for a prompt",
    )  # fmt: skip
