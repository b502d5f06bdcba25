"""What can be asked of a recipe: a first text of one, what it would run, and to run it."""

from __future__ import annotations

import secrets
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from luthier.core.errors import SpecError
from luthier.core.units import Money

from .context import RunContext, Silent, Watch
from .openlineage import sender

if TYPE_CHECKING:
    from luthier.governance.waiver import Asked

    from .advising import Advised
    from .app import App
    from .merging import Merged
    from .planning import Plan
    from .profiling import Profiled
    from .recipe import Wish
    from .running import Run
    from .searching import Searched


class Recipes:
    """`app.recipes`. One run at a time per recipe."""

    def __init__(self, app: App) -> None:
        self._app = app

    def init(self, data_file: str, *, base: str, name: str | None = None, folder: Path | None = None) -> str:
        """The text of a commented recipe for a data file or URL: map, task and split proposed from what is in it.
        `folder` is where the recipe will stand; its paths start there."""
        from .propose import write_recipe

        return write_recipe(
            data_file, base=base, name=name, folder=folder or Path.cwd(), environ=self._app._environ
        )

    def plan(self, recipe: Path, overrides: tuple[str, ...] = (), *, probe: bool = True, watch: Watch | None = None,
             stop: threading.Event | None = None) -> Plan:  # fmt: skip
        """What would run, how long, how much memory and money. Prepares the rows (kept for the run); trains nothing."""
        from .planning import make_plan

        wish = self.read(recipe, overrides)
        with closing(self.context(wish, watch, stop)) as at:
            return make_plan(wish, at, probe=probe)

    def profile(self, recipe: Path, overrides: tuple[str, ...] = (), *, steps: int = 3, watch: Watch | None = None,
                stop: threading.Event | None = None) -> Profiled:  # fmt: skip
        """Where the time of a training step goes and what holds it back, from a few real steps. Keeps no weights."""
        from .profiling import profile_training

        wish = self.read(recipe, overrides)
        with closing(self.context(wish, watch, stop)) as at:
            return profile_training(wish, at, steps)

    def search(self, recipe: Path, overrides: tuple[str, ...] = (), *, join: bool = False, workers: int = 1,
               techniques: bool = False, watch: Watch | None = None,
               stop: threading.Event | None = None) -> Searched:  # fmt: skip
        """Try the settings that `search` names, on the validation rows; the test rows are not touched. `join`: take part in a search
        that others began; `workers`: processes of this machine; `techniques`: over those that `advise` finds possible."""
        from .searching import search_line

        if techniques:
            overrides = (*overrides, *self._techniques(recipe, overrides, watch, stop))
        wish = self.read(recipe, overrides)
        if wish.recipe.search is None:
            raise SpecError(
                "the recipe has no section `search`, so there is nothing to try.",
                remedy="Add one: search: {over: {train.learning_rate: {low: 1.0e-5, high: 1.0e-3, log: true}}}",
            )
        with closing(self.context(wish, watch, stop)) as at:
            return search_line(wish, at, at.hourly, join=join, workers=workers)

    def _techniques(self, recipe: Path, overrides: tuple[str, ...], watch: Watch | None,
                    stop: threading.Event | None) -> tuple[str, ...]:  # fmt: skip
        """The section `search.techniques` that follows from advice, as words; none where the recipe has one."""
        from .advising import advise, techniques_of

        wish = self.read(recipe, overrides)
        if wish.recipe.search is not None and wish.recipe.search.techniques:
            return ()
        with closing(self.context(wish, watch, stop)) as at:
            return techniques_of(advise(wish, at, probe=True), wish)

    def advise(self, recipe: Path, overrides: tuple[str, ...] = (), *, probe: bool = True, watch: Watch | None = None,
               stop: threading.Event | None = None) -> Advised:  # fmt: skip
        """Which techniques suit this recipe's rows, task, machine and budget, each with its forecast and reasons. Trains nothing."""
        from .advising import advise

        wish = self.read(recipe, overrides)
        with closing(self.context(wish, watch, stop)) as at:
            return advise(wish, at, probe=probe)

    def run(self, recipe: Path, overrides: tuple[str, ...] = (), *, fresh: bool = False, waive: Asked | None = None,
            watch: Watch | None = None, stop: threading.Event | None = None) -> Run:  # fmt: skip
        """The whole line; where the recipe has a search, that first, and then the line of what it kept. Raises GateFailed with
        the numbers when policy stops it, Interrupted when the user does. `waive`: rules that a person lets this model break."""
        from .running import run_line

        wish = self.read(recipe, overrides)
        with closing(self.context(wish, watch, stop)) as at:
            if wish.recipe.search is not None:
                from .searching import search_line
                from .trying import with_setting

                wish = with_setting(wish, search_line(wish, at, at.hourly).kept_trial.setting)
            return run_line(wish, at, fresh=fresh, waive=waive)

    def merge(self, written: Path, overrides: tuple[str, ...] = (), *, watch: Watch | None = None,
              stop: threading.Event | None = None) -> Merged:  # fmt: skip
        """Several tuned models of one base become one, as a file says; measured where it names a release whose rows it is to
        answer."""
        from .merging import merge

        return merge(
            self._app.store,
            written,
            overrides,
            self._app._environ,
            watch or Silent(),
            stop or threading.Event(),
        )

    def read(self, recipe: Path, overrides: tuple[str, ...]) -> Wish:
        """What a recipe wishes, checked."""
        from .checking import check, check_answers
        from .recipe import read_recipe

        wish = read_recipe(recipe, overrides)
        check(wish.recipe)
        check_answers(wish)
        return wish

    def context(self, wish: Wish, watch: Watch | None, stop: threading.Event | None = None) -> RunContext:
        hourly, about = self._hourly(wish), wish.recipe.data.about
        run = f"run-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(2)}"
        return RunContext(
            self._app.store, run, wish.folder, self._app._environ, watch or Silent(), stop or threading.Event(), hourly,
            name=wish.recipe.name, about=about.plain() if about else {}, lineage=sender(self._app._environ), actor=self._app.actor,
        )  # fmt: skip

    def _hourly(self, wish: Wish) -> Money | None:
        """What an hour of the machines costs; it must be known where training or a search may cost no more than so much."""
        from luthier.cost.prices import load_prices
        from luthier.training.stopping import refuse_unpriced

        budget, limit, search = wish.recipe.budget, wish.recipe.train.stop_at, wish.recipe.search
        needed = limit.money is not None or (search is not None and search.money is not None)
        prices, _ = load_prices(self._app.home / "prices.yaml", machine=budget.machine)
        price = prices.look_up(budget.machine) if needed else prices.find(budget.machine)
        if price is None:
            return None
        hourly = Money(price.value * budget.machines, price.currency)
        refuse_unpriced(limit.money, hourly)
        refuse_unpriced(search.money if search else None, hourly, "search")
        return hourly
