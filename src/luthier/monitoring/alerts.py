"""What an alarm says to people: one message an episode, with the requests most to blame, their private values masked.

Words of requests are looked up when a message is sent and are in no record: the ledger keeps ids. Masked means: private values that
checks find were taken out when the exchange was kept, and are looked for once more here; names of people are not found without a
model, so `examples: 0` is there for who may send none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from .look import Episode
from .views import TITLES

LONGEST = 280
SAYS = {
    "content": "{name} is asked other things than it was made for",
    "abuse": "{name} gets more private values or planted orders than before",
    "answers": "{name} answers otherwise than when it was measured",
    "quality": "{name} is right less often than it was measured",
}


@dataclass(frozen=True)
class Alert:
    """`examples`: (id of the exchange, masked text). `views`: (title, usual, now)."""

    id: str
    name: str
    release: str | None
    group: str
    says: str
    since: str
    requests: int
    capital: float
    alpha: float
    views: tuple[tuple[str, str, str], ...]
    examples: tuple[tuple[str, str], ...]

    def plain(self) -> dict[str, Any]:
        """As a webhook sends it."""
        return {
            "kind": "luthier.drift",
            **{k: v for k, v in vars(self).items() if k not in ("views", "examples")},
            "views": [{"view": title, "usual": usual, "now": now} for title, usual, now in self.views],
            "examples": [{"id": one, "text": text} for one, text in self.examples],
        }

    def lines(self) -> list[str]:
        """As a person reads it."""
        where = "" if self.group == "quality" else f", request {self.requests:,}"
        luck = f"{self.capital:,.0f}" if self.capital < 1e6 else "a million or more"
        told = [
            f"{self.says} (window that ended {self.since}{where}).",
            f"By luck this much would be seen once in {luck} quiet days; alarms are raised at {1 / self.alpha:,.0f}.",
        ]
        told += [f"  {title}: usual {usual}, now {now}" for title, usual, now in self.views]
        if self.examples:
            told.append("Requests most unlike the reference, private values masked:")
            told += [f"  {one}: {text}" for one, text in self.examples]
        told.append(f"`luthier monitor report {self.name}` shows all of it.")
        return told


def alert(
    name: str,
    release: str | None,
    episode: Episode,
    alpha: float,
    tested: Mapping[str, tuple[str, str]],
    examples: Sequence[tuple[str, str]],
) -> Alert:
    """`tested`: view -> (usual, now)."""
    views = tuple((TITLES[view], *tested[view]) for view in episode.views if view in tested)
    when = (
        datetime.fromtimestamp(episode.since_s, UTC).isoformat(" ", "minutes").removesuffix("+00:00") + " UTC"
    )
    return Alert(
        f"{name}:{episode.id}", name, release, episode.group, SAYS[episode.group].format(name=name), when,
        episode.requests, episode.capital, alpha, views, tuple((one, shown(text)) for one, text in examples),
    )  # fmt: skip


def shown(text: str) -> str:
    """One line of what a stranger wrote: masked, without what steers a display, and short.

    >>> shown("mail jo@firm.com\\n\\x1b[2J now")
    'mail [EMAIL_1] ⟨U+001B⟩[2J now'
    """
    from luthier.data.private.masking import masked

    (told,), _ = masked([text[: 4 * LONGEST]])
    line = " ".join(told.split())
    line = "".join(c if c.isprintable() else f"⟨U+{ord(c):04X}⟩" for c in line)
    return line if len(line) <= LONGEST else line[: LONGEST - 1] + "…"


class NotSent(Exception):
    """A message did not get through this time. The reason holds no secret."""
