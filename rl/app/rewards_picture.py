"""Draws all length rewards in one picture: the reward of one episode of a fixed group, by its length."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from rewards import length

OTHERS = ((2000, True), (4000, True), (6000, False), (8000, True))
"""(tokens, right) of the other episodes of the group."""

LONGEST = 10_000  # tokens, the right end of the panels
_STEP = 50
_RIGHT, _WRONG = "#4477aa", "#cc3311"


@dataclass(frozen=True)
class Panel:
    """One function: `value(x, right)` is the reward of the episode in question."""

    name: str
    settings: str
    source: str
    value: Callable[[int, bool], float]
    grouped: bool = False  # whether the other episodes matter
    rounds: int = 0  # x is a number of rounds, at most this; 0: x is tokens


def draw_rewards(path: Path) -> None:
    """Writes the grid as a PNG, 1200 pixels wide. The same bytes each time; needs no display. Imports `trl` (10 s)."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from PIL import Image

    panels = [*_own_panels(), *_trl_panels()]
    figure = Figure(figsize=(12.0, 13.0), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.08, w_pad=0.08)
    cells = list(figure.subplots(4, 4).flat)
    for axes, panel in zip(cells, panels, strict=False):
        _draw(axes, panel)
    keys, note = cells[len(panels) :]
    handles = [
        Line2D([], [], color=_RIGHT, linewidth=2, label="a right episode"),
        Line2D([], [], color=_WRONG, linewidth=2, linestyle="--", label="a wrong episode"),
        Line2D([], [], color=_RIGHT, marker="^", linestyle="", label="another one, right"),
        Line2D([], [], color=_WRONG, marker="x", linestyle="", label="another one, wrong"),
    ]
    legend = keys.legend(handles=handles, loc="upper left", frameon=False, fontsize=11, borderaxespad=0)
    legend.set_in_layout(False)
    note.text(0, 1, _NOTE, fontsize=10, va="top", linespacing=1.45, transform=note.transAxes).set_in_layout(False)
    for axes in (keys, note):
        axes.axis("off")
    figure.suptitle("Length rewards: what one episode of a group gets, by its length", fontsize=15)
    pixels = BytesIO()
    figure.savefig(pixels, format="png", dpi=100)
    Image.open(pixels).convert("RGB").quantize(48).save(path, format="PNG", optimize=True)  # a third of the bytes


_NOTE = (
    "y: the reward. Length: tokens of\n"
    "all rounds of the episode.\n"
    "Marks on the axis: the other\n"
    "episodes of the group, in the\n"
    "panels whose formula uses them.\n"
    "Sources: numbers at arxiv.org."
)


def _draw(axes: Any, panel: Panel) -> None:
    xs = range(1, panel.rounds + 1) if panel.rounds else range(_STEP, LONGEST + 1, _STEP)
    scale = 1 if panel.rounds else 1000
    for right, color, style in ((True, _RIGHT, "-"), (False, _WRONG, "--")):
        ys = [panel.value(x, right) for x in xs]
        axes.plot([x / scale for x in xs], ys, style, color=color, linewidth=2, marker="o" if panel.rounds else None)
    axes.margins(y=0.12)
    if panel.grouped:
        for tokens, right in OTHERS:
            mark, color = ("^", _RIGHT) if right else ("x", _WRONG)
            axes.plot(tokens / scale, 0.02, mark, color=color, transform=axes.get_xaxis_transform(), markersize=6)
    axes.set_title(f"{panel.name}\n\n", fontsize=11.5, fontweight="bold", loc="left")
    caption = axes.text(0, 1.03, f"{panel.settings}\n{panel.source}", fontsize=9, transform=axes.transAxes)
    caption.set_in_layout(False)  # the title's empty lines leave room for it
    axes.set_xlabel("rounds" if panel.rounds else "thousand tokens", fontsize=9)
    axes.set_xticks(xs if panel.rounds else range(0, LONGEST // 1000 + 1, 2))
    axes.tick_params(labelsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)


def _in_group(function: Callable[..., list[float]], **settings: Any) -> Callable[[int, bool], float]:
    """Returns the value function of an episode that comes first in the group of `OTHERS`."""
    lengths, correct = [list(values) for values in zip(*OTHERS, strict=True)]
    return lambda x, right: function([x, *lengths], [right, *correct], **settings)[0]


def _own_panels() -> list[Panel]:
    budgets = [4000] * (1 + len(OTHERS))
    return [
        Panel(
            "answer × iteration_decay", "5 rounds at most", "InftyThink+, 2602.06960",
            lambda n, right: right * length.iteration_decay([n], 5)[0], rounds=5,
        ),
        Panel("kimi", "to add to answer", "Kimi k1.5, 2501.12599", _in_group(length.kimi), True),
        Panel(
            "l1_exact", "budget 4000, alpha 0.0003", "L1 / LCPO, 2503.04697",
            _in_group(length.l1_exact, budgets=budgets),
        ),
        Panel(
            "l1_max", "budget 4000, alpha 0.0003, delta 0.5", "L1 / LCPO, 2503.04697",
            _in_group(length.l1_max, budgets=budgets),
        ),
        Panel(
            "o1_pruner", "ref. 4000 tokens, 60 % right; alpha 5", "O1-Pruner, 2501.12570",
            _in_group(length.o1_pruner, ref_lengths=[4000], ref_accuracy=0.6),
        ),
        Panel("dast", "max_length 8192", "DAST, 2503.04472", _in_group(length.dast, max_length=8192), True),
        Panel("arora_zanette", "alpha 0.1", "Arora, Zanette, 2502.04463", _in_group(length.arora_zanette), True),
        Panel("shorterbetter", "alpha 2, beta 0.001", "2504.21370", _in_group(length.shorterbetter), True),
        Panel(
            "hapo", "shortest right so far 4000, floor -0.7", "HAPO, 2505.11225",
            _in_group(length.hapo, best_length=4000),
        ),
        Panel(
            "alp", "beta 5e-5; its default, 1e-7, looks flat", "ALP, 2506.05256",
            _in_group(length.alp, beta=5e-5), True,
        ),
        Panel("thinkprune", "limit 4000", "ThinkPrune, 2504.01296", _in_group(length.thinkprune, limit=4000)),
        Panel("laser", "target 4000, bonus 0.5", "LASER, 2505.15612", _in_group(length.laser, target=4000)),
    ]  # fmt: skip


def _trl_panels() -> list[Panel]:
    """Returns the panels of TRL's rewards, which take token ids but use only their number."""
    from trl.rewards import get_cosine_scaled_reward, get_soft_overlong_punishment

    cosine, overlong = get_cosine_scaled_reward(max_len=8000), get_soft_overlong_punishment(8000, 4000)

    def cosine_value(x: int, right: bool) -> float:
        return cosine([[{"role": "assistant", "content": f"\\boxed{{{int(right)}}}"}]], ["1"], [range(x)])[0]

    return [
        Panel("cosine", "max_len 8000", "TRL; 2502.03373", cosine_value),
        Panel(
            "soft_overlong", "to add; max_len 8000, cache 4000", "TRL; DAPO, 2503.14476",
            lambda x, right: overlong([range(x)])[0],
        ),
    ]  # fmt: skip
