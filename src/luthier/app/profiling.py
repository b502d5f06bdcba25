"""What holds a recipe's training back: a few real steps on its own rows and base, told in words, numbers and a picture.

The rows are prepared and the base imported (both are kept for the run); no weight is.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.core.errors import SpecError
from luthier.core.event import Event
from luthier.core.units import show_bytes, show_seconds
from luthier.store.files import write_atomic
from luthier.training.split_time import name_of

from .context import RunContext
from .line import Make, materials
from .profile_picture import draw
from .recipe import Wish
from .workbench import workbench

if TYPE_CHECKING:
    from luthier.training.profile import Profile

MOST_STEPS = 1000


@dataclass(frozen=True)
class Profiled:
    """`picture` is an SVG file. `tokenise_s` was taken once for all rows, before the first step."""

    name: str
    profile: Profile
    tokenise_s: float
    rows: int
    picture: Path

    def plain(self) -> dict[str, Any]:
        return {"name": self.name, **self.profile.plain(), "tokenise_s": self.tokenise_s, "rows": self.rows,
                "picture": str(self.picture), "sections": self.sections()}  # fmt: skip

    def sections(self) -> list[tuple[str, list[tuple[str, str]]]]:
        """Titles with (what, how much) pairs, for people."""
        p, flops = self.profile, self.profile.flops_per_step
        speed = [
            ("step", f"{show_seconds(p.step_s)} for {p.tokens_per_step:,.0f} tokens ({p.supervised_per_step:,.0f} supervised) in {p.micro_batches_per_step:.1f} micro-batches; the first {show_seconds(p.first_step_s)}"),
            ("speed", f"{p.tokens_per_s:,.0f} tokens/s, {p.device}, {p.dtype}, {p.threads} threads, fused: {', '.join(p.fused) or 'nothing'}"),
            ("memory", f"{show_bytes(p.peak_bytes)} at most, of {show_bytes(p.machine_bytes)}"),
            ("tokenising", f"{show_seconds(self.tokenise_s)} for {self.rows:,} rows, once"),
        ]  # fmt: skip
        if p.processes > 1:
            shared = "each with a GPU" if p.device == "cuda" else "sharing the processor"
            told = (
                f"{p.processes}, {shared}; they exchange for {show_seconds(p.exchange_s)} of a step at most"
            )
            speed.insert(1, ("processes", told))
        arithmetic = [
            ("a step", f"{_flops(flops.total, '')}: matrices {_flops(flops.matrices, '')}, adapter {_flops(flops.adapter, '')}, attention {_flops(flops.attention, '')}, head {_flops(flops.head, '')}"),
            ("reached", f"{_flops(p.achieved)}, {p.of_peak:.0%} of square products in {p.dtype}"),
            ("products in the step", _flops(p.matmul_achieved) if p.matmul_achieved else "not seen"),
            ("products alone", f"{_flops(p.peak.model)} in this model's shapes with {p.peak.rows:,} tokens"),
            ("square products", ", ".join(f"{name} {_flops(rate)}" for name, rate in p.peak.square.items())),
        ]  # fmt: skip
        where = [(name_of(kind), f"{share:6.1%}") for kind, share in p.shares.items() if share >= 0.0005]
        held = [("bottleneck", p.bottleneck.kind), ("why", p.bottleneck.reason), ("try", p.bottleneck.remedy)]
        return [
            ("speed", speed),
            ("where a step's time goes", where),
            ("arithmetic", arithmetic),
            ("what holds it back", held),
            ("picture", [("file", str(self.picture))]),
        ]


def _flops(value: float, per: str = "/s") -> str:
    """
    >>> _flops(4.18e10), _flops(1.2e12, "")
    ('41.8 GFLOP/s', '1.2 TFLOP')
    """
    unit, factor = next(((u, f) for u, f in (("T", 1e12), ("G", 1e9)) if value >= f), ("M", 1e6))
    return f"{value / factor:.1f} {unit}FLOP{per}"


def profile_training(wish: Wish, at: RunContext, steps: int) -> Profiled:
    """Raises SpecError for a number of steps that makes no sense, and what planning raises."""
    from luthier.training.profile import profile

    if not 1 <= steps <= MOST_STEPS:
        raise SpecError(
            f"{steps} steps cannot be profiled.", remedy=f"Give a number from 1 to {MOST_STEPS:,}."
        )
    bench = workbench(wish, at, materials(wish, at, Make(at), asks=False))
    found = profile(
        bench.spec, bench.method, bench.folders, bench.splits, bench.template, bench.facts, steps, at
    )
    picture = at.home / "reports" / f"{wish.recipe.name}-{at.run}-profile.svg"
    write_atomic(picture, draw(wish.recipe.name, found).encode())
    at.store.ledger.append(Event("profile", bench.key, {"run": at.run, **found.plain()}))
    return Profiled(wish.recipe.name, found, bench.tokenise_s, len(bench.splits["train"]), picture)
