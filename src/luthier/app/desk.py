"""The desk where a job is let in: its recipe vetted, the policy held against it, what it will use foreseen and promised.

    admitted = Desk(site).admit(caller, kind, wish, resources)        # refuses: NotAllowed, SpecError
    job = Job(..., state="held" if admitted.held else "queued")
    rows.submit(job, act, also=lambda connection: admitted.also(connection, job))      # refuses: OverBudget; all or nothing

The wish is kept as it was written, with the ids of uploaded files; whoever runs it asks `vetted` for what may be run, by the policy of
that moment, with the files put in.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from luthier.core.errors import NotAllowed, NotFound, OverBudget
from luthier.core.spec import Tree, parse
from luthier.cost.quota import MONEY, Standing, Wanted, month_of, show
from luthier.governance.site_policy import UNCLASSIFIED, Effective, Refusal
from luthier.governance.vetting import Files, Vetted, base_refusals, deny, vet, vetting
from luthier.store.approvals import JOB
from luthier.store.budgets import Budget, Hold, Whose
from luthier.store.tables import uploaded_files

from .approvals import Approvals
from .foreseeing import foresee
from .jobs.foreign import Foreign, foreign
from .permitted import project_of, roles_in
from .policies import Policies

if TYPE_CHECKING:
    from luthier.store.approvals import Approval
    from luthier.store.jobs import Job

    from .acting import Actor
    from .site import Caller, Site


@dataclass(frozen=True)
class Admitted:
    """`forecast`: what is promised out of which unit. `needs_approval`: who says that another person must agree; the job is held then."""

    desk: Desk
    actor: Actor
    whose: Whose
    forecast: Wanted
    approval: Approval | None = None
    needs_approval: str | None = None

    @property
    def held(self) -> bool:
        return self.approval is not None

    def also(self, connection: sa.Connection, job: Job) -> None:
        """In the transaction that enters the job. Raises OverBudget."""
        self.desk.reserve(connection, job.id, self.whose, self.forecast)
        if self.approval is not None:
            self.desk.open_approval(connection, job, self.approval, self.actor)


class Desk:
    """Of a site."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def admit(
        self, caller: Caller, kind: str, wish: Mapping[str, Any], resources: Mapping[str, Any] | None = None,
        shown: Mapping[str, Any] | None = None,
    ) -> Admitted:  # fmt: skip
        """`shown`: the dialect's part of the job, whose metadata may say of which class the rows are (`data_class`). Raises NotAllowed
        with every refusal, SpecError for a recipe that is none."""
        project = project_of(caller)
        policy = Policies(self._site).effective(project)
        data_class, files = self._checked(caller, project, policy, wish, _class_of(shown))
        forecast = foresee(self._site, kind, wish, dict(resources or {}), self._sizes(project, files))
        organisation = self._site.store.accounts.project(project).organisation
        whose = Whose(organisation, project, caller.user, caller.key_id)
        origin = policy.training_needs_approval(data_class) if data_class is not None else None
        if origin is None:
            return Admitted(self, caller.actor, whose, forecast)
        reason = f"training on rows of the class {data_class} needs another person's word"
        approval = Approvals(self._site).opened(
            caller, policy, JOB, "", reason, {"class": data_class, "job_kind": kind}
        )
        return Admitted(self, caller.actor, whose, forecast, approval, origin)

    def vetted(self, project: str, roles: Sequence[str], found: Foreign, files: Files) -> Vetted:
        """What somebody with these roles wrote, as it may be run in a project now. `files`: see governance/vetting. Raises NotAllowed, SpecError."""
        spec, tree = found.read()
        policy = Policies(self._site).effective(project)
        if found.merges:
            deny(vetting(spec, policy, files).refusals)
            return Vetted(dict(tree.value), (), UNCLASSIFIED)
        return vet(spec, tree.value, policy, roles, files, found.beside)

    def check_wish(self, caller: Caller, wish: Mapping[str, Any]) -> None:
        """What would be refused now (a schedule, whose jobs are admitted later). Raises as `admit`."""
        project = project_of(caller)
        self._checked(caller, project, Policies(self._site).effective(project), wish, UNCLASSIFIED)

    def check_tuning(self, caller: Caller, wish: Mapping[str, Any], shown: Mapping[str, Any]) -> None:
        """A wish for fine-tuning that was let in before, by the policy of this moment. Raises NotAllowed."""
        project = project_of(caller)
        if isinstance(wish.get("files"), Mapping):
            policy = Policies(self._site).effective(project)
            deny(self._tuning(caller, project, policy, wish, _class_of(shown)))

    def check_base(self, caller: Caller, base: str | None) -> None:
        """A base that a verb names beside a recipe. Raises NotAllowed."""
        if base is not None and not caller.operator:
            deny(base_refusals(base, Policies(self._site).effective(project_of(caller))))

    # -- policy -----------------------------------------------------------------------------------------------------

    def _checked(
        self, caller: Caller, project: str, policy: Effective, wish: Mapping[str, Any], data_class: str
    ) -> tuple[str | None, tuple[str, ...]]:
        """(the class of the rows, where rows are trained on; ids of uploaded files)."""
        if (written := foreign(wish)) is not None:
            if caller.operator:
                return None, ()
            if written.folder is not None:
                raise NotAllowed(
                    "a recipe's folder is for whoever works on the server itself.", remedy="Leave it out."
                )
            found = self.vetted(project, roles_in(self._site, caller, project), written, self._known(project))
            trains = wish.get("verb") in (None, "recipes.run", "recipes.search")
            return (found.data_class if trains else None), found.files
        self.check_base(caller, wish.get("base") if "verb" in wish else None)
        given = wish.get("files")
        if not isinstance(given, Mapping):
            return None, ()
        files = tuple(one for one in given.values() if one)
        for one in files:
            self._known(project)(one)
        deny(self._tuning(caller, project, policy, wish, data_class))
        return data_class, files

    def _tuning(
        self, caller: Caller, project: str, policy: Effective, wish: Mapping[str, Any], data_class: str
    ) -> list[Refusal]:
        """What speaks against a wish for fine-tuning, whose base the server itself has put in for the name that was asked for."""
        from luthier.models.known import KNOWN
        from luthier.training.spec import TrainSpec

        base, train = (
            str(wish.get("base")),
            parse(TrainSpec, Tree(dict(wish.get("train") or {}), source="train")),
        )
        known = KNOWN.get(base)
        found = [
            policy.base(base, known=known.sha256 if known else "", hub=False),
            policy.licence(known.licence, base) if known else None,
            policy.train(data_class, roles_in(self._site, caller, project)),
            *vetting(train, policy, self._known(project)).refusals,
            *policy.gate(wish.get("gate") or {}),
        ]
        return [one for one in found if one is not None]

    def _known(self, project: str) -> Files:
        """An uploaded file stays its id: it is put in when the job runs."""

        def file(file_id: str) -> str:
            if file_id not in self._sizes(project, (file_id,)):
                raise NotFound(
                    f"there is no file {file_id[:80]!r} in this project.", remedy="Upload it first."
                )
            return file_id

        return file

    def _sizes(self, project: str, files: Sequence[str]) -> dict[str, int]:
        """The bytes of uploaded files that are there."""
        if not files:
            return {}
        store = self._site.app_of(project, self._site.top.actor).store
        query = sa.select(uploaded_files.c.id, uploaded_files.c.size_bytes).where(
            uploaded_files.c.id.in_(list(files)), uploaded_files.c.ended_s.is_(None)
        )
        with store.database.reading() as connection:
            return {row.id: row.size_bytes for row in connection.execute(query)}

    def open_approval(self, connection: sa.Connection, job: Job, approval: Approval, actor: Actor) -> None:
        approval = replace(approval, subject=job.id)
        self._site.store.approvals.enter(connection, approval)
        told = {"kind": JOB, "subject": job.id, "project": job.project}
        self._site.store.audit.enter(connection, actor.act("approval.asked", approval.id, told))

    # -- budgets ----------------------------------------------------------------------------------------------------

    def reserve(self, connection: sa.Connection, job_id: str, whose: Whose, forecast: Wanted) -> None:
        """Promise what is foreseen. Raises OverBudget with the numbers; then nothing is promised."""
        rows, now = self._site.store.budgets, time.time()
        left: dict[str, int] = {}
        for budget in rows.applying(connection, whose):
            standing = Standing(budget.amount_micro, *rows.standing(connection, budget, month_of(now)))
            self._fits(
                budget, standing, forecast, own=budget.scope in (whose.project, whose.user, whose.key_id)
            )
            left[budget.unit] = min(left.get(budget.unit, standing.left_micro), standing.left_micro)
        for unit, wanted in forecast.first_micro.items():
            held = min(wanted, left.get(unit, wanted)) if unit in forecast.unknown else wanted
            hold = Hold(
                job_id,
                unit,
                held,
                0,
                whose.organisation,
                whose.project,
                whose.user,
                whose.key_id,
                month_of(now),
                now,
            )
            rows.hold(connection, hold)

    @staticmethod
    def _fits(budget: Budget, standing: Standing, forecast: Wanted, *, own: bool) -> None:
        """`own`: it is nobody else's too, so its numbers may be told."""
        unit, each = budget.unit, "this month" if budget.period == "month" else "in all"
        if unit not in forecast.first_micro:
            if unit.startswith(MONEY):
                raise OverBudget(
                    f"the budget of {budget.scope} is in {unit.removeprefix(MONEY)}, and what this costs in it is not known.",
                    remedy="Have the machine's price entered in that currency (prices.yaml), or the budget written in another.",
                )
            return
        wanted = forecast.amounts_micro.get(unit, 0)
        if not standing.lets_in(wanted) and not own:
            raise OverBudget(
                f"the budget of {budget.scope} has not enough left {each}.",
                remedy="Ask whoever keeps it (`luthier budget list`).",
            )
        if not standing.lets_in(wanted):
            about = f"This would use about {show(wanted, unit)}. " if wanted else ""
            raise OverBudget(
                f"the budget of {budget.scope}, {show(budget.amount_micro, unit)} {each}, has {show(max(standing.left_micro, 0), unit)} "
                f"left: {show(standing.used_micro, unit)} are used and {show(standing.held_micro, unit)} promised. {about}".rstrip(),
                remedy="Wait for what runs, make the job smaller, or have the budget raised.",
            )


def _class_of(shown: Mapping[str, Any] | None) -> str:
    """Of which class the rows are, as the dialect's metadata says."""
    metadata = (shown or {}).get("metadata")
    said = metadata.get("data_class") if isinstance(metadata, Mapping) else None
    return str(said or UNCLASSIFIED)
