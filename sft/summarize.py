"""Who writes the summaries of the training data."""

from __future__ import annotations

from collections.abc import Callable

Summarizer = Callable[[str, str | None, str], str]
"""`f(question, previous_summary, segment) -> summary`. It sees what the model will see at inference and no more:
the question, the last summary and this segment (InftyThink+, arXiv 2602.06960, section 3)."""


class SummaryTooLong(ValueError):
    """No summary within the token limit after all draws."""


def summarize_segments(
    question: str,
    segments: list[str],
    summarizer: Summarizer,
    count_tokens: Callable[[str], int],
    summary_tokens: int,
    max_draws: int = 10,
) -> list[str]:
    """Summaries of all segments but the last, each from its predecessor: len(segments) - 1 of them.

    A summary that is empty or longer than `summary_tokens` is drawn again, `max_draws` times in all.

    Raises:
        SummaryTooLong: then the whole trace is to be dropped, and counted.
    """
    summaries: list[str] = []
    for index, segment in enumerate(segments[:-1]):
        previous = summaries[-1] if summaries else None
        for _ in range(max_draws):
            summary = summarizer(question, previous, segment).strip()
            if summary and count_tokens(summary) <= summary_tokens:
                break
        else:
            what = f"over {summary_tokens} tokens" if summary else "empty"
            raise SummaryTooLong(f"summary {index + 1} is {what} after {max_draws} draws")
        summaries.append(summary)
    return summaries
