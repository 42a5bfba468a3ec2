"""The report of a run: whole and safe as HTML and as Markdown, and honest about what is missing."""

from __future__ import annotations

import json
import re
import time
from html.parser import HTMLParser
from itertools import pairwise

import pyarrow.parquet as pq
import pytest
import yaml
from browser import open_browser, serious_issues

from rewards.score import Scores
from rl.evaluation.plots import plot_accuracy
from rl.monitor.charts import layout
from rl.monitor.episode_files import EpisodeReader
from rl.monitor.report import write_report
from rl.monitor.samples import find_samples
from rollout.protocol import get_protocol
from rollout.store import EpisodeStore
from rollout.types import Episode, Segment, StopReason

PROTOCOL = get_protocol("inftythink", segment_tokens=32, summary_tokens=8, max_rounds=4)
EVIL = "<script>window.hacked = 1</script><img src=http://example.org/x onerror='window.hacked = 2'> ``` | **b** $x$"
NAMES = [
    "accuracy/mean", "accuracy/rounds/2", "accuracy/rounds/10", "reward/mean", "reward/answer/mean", "reward/$x_^/mean",
    "reward/answer/errors", "reward/unscored", "episode/rounds/mean", "episode/rounds/max", "episode/rounds/10",
    "episode/rounds/2", "episode/stop/truncated", "episode/stop/answered", "episode/malformed/empty", "time/rollout",
    "time/store", "entropy", "loss", "grad_norm", "learning_rate", "epoch", "mine/a", "mine/b", "_odd",
    "clip_ratio/low_mean",
]  # fmt: skip


def episode(rounds, right, group, stop="answered"):
    texts = [f"<think>\nstep {n} {EVIL}\n</think><summary>s{n} {EVIL}</summary>" for n in range(rounds - 1)]
    last = {"answered": f"<think>\nlast\n</think>so \\boxed{{{3 if right else 4}}} {EVIL}"}
    texts.append(last.get(stop, "<think>\nnever closed"))
    finish = ["stop"] * (rounds - 1) + ["length" if stop == "truncated" else "stop"]
    segments = [
        Segment([1] * (10 + 3 * (n > 0)), [2] * 9, [-0.5] * 9, text, end, PROTOCOL.parse(text))
        for n, (text, end) in enumerate(zip(texts, finish, strict=True))
    ]
    return Episode(f"question {group} {EVIL}", "3", group, segments, StopReason(stop))


STEP = [
    episode(1, True, 0), episode(3, True, 0), episode(2, False, 1), episode(1, True, 1),
    episode(2, False, 2, "malformed"), episode(1, False, 2, "truncated"),
]  # fmt: skip


def write_step(folder, step, episodes=STEP):
    right = [float(e.final_text.find("boxed{3}") >= 0) for e in episodes]
    scores = Scores(total=right, values={"answer": right, "<b>|**b**": [0.5] * len(right)}, correct=right)
    EpisodeStore(folder / "episodes").write(
        f"train_{step:06d}", step, episodes, scores, [0.5 - n for n in range(len(right))]
    )


