"""The display of `sawtooth chat`: rounds as they stream, with thinking folded into one live line.

A pipe gets the same as plain text, without the live line. The model's text is untrusted: it can't control the
terminal.
"""

from __future__ import annotations

import contextlib
import sys
import termios
import time
from collections.abc import Iterator, Sequence

from rich.cells import cell_len
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from rl.serving.chat_turn import RoundText
from rollout.terminal import clean
from rollout.types import Episode

_REFRESHES = 8  # of the live line, a second
_LEAST = 0.2  # seconds of thinking before a rate is shown
_TAIL = 1000  # characters at the end of the thinking, for the live line's last words


class Screen:
    """Standard input and output, a terminal or not.

    Args:
        show_thinking: whole, as it streams, not folded.
        numbered: the rounds have numbers; off for a protocol of one round.
    """

    def __init__(self, show_thinking: bool = False, numbered: bool = True):
        for stream in (sys.stdin, sys.stdout):
            stream.reconfigure(errors="replace")  # without UTF-8: question marks, not a traceback
        console = Console(highlight=False)
        self.console, self.show_thinking, self.numbered = console, show_thinking, numbered
        self._keyboard = sys.stdin.fileno() if console.is_terminal and sys.stdin.isatty() else None
        self._folds = console.is_terminal and not console.is_dumb_terminal and not show_thinking
        self._live: Live | None = None
        self._part = ""  # what is being written: thinking, summary, answer
        self._in_line = False  # the cursor is after text of ours
        self._number, self._tokens = 0, 0
        self._thinking = ""
        self._asked = self._first = time.monotonic()

    def read(self) -> str | None:
        """Reads the next line of the user; None at the end of the input.

        Raises:
            KeyboardInterrupt: Ctrl-C at the prompt.
        """
        if self._keyboard is not None:
            import readline  # input() then has editing and a history

            readline.parse_and_bind("set enable-bracketed-paste on")  # a pasted text of several lines is one question
        try:
            return input("" if self._keyboard is None else "> ")
        except EOFError:
            if self._keyboard is not None:
                self.console.print()
            return None

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Wraps a turn: input typed meanwhile waits unseen for the prompt, and the live line is removed at the end."""
        if self._keyboard is not None:
            before = termios.tcgetattr(self._keyboard)
            quiet = [*before[:3], before[3] & ~termios.ECHO, *before[4:]]
            termios.tcsetattr(self._keyboard, termios.TCSADRAIN, quiet)
        try:
            yield
        finally:
            if self._keyboard is not None:
                termios.tcsetattr(self._keyboard, termios.TCSADRAIN, before)
            self._unfold()
            self._end_line()

    def say(self, text: str, style: str = "yellow") -> None:
        """Prints a line that is not the model's."""
        self._end_line()
        self.console.print(Text(clean(text), style), soft_wrap=True)

    def round_started(self, number: int) -> None:
        self._number, self._part, self._thinking, self._tokens = number, "", "", 0
        self._asked = self._first = time.monotonic()
        if self._folds:
            self._end_line()
            self._live = Live(
                get_renderable=self._folded, console=self.console, transient=True, refresh_per_second=_REFRESHES,
                redirect_stdout=False, redirect_stderr=False,
            )  # fmt: skip
            self._live.start()

    def thinking(self, text: str, tokens: int) -> None:
        """Adds thinking.

        Args:
            tokens: of this round so far.
        """
        if not self._tokens:
            self._first = time.monotonic()
        self._tokens = tokens
        self._thinking = (self._thinking + text)[-_TAIL:]
        if self.show_thinking:
            self._write("thinking", text, "dim")

    def summary(self, text: str) -> None:
        self._write("summary", text, "cyan")

    def answer(self, text: str) -> None:
        self._write("answer", text, "")

    def round_ended(self) -> None:
        self._close_thinking()
        self._end_line()
        self._part = ""

    def ended(self, episode: Episode) -> None:
        """Prints the last line of a turn."""
        rounds = f"{episode.num_rounds} round{'s' if episode.num_rounds != 1 else ''}"
        parts = (rounds, f"{episode.num_tokens} tokens", f"peak context {episode.peak_context}")
        self.say(f"({', '.join(parts)}, {episode.seconds:.1f} s)", "dim")

    def thoughts(self, rounds: Sequence[RoundText]) -> None:
        """Prints the whole thinking and the summaries of a turn."""
        for number, written in enumerate(rounds, start=1):
            if self.numbered:
                self.say(f"round {number}", "bold")
            self.say(written.thinking.strip() or "(no thinking)", "dim")
            if written.summary:
                self.say(f"summary: {written.summary.strip()}", "cyan")

    def _name(self) -> str:
        return f"round {self._number}: " if self.numbered else ""

    def _folded(self) -> Group:
        """Returns the live line, and the last words of the thinking below it."""
        now = time.monotonic()
        state = "thinking…" if self._tokens else f"waiting… {now - self._asked:.0f} s"
        head = Text(f"{self._name()}{state}{self._count(now)}", "dim")
        words = " ".join(clean(self._thinking).split())[-self.console.width :]
        while cell_len(words) > self.console.width - 3:
            words = words[1:]
        return Group(head, Text(f"  {words}", "dim italic", no_wrap=True, overflow="crop"))

    def _count(self, now: float) -> str:
        if not self._tokens:
            return ""
        taken = now - self._first
        rate = f", {(self._tokens - 1) / taken:.0f} tok/s" if taken > _LEAST else ""
        return f" {self._tokens} token{'s' if self._tokens != 1 else ''}{rate}"

    def _write(self, part: str, text: str, style: str) -> None:
        """Prints more of a part; its first text opens the part."""
        text = clean(text)
        if part != self._part:
            text = text.lstrip()
            if not text:
                return
            if part != "thinking":
                self._close_thinking()
            self._end_line()
            if part != "answer":
                self.console.print(Text(f"{self._name()}{part}: ", "dim"), end="")
            self._part = part
        if text:
            self.console.print(Text(text, style), end="", soft_wrap=True)
            self._in_line = not text.endswith("\n")

    def _close_thinking(self) -> None:
        """Replaces the live line with the length of the thinking."""
        self._unfold()
        if self._part in ("", "thinking") and self._tokens:
            self.say(f"{self._name()}thought{self._count(time.monotonic())}", "dim")

    def _unfold(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _end_line(self) -> None:
        if self._in_line:
            self.console.print()
            self._in_line = False
