"""What is let in: vetted, within policy, and within every budget; nothing that is refused leaves a trace of a job."""

import subprocess
import sys

import pytest

from luthier.core.errors import NotAllowed, NotFound, OverBudget
from luthier.cost.quota import MICRO
from luthier.store.tables import attempts
from luthier.store.tables import jobs as job_rows

WISH = {"base": "smollm2-135m-instruct", "files": {"train": "file-abc", "test": None}, "train": {"epochs": 2}}
RECIPE = "{name: router, base: smollm2-135m-instruct, data: {sources: [{files: file-abc}]}}"


@pytest.fixture(autouse=True)
def _rows(upload):
    upload("file-abc", 3_000)  # 1,000 tokens an epoch


def jobs(site, caller):
    return site.jobs.list(caller)[0]


def test_a_job_is_foreseen_and_its_part_promised(site, admin, trainer):
    site.budgets.add(admin, "project", "tokens", 4_500)
    job = site.jobs.submit(trainer, "fine_tune", WISH)
    held = {one.unit: one.held_micro for one in site.store.budgets.held_by(job.id)}
    # how long it takes is not known, so a quarter of an hour at 2 EUR is promised
    assert held == {"tokens": 2_000 * MICRO, "money:EUR": MICRO // 2}
    site.jobs.submit(trainer, "fine_tune", WISH)
    with pytest.raises(OverBudget, match=r"500 tokens left.*4,000 tokens promised"):
        site.jobs.submit(trainer, "fine_tune", WISH)
    assert len(jobs(site, trainer)) == 2


@pytest.mark.parametrize(
    ("kind", "wish"),
    [
        ("recipe", {"recipe": RECIPE, "sets": ["train.epochs=4"], "folder": None}),
        ("verb", {"verb": "recipes.run", "recipe": {"text": RECIPE}, "overrides": ["train.epochs=4"]}),
    ],
)
def test_a_recipe_is_foreseen_by_its_own_epochs_and_by_what_such_runs_took(site, trainer, kind, wish):
    first = site.jobs.submit(trainer, kind, wish)
    held = {one.unit: one.held_micro for one in site.store.budgets.held_by(first.id)}
    assert held == {"tokens": 4_000 * MICRO, "money:EUR": MICRO // 2}  # how long that takes is not known
    with site.store.database.transaction() as connection:
        connection.execute(
            job_rows.update().values(state="succeeded", started_s=100.0, finished_s=150.0, result={})
        )
        connection.execute(attempts.insert().values(
            job=first.id, number=1, fence=1, launcher="scripted", state="succeeded", created_s=90.0, handle={}, started_s=100.0,
            finished_s=150.0,
        ))  # fmt: skip
        site.store.budgets.change_hold(connection, first.id, "tokens", metered_micro=1_000 * MICRO)
    later = site.jobs.submit(trainer, kind, wish)
    held = {one.unit: one.held_micro for one in site.store.budgets.held_by(later.id)}
    # 4,000 tokens at 50 ms: 200 s at 2 EUR an hour
    assert held == {"tokens": 4_000 * MICRO, "money:EUR": 111_111}


@pytest.mark.parametrize("site", ["sqlite", "postgres"], indirect=True)
def test_every_scope_counts(site, admin, trainer, join):
    site.budgets.add(site.operator(), trainer.user, "tokens", 2_000)
    site.budgets.add(admin, trainer.key_id, "tokens", 9_000)
    site.budgets.add(site.operator(), "site", "tokens", 3_999)
    site.jobs.submit(trainer, "fine_tune", WISH)
    with pytest.raises(OverBudget, match=f"of ({trainer.user}|site)"):
        site.jobs.submit(trainer, "fine_tune", WISH)
    with pytest.raises(OverBudget) as told:
        site.jobs.submit(join("other", "trainer"), "fine_tune", WISH)
    assert (
        told.value.message == "the budget of site has not enough left this month."
    )  # and nothing of what others use
    seen = {one["scope"]: (one["amount"], one["exhausted"]) for one in site.budgets.list(trainer)}
    assert seen == {"site": (None, False), trainer.user: (2_000, True), trainer.key_id: (9_000, False)}


def test_a_budget_in_a_currency_that_nothing_is_priced_in_lets_nothing_in(site, admin, trainer):
    site.budgets.add(admin, "project", "money:USD", 100)
    with pytest.raises(OverBudget, match="in USD"):
        site.jobs.submit(trainer, "fine_tune", WISH)


def test_the_same_request_twice_is_promised_once(site, admin, trainer):
    site.budgets.add(admin, "project", "tokens", 2_000)
    first = site.jobs.submit(trainer, "fine_tune", WISH, once=("a", "0" * 64))
    assert site.jobs.submit(trainer, "fine_tune", WISH, once=("a", "0" * 64)).id == first.id
    assert site.budgets.list(admin)[0]["promised"] == 2_000


def test_recipes_of_clients_are_vetted_and_the_operators_are_not(site, admin, trainer):
    site.jobs.submit(trainer, "recipe", {"recipe": RECIPE, "sets": ["train.epochs=1"], "folder": None})
    for wish in (
        {"recipe": RECIPE.replace("file-abc", "/etc/passwd"), "sets": [], "folder": None},
        {"recipe": RECIPE, "sets": ["data.sources.0.files=/etc/passwd"], "folder": None},
        {"recipe": RECIPE.replace("file-abc", "file-none"), "sets": []},
        {"recipe": RECIPE, "sets": [], "folder": "/srv"},
        {**WISH, "files": {"train": "file-none"}},
        {**WISH, "train": {"method": {"distill": {"teacher": "/srv/models/x"}}}},
    ):
        with pytest.raises((NotAllowed, NotFound)):
            site.jobs.submit(trainer, "any", wish)
    assert len(jobs(site, trainer)) == 1
    mine = site.operator(admin.project)
    site.jobs.submit(
        mine, "recipe", {"recipe": RECIPE.replace("file-abc", "rows.jsonl"), "sets": [], "folder": "/srv"}
    )


def test_files_are_put_in_when_it_runs(site, admin):
    from luthier.app.desk import Desk
    from luthier.app.jobs.foreign import Foreign

    recipe = Foreign(RECIPE, ["train.epochs=1"])
    found = Desk(site).vetted(admin.project, ["trainer"], recipe, lambda one: f"{one}/rows.jsonl")
    assert found.written["data"]["sources"] == [{"files": "file-abc/rows.jsonl"}]
    assert found.written["train"] == {"epochs": 1}


def test_classes_methods_and_roles(site, admin, trainer, join):
    site.policies.lay(
        admin, "project", "methods: [sft]\ndata: {public: {}, unclassified: {roles: [admin]}}", "rules"
    )
    with pytest.raises(NotAllowed, match="'unclassified' is for admin"):
        site.jobs.submit(trainer, "fine_tune", WISH)
    public = {"metadata": {"data_class": "public"}}
    site.jobs.submit(trainer, "fine_tune", WISH, shown=public)
    with pytest.raises(NotAllowed, match="method 'dpo'"):
        site.jobs.submit(trainer, "fine_tune", {**WISH, "train": {"method": "dpo"}}, shown=public)
    site.policies.lay(admin, "project", "gates: {accuracy: {at_least: 0.5}}", "a gate for all")
    with pytest.raises(NotAllowed, match="accuracy"):
        site.jobs.submit(admin, "fine_tune", WISH)
    site.jobs.submit(
        admin, "fine_tune", {**WISH, "gate": site.policies.effective(admin.project).gate_floor()}
    )


@pytest.mark.parametrize("first", ["desk", "spending"])
def test_either_side_of_the_queue_may_be_imported_first(first):
    subprocess.run([sys.executable, "-c", f"import luthier.app.{first}"], check=True)
