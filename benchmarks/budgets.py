"""What budgets cost: letting a job in, looking before an answer, entering uses, with many uses entered before.

python benchmarks/budgets.py [--uses 200000] [--database URL]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable

from luthier.app.permitted import operator
from luthier.app.site import Site
from luthier.app.spending import spend
from luthier.cost.quota import MICRO, month_of
from luthier.store.budgets import Use, Whose


def milliseconds(work: Callable[[int], object], times: int) -> str:
    took = []
    for n in range(times):
        began = time.perf_counter()
        work(n)
        took.append((time.perf_counter() - began) * 1e3)
    return f"median {statistics.median(took):6.2f} ms, slowest {max(took):6.2f} ms of {times}"


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--uses", type=int, default=200_000)
    words.add_argument("--database")
    asked = words.parse_args()
    with tempfile.TemporaryDirectory() as home:
        environ = {"LUTHIER_HOME": home} | ({"LUTHIER_DATABASE": asked.database} if asked.database else {})
        site = Site.open(environ)
        who = site.check(site.found() or "")
        assert who is not None
        assert who.organisation is not None and who.project is not None
        whose, now = Whose(who.organisation, who.project, who.user, who.key_id), time.time()
        for scope in ("site", who.organisation, who.project, who.user, who.key_id or ""):
            site.budgets.add(operator(who.organisation, who.project), scope, "tokens", 1_000_000_000)

        def use(n: int) -> Use:
            return Use(now, month_of(now), whose, "served", "tokens", MICRO, model=f"router@{n % 10}")

        def enter(count: int) -> None:
            with site.store.database.transaction() as connection:
                spend(site, connection, [use(n) for n in range(count)])

        for start in range(0, asked.uses, 1_000):
            enter(min(1_000, asked.uses - start))
        print(
            f"{asked.uses:,} uses there, five budgets that count, {'PostgreSQL' if asked.database else 'SQLite'}"
        )
        print("looking before an answer ", milliseconds(lambda _: site.budgets.exhausted(whose), 20))
        print("entering a use           ", milliseconds(lambda _: enter(1), 20))
        print("entering 100 uses        ", milliseconds(lambda _: enter(100), 10))
        print("letting a job in         ", milliseconds(lambda _: site.jobs.submit(who, "scripted", {}), 20))
        print(
            "a report by day and model", milliseconds(lambda _: site.budgets.usage(who, ["day", "model"]), 5)
        )


if __name__ == "__main__":
    main()
