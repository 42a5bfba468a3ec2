"""Prometheus metrics of the endpoint. Each app has its own registry, so several apps in a process don't mix."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from rl.serving.admission import AdmissionQueue
from rollout.types import Episode

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_ROUNDS = (1, 2, 3, 4, 5, 6, 8, 10, 15, 20)


class Metrics:
    def __init__(self, queue: AdmissionQueue):
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "sawtooth_requests",
            "Chat requests by HTTP status (499: the client disconnected)",
            ["status"],
            registry=registry,
        )
        self._episodes = Counter("sawtooth_episodes", "Episodes by stop reason", ["stop_reason"], registry=registry)
        self._rounds = Histogram("sawtooth_episode_rounds", "Rounds per episode", buckets=_ROUNDS, registry=registry)
        self._prompt = Counter("sawtooth_prompt_tokens", "Tokens read, over all rounds", registry=registry)
        self._completion = Counter("sawtooth_completion_tokens", "Tokens written, over all rounds", registry=registry)
        self._first = Histogram(
            "sawtooth_time_to_first_token_seconds", "Time to first text", buckets=_SECONDS, registry=registry
        )
        self._latency = Histogram("sawtooth_request_seconds", "Request duration", buckets=_SECONDS, registry=registry)
        running = Gauge("sawtooth_episodes_running", "Running episodes", registry=registry)
        running.set_function(lambda: queue.running)
        queued = Gauge("sawtooth_requests_queued", "Waiting requests", registry=registry)
        queued.set_function(lambda: queue.queued)

    def first_text(self, seconds: float) -> None:
        self._first.observe(seconds)

    def request(self, status: str, seconds: float) -> None:
        self._requests.labels(status).inc()
        self._latency.observe(seconds)

    def episode(self, episode: Episode) -> None:
        """Counts a finished episode."""
        self._episodes.labels(episode.stop_reason.value).inc()
        self._rounds.observe(episode.num_rounds)
        self._prompt.inc(sum(len(segment.prompt_ids) for segment in episode.segments))
        self._completion.inc(episode.num_tokens)

    def cancelled(self, episodes: int) -> None:
        """Counts episodes that were cancelled by the client, by the timeout or by the end of the server."""
        self._episodes.labels("cancelled").inc(episodes)

    def text(self) -> bytes:
        return generate_latest(self._registry)
