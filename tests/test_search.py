"""Searches with a stop, over scripted samples and over a real model."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from transformers import AutoTokenizer

from rl.evaluation.scores import agreement, by_agreement, by_confidence, confidence, same_answers
from rl.evaluation.search import search
from rl.evaluation.search_settings import Search, read_search
from rollout.engines import make_engine
from rollout.episodes import run_episodes
from rollout.errors import InputError
from rollout.interventions import Interventions
from rollout.protocol import RoundProtocol
from rollout.types import Episode, Sampling, Segment, StopReason, Task, Turn

VALUES = [0.2, 0.5, 0.9, 0.4, 0.95, 0.1, 0.3, 0.6]


def answered(text, number=0, logprob=-1.0):
    turn = Turn("conclusion", conclusion=f"\\boxed{{{text}}}")
    segment = Segment([1, 2], [number, 1], [logprob] * 2, f"<think>\n</think>\\boxed{{{text}}}", "stop", turn)
    return Episode("q", "3", 0, [segment], StopReason.ANSWERED)


def scripted(settings, values=VALUES, questions=1):
    """Best-of-N over answers with these scores; returns what was found, and the number of the winner."""
    tasks = [Task(f"q{i}") for i in range(questions)]
    found = search(
        tasks,
        lambda samples, kind: [replace(answered("3", number), question=task.question) for task, number in samples],
        lambda episodes: [values[e.segments[0].completion_ids[0]] for e in episodes],
        settings,
        max_rounds=3,
    )
    return [(f.cost, f.episode.segments[0].completion_ids[0], f.why) for f in found]


@pytest.mark.parametrize(
    ("width", "stop", "cost", "winner"),
    [
        (1, 0.5, 2, 1), (1, 0.9, 3, 2), (1, 0.95, 5, 4), (1, 0.99, 8, 4),
        (4, 0.5, 4, 2), (4, 0.9, 4, 2), (4, 0.95, 8, 4), (4, 0.99, 8, 4),
    ],
)  # fmt: skip
def test_best_of_n_stops_at_tau(width, stop, cost, winner):
    ((spent, place, why),) = scripted(Search("best", 8, width, stop=stop))
    assert (spent, place) == (cost, winner)
    assert why == ("all" if stop == 0.99 else "enough")


def test_without_a_stop_everything_is_spent():
    assert scripted(Search("best", 8, 3)) == [(8, 4, "all")]


@pytest.mark.parametrize(
    ("chance", "most", "expected"),
    [(0.5, 8, 1.9921875), (0.15, 8, 4.85006316640625), (0.9, 8, 1.1111111), (0.25, 4, 2.734375)],
)
def test_the_expected_cost_is_the_geometric_one(chance, most, expected):
    """(1 - (1 - p)^N) / p, summed exactly over the place of the first good answer."""
    costs = []
    for first in range(most):
        values = [0.0] * most
        values[first] = 1.0
        costs.append(scripted(Search("best", most, stop=0.5), values)[0][0])
    weights = [chance * (1 - chance) ** first for first in range(most)]
    mean = sum(w * c for w, c in zip(weights, costs, strict=True)) + (1 - chance) ** most * most
    assert mean == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize(
    ("votes", "value"),
    [
        ([1], 0.75), ([2], 0.875), ([3], 0.9375), ([4], 0.96875), ([4, 1], 0.890625), ([1, 6], 0.96484375),
        ([7, 2], 0.9453125), ([], 0.0),
    ],
)  # fmt: skip
def test_agreement_is_that_of_adaptive_consistency(votes, value):
    assert agreement(votes) == value


def test_agreement_scores_the_leading_answer():
    cut = replace(answered("3"), stop_reason=StopReason.TRUNCATED)
    episodes = [answered("1"), answered("3"), cut, answered("3")]
    assert by_agreement(episodes) == [0.0, agreement([2, 1]), 0.0, agreement([2, 1])]
    assert by_agreement([cut]) == [0.0]
    assert same_answers(episodes[-1:] * 2) and not same_answers(episodes[:2]) and not same_answers(episodes[:1])


def test_confidence_is_that_of_the_least_certain_round():
    sure, less = answered("3", logprob=-0.1), answered("3", logprob=-2.0)
    assert confidence(sure) == pytest.approx(0.904837418)
    both = replace(sure, segments=[less.segments[0], sure.segments[0]])
    assert confidence(both) == pytest.approx(0.135335283)
    given = replace(less.segments[0], logprobs=[0.0, -0.1], opening=1)
    assert confidence(replace(sure, segments=[given])) == pytest.approx(0.904837418)
    assert confidence(replace(sure, segments=[replace(given, logprobs=None)])) == 0.0
    assert by_confidence([replace(sure, stop_reason=StopReason.TRUNCATED)]) == [0.0]


@pytest.mark.parametrize(
    ("text", "made"),
    [("best:16", Search("best", 16)), ("best:16:4@0.9", Search("best", 16, 4, stop=0.9)),
     ("tree:64:4:2@.5", Search("tree", 64, 4, 2, 0.5)), ("probe:8", Search("probe", 8))],
)  # fmt: skip
def test_forms(text, made):
    assert read_search(text) == made and read_search(made.label) == made


@pytest.mark.parametrize(
    "text", ["best", "best:0", "best:x", "most:3", "best:3@", "refine:3:2", "best:4:2:2", "probe:3@1"]
)
def test_forms_that_are_none(text):
    with pytest.raises(InputError, match=text.partition(":")[0]):
        read_search(text)


@pytest.fixture(scope="module")
def real(rounds_model):
    """(tasks, draw(samples, kind), protocol, plain episodes of samples 0 …) of a model that writes rounds."""
    tokenizer, protocol = AutoTokenizer.from_pretrained(rounds_model), RoundProtocol.load(rounds_model)
    engine = make_engine("transformers", model_path=rounds_model, tokenizer=tokenizer, dtype="float32")
    sampling = Sampling(max_tokens=40, seed=3)

    def run(tasks, protocol=protocol, forced=None):
        return run_episodes(tasks, engine, protocol, tokenizer, sampling, interventions=forced)

    def draw(samples, kind):
        tasks = [replace(task, seed_key=f"{task.question}/{number}") for task, number in samples]
        if kind == "episodes":
            return run(tasks)
        forced = Interventions(max_thinking=1) if kind == "answers" else None
        depths = [task.start.rounds if task.start else 0 for task in tasks]
        made = {}
        for depth in set(depths):
            places = [place for place, other in enumerate(depths) if other == depth]
            drawn = run([tasks[place] for place in places], protocol.replace(max_rounds=depth + 1), forced)
            made |= dict(zip(places, drawn, strict=True))
        return [made[place] for place in range(len(tasks))]

    rng = random.Random(1)
    tasks = [Task(f"a={rng.randrange(1, 9)} b+{rng.randrange(1, 9)} c*2 d+1 e-3 f+2 ?") for _ in range(8)]
    return tasks, draw, protocol, draw([(task, 0) for task in tasks], "episodes")


def tokens(episodes):
    return [[(s.prompt_ids, s.completion_ids) for s in episode.segments] for episode in episodes]


@pytest.mark.parametrize("form", ["tree:20:1:1", "best:1", "refine:1"])
def test_the_narrowest_search_is_a_plain_episode(real, form):
    tasks, draw, protocol, plain = real
    found = search(tasks, draw, by_confidence, read_search(form), protocol.max_rounds)
    assert max(episode.num_rounds for episode in plain) > 1
    assert tokens(f.episode for f in found) == tokens(plain)
    assert [f.tokens for f in found] == [e.num_tokens for e in plain]
    assert [f.episode.stop_reason for f in found] == [e.stop_reason for e in plain]


@pytest.mark.parametrize("form", ["best:4:2@0.6", "refine:3@0.6", "tree:12:2:2@0.6", "probe:5"])
def test_a_question_is_searched_alike_alone_and_beside_others(real, form):
    tasks, draw, protocol, _ = real
    settings = read_search(form)
    together = search(tasks, draw, by_confidence, settings, protocol.max_rounds)
    assert all(0 < found.cost <= settings.most for found in together)
    for task, found in list(zip(tasks, together, strict=True))[:3]:
        (alone,) = search([task], draw, by_confidence, settings, protocol.max_rounds)
        assert tokens([alone.episode]) == tokens([found.episode])
        assert (alone.cost, alone.score, alone.why) == (found.cost, found.score, found.why)
    backwards = search(tasks[::-1], draw, by_confidence, settings, protocol.max_rounds)[::-1]
    assert [(f.cost, f.score, f.why) for f in backwards] == [(f.cost, f.score, f.why) for f in together]


def test_a_tree_is_searched_over_its_summaries(real):
    tasks, draw, protocol, _ = real
    asked = []
    counted = lambda samples, kind: (asked.append(list(samples)), draw(samples, kind))[1]  # noqa: E731
    found = search(tasks[:1], counted, by_confidence, Search("tree", 40, 8, 8), protocol.max_rounds)
    later = [task.start.history for wave in asked[1:] for task, _ in wave]
    assert found[0].why in ("all", "nothing left") and later
    for wave in asked:  # equal summaries of one depth are expanded once
        starts = [(task.start.rounds, task.start.history, number) for task, number in wave]
        assert len(set(starts)) == len(starts)


def test_a_probe_ends_when_two_answers_agree(real):
    tasks, draw, protocol, _ = real
    kinds = []
    noted = lambda samples, kind: (kinds.append(kind), draw(samples, kind))[1]  # noqa: E731
    found = search(tasks, noted, by_confidence, Search("probe", 5), protocol.max_rounds)
    assert kinds[:2] == ["rounds", "answers"]
    for one in found:
        assert one.why in ("enough", "nothing left", "all")
        assert one.episode.num_rounds >= one.cost
