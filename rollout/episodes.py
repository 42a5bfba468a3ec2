"""The episode loop: every episode goes on as soon as its own last round ends.

Task -> RunningEpisode -> call -> Engine.submit -> Engine.poll -> take -> next call or Episode
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from rollout.interventions import Steering
from rollout.protocol import RoundProtocol
from rollout.running import RunningEpisode
from rollout.types import Engine, Episode, Sampling, Task


def run_episodes(
    tasks: Sequence[Task],
    engine: Engine,
    protocol: RoundProtocol,
    tokenizer: Any,
    sampling: Sampling,
    on_episode: Callable[[int, Episode], None] | None = None,
    steering: Steering | None = None,
) -> list[Episode]:
    """Rolls out one episode per task and returns them in the order of `tasks`.

    Args:
        sampling: bounds each round by `max_tokens`. With a seed, every round of every episode gets a seed of its
            own, so the result does not depend on the order in which requests end.
        on_episode: called with (index, episode) as each episode ends, for progress and storage.
        steering: breaks into rounds, for ablations; None: the model decides all.

    An episode that the engine can't serve ends as FAILED with its reason; the others go on.
    """
    ends = tuple(end for end in getattr(engine, "ends", ()) if end != tokenizer.eos_token_id)
    sampling = replace(sampling, stop_ids=tuple(dict.fromkeys((*sampling.stop_ids, *ends))))
    running: dict[int, tuple[int, RunningEpisode]] = {}  # request -> (index, episode)
    asking: dict[int, tuple[int, RunningEpisode]] = {}  # those that wait for somebody else's summary
    done: dict[int, Episode] = {}
    next_id = 0

    def go_on(index: int, run: RunningEpisode) -> None:
        """Sends the next call of an episode, or keeps the one that is over."""
        nonlocal next_id
        if not run.over:
            try:
                call = run.call()
                if call.asked is None:
                    engine.submit(next_id, call.prompt_ids, call.sampling)
                    running[next_id] = index, run
                else:
                    run.steering.summariser.submit(next_id, call.asked)
                    asking[next_id] = index, run
                next_id += 1
                return
            except (ValueError, TypeError, KeyError) as error:  # what the template or the engine refuses
                run.fail(f"round {len(run.segments) + 1} not accepted: {error}")
        done[index] = run.episode()
        if on_episode is not None:
            on_episode(index, done[index])

    for index, task in enumerate(tasks):
        key = index if task.seed_key is None else task.seed_key
        go_on(index, RunningEpisode(task, protocol, tokenizer, sampling, key, steering=steering))
    while running or asking:
        for completion in engine.poll() if running else []:
            if completion.request_id not in running:
                continue  # a request of an earlier, abandoned call
            index, run = running.pop(completion.request_id)
            run.take(completion)
            go_on(index, run)
        for request_id, text, error in steering.summariser.poll(wait=not running) if asking else []:
            index, run = asking.pop(request_id)
            if text is None:
                run.fail(f"round {len(run.segments) + 1} has no summary: {error}")
            else:
                run.take_summary(text)
            go_on(index, run)
    return [done[index] for index in range(len(tasks))]
