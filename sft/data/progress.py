"""Progress display of the data stage: traces, rate, time left, summaries, tokens, cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sft.data.summarize import Summaries


class Progress:
    """A bar over the rows of the source.

    Args:
        total: rows of the source; None: unknown.
        done: rows that were already finished.
        price: {input, output} per million tokens.
    """

    def __init__(self, total: int | None, done: int, price: dict[str, float] | None):
        from tqdm.auto import tqdm

        self.price, self.kept = price, 0
        self._done_before, self._total = done, total
        self._bar = tqdm(total=total, initial=min(done, total or done), desc="data", unit="row")

    def say(self, line: str) -> None:
        """Prints a line above the bar."""
        self._bar.write(line)

    def trace(self, is_row: bool, kept: bool, summaries: Summaries | None) -> None:
        """Counts one more finished trace.

        Args:
            is_row: it is the first trace of its row; the bar counts rows.
        """
        self.kept += kept
        self.show(summaries, refresh=False)
        self._bar.update(is_row)

    def show(self, summaries: Summaries | None, refresh: bool = True) -> None:
        """Updates the counts after the bar, also between finished traces, since a summarizer may be slow."""
        shown: dict[str, Any] = {"kept": self.kept}
        if summaries is not None:
            shown["summaries"] = f"{summaries.asked}+{summaries.kept}"  # requested + from the journal
            read, written = summaries.tokens()
            shown["tokens"] = f"{_short(read)} in {_short(written)} out"
            if self.price is not None:
                shown["cost"] = self._cost(summaries)
        self._bar.set_postfix(shown, refresh=refresh)

    def _cost(self, summaries: Summaries) -> str:
        """Returns this process's cost so far, and the estimated total at this rate."""
        spent = cost_of(summaries.prompt_tokens, summaries.completion_tokens, self.price)
        worked = self._bar.n - self._done_before
        if self._total is None or not worked:
            return f"{spent:.2f}"
        return f"{spent:.2f} of about {spent * (self._total - self._done_before) / worked:.2f}"

    def close(self) -> None:
        self._bar.close()


def cost_of(prompt_tokens: int, completion_tokens: int, price: dict[str, float]) -> float:
    """Returns the cost in the currency of `price`."""
    return (prompt_tokens * price["input"] + completion_tokens * price["output"]) / 1e6


def _short(count: int) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return str(count)