def write_metrics(folder, steps, stage="rl"):
    rows = []
    for step in range(1, steps + 1):
        values = {name: (step * (n + 1)) % 7 / 7 for n, name in enumerate(NAMES)} | {"clip_ratio/low_mean": 0.0}
        rows.append({"stage": stage, "step": step, "time": time.time() - 60 + step, **values})
    with (folder / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def evaluation(stage, accuracy):
    return {
        "stage": stage, "protocol": "inftythink", "dataset": "held_out", "questions": 9, "samples": 4, "unjudged": 2,
        "accuracy": accuracy, "accuracy_ci95": [accuracy - 0.05, accuracy + 0.05], "rounds_mean": 2.0,
        "tokens_mean": 66.0, "peak_context_mean": 77.0, "latency_mean": 1.0,
        "stops": {"answered": 0.9, "truncated": 0.1},
    }  # fmt: skip


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "it"
    (folder / "eval").mkdir(parents=True)
    config = {"name": "it", "model": {"path": EVIL}, "protocol": {"name": "inftythink", "max_rounds": 4}}
    config["rewards"] = [{"fn": "answer"}, {"fn": "mine.py:short", "name": "short", "weight": 0.5}]
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    write_metrics(folder, 12, "sft")
    write_metrics(folder, 70)
    for step in (0, 7, 69):
        write_step(folder, step)
    rows = [evaluation("sft", 0.35), evaluation("rl", 0.89)]
    (folder / "eval" / "summary.json").write_text(json.dumps(rows))
    plot_accuracy(rows, folder / "eval" / "accuracy.png")
    return folder


class Page(HTMLParser):
    """Tags with their attributes, and the text outside style."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.words, self._in = [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self._in = tag

    def handle_data(self, data):
        if self._in != "style":
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    def all(self, *names):
        return [attributes for tag, attributes in self.tags if tag in names]


def page(folder, out=None):
    return Page(write_report(folder, out or folder.parent / "out" / "report.html").read_text())


def test_the_html_holds_all_of_it(run):
    text = page(run).text
    for part in (
        "Run it", "held_out rl 89.0 (84.0 to 94.0)", "held_out, sft 90.0 % - - 10.0 % - 2", "Curves of RL",
        "Curves of SFT", "eval/accuracy.png of the run",
        "Solved, in the most rounds: step 69", "Wrong: step 69", "Malformed: step 69", "Cut off or out of rounds: step",
        "Round 3 of 3: conclusion", "10 tokens in, 9 out", "so \\boxed{3}", "Round 2 of 2: malformed (open thinking)",
        "Round 1 of 1: cut off at its token limit", "reward 1, advantage -0.5", "episode verdict stop reason rounds",
        "The saw of an episode", "train_000000.parquet 6", "answer, short (x 0.5)", "max_rounds: 4", "transformers",
        "0 throughout, so not drawn: Clipped tokens", "fn: mine.py:short",
    ):  # fmt: skip
        assert part in text, part
    assert "can't" not in text.partition("Episodes")[0]


def test_the_html_needs_nothing_and_runs_nothing(run):
    out = run.parent / "r.html"
    parsed = page(run, out)
    assert not parsed.all("script", "link", "iframe", "object", "embed", "form", "base")
    assert not [name for _, attributes in parsed.tags for name in attributes if name.startswith("on")]
    ids = [attributes["id"] for _, attributes in parsed.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = [
        value for _, a in parsed.tags for name, value in a.items() if name in ("src", "href", "xlink:href", "action")
    ]
    assert targets and all(value.startswith(("#", "data:image/png")) for value in targets)
    assert {target[1:] for target in targets if target.startswith("#")} <= set(ids)
    assert "url(" not in out.read_text()
    assert parsed.text.count("<script>window.hacked = 1</script>") > 8
    pictures = parsed.all("img")
    assert len(pictures) > 15 and all(a["alt"] for a in pictures)
    levels = [int(tag[1]) for tag, _ in parsed.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_in_a_browser(run, scheme):
    out = write_report(run, run.parent / "r.html")
    with open_browser(color_scheme=scheme) as (tab, watch):
        tab.goto(out.as_uri())
        tab.eval_on_selector_all("details", "all => all.forEach(one => one.open = true)")
        assert tab.evaluate("window.hacked") is None
        assert watch.complaints == [] and watch.requests == [out.as_uri()]
        assert serious_issues(tab) == []
        tab.set_viewport_size({"width": 380, "height": 800})
        assert tab.evaluate("document.documentElement.scrollWidth") <= 380


def test_markdown_with_its_pictures(run):
    out = write_report(run, run.parent / "deep er" / "report.md")
    text = out.read_text()
    links = re.findall(r"^!\[.*\]\(([^)]*)\)$", text, re.MULTILINE)
    assert len(links) > 15 and len(links) == len(set(links))
    for link in links:
        assert (out.parent / link.replace("%20", " ")).read_bytes()[:4] == b"\x89PNG"
    outside = re.sub(r"^(`{3,})\n.*?\n\1$", "", text, flags=re.MULTILINE | re.DOTALL)
    assert not [part for part in ("<script", "<b>", "<img", "**b**") if part in outside] and "````" in text
    assert "| held\\_out | rl | 89.0 (84.0 to 94.0) |" in text and "## Config" in text


def test_only_a_few_files_are_opened(run, monkeypatch):
    for step in range(1, 60):
        write_step(run, step, STEP[:1])
    opened, real = set(), EpisodeReader.scalars
    watched = lambda self, paths: opened.update(path.name for path in paths) or real(self, paths)  # noqa: E731
    monkeypatch.setattr(EpisodeReader, "scalars", watched)
    assert find_samples(run).files == 61
    assert opened == {"train_000069.parquet", "train_000000.parquet"}


def test_old_files_and_later_row_groups(run):
    path = run / "episodes" / "train_000069.parquet"
    table = pq.read_table(path).drop_columns(["correct"])
    pq.write_table(table, path, row_group_size=2)
    found = {sample.why: sample for sample in find_samples(run).samples}
    assert found["Solved, in the most rounds"].episode["episode"] == 1
    wrong, malformed = found["Wrong"].episode, found["Malformed"].episode
    assert (wrong["episode"], [r["kind"] for r in wrong["rounds"]]) == (2, ["summary", "conclusion"])
    assert malformed["rounds"][1]["text"] == "<think>\nnever closed" and len(malformed["rounds"][0]["prompt_ids"]) == 10


def test_half_written_files_are_said_and_the_rest_stands(run):
    newest = run / "episodes" / "train_000069.parquet"
    newest.write_bytes(newest.read_bytes()[:500])
    (run / "episodes" / "train_000070.parquet").write_bytes(b"")
    pq.write_table(
        pq.read_table(run / "episodes" / "train_000000.parquet", columns=["step"]),
        run / "episodes" / "train_000071.parquet",
    )
    (run / "eval" / "summary.json").write_text('[{"stage": "sf')
    (run / "eval" / "accuracy.png").write_bytes(b"\x89PNG no")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "rl", "step": 71, "ti')
    text = page(run).text
    assert "train_000070.parquet is half-written" in text and "train_000069.parquet is half-written" in text
    assert "train_000071.parquet is not a file of episodes" in text and "eval/summary.json can't be read" in text
    assert "the last line is incomplete" in text and "Malformed: step 0" in text


def test_an_evaluation_of_another_shape(run):
    (run / "eval" / "summary.json").write_text('[{"stage": "sft"}, 3]')
    assert "is not the summary of an evaluation" in page(run).text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("part", "said"),
    [
        ("metrics.jsonl", ["There are no episodes yet", "There is no evaluation yet", "config.yaml is missing"]),
        ("config.yaml", ["Nothing has been logged yet", "There are no episodes yet", "max_rounds: 4"]),
        ("episodes", ["Nothing has been logged yet", "config.yaml is missing or can't be read", "Malformed: step 69"]),
    ],
)
def test_what_is_missing_is_one_line(run, tmp_path, part, said):
    alone = tmp_path / "alone"
    alone.mkdir()
    (run / part).rename(alone / part)
    for form in ("r.html", "r.md"):
        write_report(alone, tmp_path / form)
    text = page(alone).text
    for line in said:
        assert line in text, line


@pytest.mark.slow
def test_warnings_come_with_what_to_do(run):
    with (run / "metrics.jsonl").open("a") as file:
        for step in range(71, 81):
            row = {"stage": "rl", "step": step, "time": time.time(), "episode/stop/truncated": 0.97}
            file.write(json.dumps(row | {name: 0.5 for name in NAMES if not name.startswith("episode/stop")}) + "\n")
    text = page(run).text
    assert "Serious: Nearly all episodes are cut off" in text and "What to do: Raise rl.max_completion_length" in text
    assert "Warnings None: no warning rule" not in text


@pytest.mark.slow
def test_questions_as_chat_messages_and_failed_episodes(run):
    chat = episode(1, False, 5)
    chat.question = [{"role": "system", "content": "short"}, {"role": "user", "content": "how many?"}]
    failed = Episode("q", "3", 6, [], StopReason.FAILED, error="engine gone")
    for path in (run / "episodes").iterdir():
        path.unlink()
    write_step(run, 3, [chat, failed])
    text = page(run).text
    assert "system: short user: how many?" in text and "Curves of RL" in text


def test_mistakes_are_one_line(run, tmp_path):
    with pytest.raises(ValueError, match=r"is not a run: it contains none of metrics\.jsonl"):
        write_report(tmp_path / "none", tmp_path / "r.html")
    with pytest.raises(ValueError, match=r"must end in \.html or \.md"):
        write_report(run, tmp_path / "r.pdf")


def test_every_name_stands_on_one_chart():
    names = ["step", "time", "stage", *NAMES, *NAMES, "eval_accuracy/mean", "eval_loss", "eval_mine/a"]
    for stage in ("rl", "sft"):
        charts = layout(names, stage)
        shown = [name for chart in charts for name in chart.names]
        assert sorted(shown) == sorted(set(names) - {"step", "time", "stage"})
        assert len({chart.id for chart in charts}) == len(charts)
        assert all(len(chart.names) == len(chart.labels) and chart.kind in ("lines", "stacked") for chart in charts)


def test_charts_are_in_the_order_a_person_wants():
    charts = {chart.id: chart for chart in layout(NAMES, "rl")}
    assert list(charts)[:4] == ["reward", "accuracy", "accuracy_rounds", "rounds"]
    assert charts["reward"].labels == ["total", "$x ^", "answer"]
    assert charts["accuracy_rounds"].labels == ["rounds: 2", "rounds: 10"]
    assert charts["stops"].names == ["episode/stop/answered", "episode/stop/truncated"]
    assert charts["time"].labels == ["rollout", "storing episodes"] and charts["time"].kind == "stacked"
    assert charts["other/mine"].labels == ["a", "b"] and list(charts)[-1] == "other/epoch"
    assert next(iter(layout(NAMES, "sft"))).id == "loss"
