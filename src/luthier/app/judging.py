"""The gate of one run: the report is judged, and what a person asked to waive is granted or refused, once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from luthier.core.event import Event
from luthier.governance import waiver
from luthier.governance.policy import Verdict, judge, permit

from .context import RunContext
from .recipe import Wish

if TYPE_CHECKING:
    from .line import Results


@dataclass
class Judging:
    """`asked`: what a person wants to let pass. `verdicts` and `waivers` are there once the report was judged."""

    wish: Wish
    at: RunContext
    asked: waiver.Asked | None = None
    verdicts: list[Verdict] = field(default_factory=list)
    waivers: list[waiver.WaiverSpec] = field(default_factory=list)

    def known(self, results: Results) -> Sequence[waiver.WaiverSpec]:
        """What these very words were granted for this very report before: the release of it is found again, nothing is judged."""
        assert results.report is not None
        digest = results.report.digest
        self.waivers = waiver.granted(self.asked, digest, self._events(digest))
        return self.waivers

    def judge(self, results: Results) -> None:
        """Verdicts of the report as it is, what was waived marked so."""
        assert results.report is not None
        path = self.at.folder(results.report) / "report.json"
        report = json.loads(path.read_text(encoding="utf-8"))
        self.verdicts = [
            replace(one, waived=waiver.covers(self.waivers, one))
            for one in judge(self.wish.recipe.evaluate.gate, report)
        ]

    def permit(self, results: Results) -> Sequence[waiver.WaiverSpec]:
        """Raises GateFailed for what is broken and not waived, SpecError for a waiver that cannot be. What is granted is on record
        before anything is packed."""
        assert results.report is not None
        self.waivers = []
        self.judge(results)
        digest, facts = results.report.digest, None
        if self.asked is not None:
            self.waivers, facts = waiver.grant(self.asked, self.verdicts, digest, self._events(digest))
        permit(self.verdicts, lambda verdict: waiver.covers(self.waivers, verdict))
        if facts is not None:
            name = self.wish.recipe.name
            event = Event(waiver.EVENT, digest, {"name": name, "run": self.at.run, **facts})
            waived = [one.metric for one in self.waivers]
            act = self.at.actor.act(
                "waived",
                f"{name}: {digest[:12]}",
                {"rules": waived},
                named=self.asked.by if self.asked else None,
            )
            self.at.store.ledger.append(event, act=act)
        self.judge(results)
        return self.waivers

    def _events(self, digest: str) -> list[Event]:
        return list(self.at.store.ledger.read(kind=waiver.EVENT, subject=digest))
