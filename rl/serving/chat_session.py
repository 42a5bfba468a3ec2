"""The session of `sawtooth chat`: reads and runs lines until the user leaves."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from rl.serving import stream
from rl.serving.chat_screen import Screen
from rl.serving.chat_turn import ChatModel, ChatTurn, Conversation
from rl.serving.child import VLLMChild
from rollout.types import Episode, StopReason

HELP = """\
/new        start a new conversation
/think      show all thinking of the last turn
/save FILE  write the conversation as JSON
/help       show this list
/exit       leave (or Ctrl-D)
Ctrl-C stops an answer; at the prompt it leaves. Put a space before a question that begins with /."""


class Session:
    """One user at one terminal.

    Args:
        name: of the model, for display.
        runner: of an event loop that is paused while the user types.
        child: the vLLM server, if it was started here.
    """

    def __init__(
        self,
        name: str,
        model: ChatModel,
        screen: Screen,
        runner: asyncio.Runner,
        system: str | None = None,
        child: VLLMChild | None = None,
    ):
        self.name, self.model, self.screen, self.runner, self.child = name, model, screen, runner, child
        self.conversation = Conversation(system)
        self.last: ChatTurn | None = None
        self.failed = False  # the engine failed at least once

    def run(self) -> int:
        """Runs until the user leaves or the input ends. Returns the exit code."""
        protocol = self.model.protocol
        rounds = f"at most {protocol.max_rounds} rounds" if self.screen.numbered else "one round"
        about = f"{self.name}: {protocol.name}, {rounds}, a context of {self.model.context} tokens"
        print(f"{about}; /help lists the commands", file=sys.stderr)
        try:
            while (line := self.screen.read()) is not None:
                if line.strip() == "/exit":
                    break
                if line.startswith("/"):
                    self._command(*line.strip().split(maxsplit=1))
                elif line.strip():
                    self._ask(line.strip())
        except KeyboardInterrupt:  # at the prompt
            print(file=sys.stderr)
        return int(self.failed)

    def _command(self, name: str, argument: str = "") -> None:
        if name == "/new":
            self.conversation.turns.clear()
            self.screen.say("a new conversation")
        elif name == "/think":
            self._think()
        elif name == "/save":
            self._save(argument)
        elif name == "/help":
            self.screen.say(HELP, "default")
        else:
            self.screen.say(f"{name} is not a command; /help lists the commands")

    def _think(self) -> None:
        if self.last is None:
            self.screen.say("there is no turn yet")
        else:
            self.screen.thoughts(self.last.rounds)

    def _save(self, name: str) -> None:
        if not name:
            self.screen.say("/save needs a file name")
            return
        record = {"model": self.name, "protocol": self.model.protocol.name} | self.conversation.record()
        try:
            Path(name).expanduser().write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", "utf-8")
        except OSError as error:
            self.screen.say(f"{name} can't be written: {error.strerror}")
            return
        self.screen.say(f"saved to {name}: {_count(len(self.conversation.turns), 'turn')}")

    def _ask(self, text: str) -> None:
        try:
            room = self.model.room(self.conversation.question(text))
        except ValueError as error:  # the chat template rejects it
            self.screen.say(str(error))
            return
        context = self.model.context
        if room < 1:
            said = "the conversation with this question has" if self.conversation.turns else "this question has"
            said = f"{said} {context - room} tokens, too many for the context of {context}"
            self.screen.say(f"{said}; /new starts a new conversation")
            return
        self.last = ChatTurn(text)
        try:
            with self.screen.turn():
                self.runner.run(self.model.answer(self.conversation, self.last, self._show))
        except KeyboardInterrupt:
            self.screen.say("stopped; this turn is not kept in the conversation")
        except stream.BackendFault as error:
            self._no_engine(str(error))
        else:
            episode = self.last.episode
            if episode.stop_reason is StopReason.FAILED:
                self._no_engine(episode.error)
            elif not self.last.whole:
                self.screen.say(f"no answer: {_why(episode, context)}; this turn is not kept in the conversation")

    def _no_engine(self, error: str) -> None:
        self.failed = True
        self.screen.say(f"no answer: {error}; this turn is not kept in the conversation")
        if self.child is not None and not self.child.alive:
            self.screen.say(self.child.exit_report())

    def _show(self, event: stream.Event, tokens: int) -> None:
        screen = self.screen
        match event:
            case stream.RoundStarted(number):
                screen.round_started(number)
            case stream.ThinkingText(text):
                screen.thinking(text, tokens)
            case stream.SummaryText(text):
                screen.summary(text)
            case stream.AnswerText(text):
                screen.answer(text)
            case stream.RoundEnded():
                screen.round_ended()
            case stream.Ended(episode):
                screen.ended(episode)


def _why(episode: Episode, context: int) -> str:
    """Returns why an episode has no answer, with a remedy."""
    number = _count(episode.num_rounds, "round")
    last = episode.segments[-1]
    match episode.stop_reason:
        case StopReason.MAX_ROUNDS:
            return f"none in {number} (--max-rounds)"
        case StopReason.TRUNCATED if len(last.prompt_ids) + len(last.completion_ids) >= context:
            return f"the context of {context} tokens is full (/new starts a new conversation)"
        case StopReason.TRUNCATED:
            return f"round {episode.num_rounds} reached its limit of {len(last.completion_ids)} tokens (--max-tokens)"
        case StopReason.MALFORMED:
            return f"round {episode.num_rounds} is malformed ({last.turn.fault.replace('_', ' ')})"
    return "the model wrote none"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
