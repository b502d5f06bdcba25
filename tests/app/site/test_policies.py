"""Policies of site, organisation and project: the narrower may only tighten, and it can be shown who says what."""

import pytest

from luthier.core.errors import Conflict, NotAllowed, SpecError
from luthier.governance.site_policy import Effective, PolicySpec, loosened, read_policy


def test_nothing_said_is_the_default_and_each_rule_names_who_says_it(site, admin):
    told = site.policies.show(admin)
    assert told["scope"] == admin.project
    assert told["rules"]["bases"] == [{"from": "the default", "value": ["known"]}]
    site.policies.lay(admin, "project", "bases: [smollm2-135m-instruct]", "one base is enough")
    told = site.policies.show(admin)
    assert told["rules"]["bases"] == [
        {"from": "the default", "value": ["known"]},
        {"from": admin.project, "value": ["smollm2-135m-instruct"]},
    ]
    entry = site.store.audit.head()
    assert (entry.action, entry.subject, entry.data["reason"]) == (
        "policy.laid",
        admin.project,
        "one base is enough",
    )


def test_a_narrower_policy_may_only_tighten(site, admin):
    for wider in (
        "bases: ['*']", "sources: [/srv]", "environment: [SECRET]", "hub: [owner/*]", "endpoints: [{url: 'http://x'}]",
        "parts: ['rule:x']", "engines: [spark]", "approvals: {roles: [deployer], within: 8 days}",
    ):  # fmt: skip
        with pytest.raises(SpecError) as told:
            site.policies.lay(admin, "project", wider, "more")
        assert "the site" in told.value.message or "lapses" in told.value.message, wider
    site.policies.lay(
        admin,
        "project",
        "methods: [sft]\ndata: {public: {roles: [trainer]}}\napprovals: {release: true}",
        "less",
    )


def test_what_a_wider_policy_takes_away_later_is_gone_below_too():
    narrow = PolicySpec(sources=["s3://tickets/2026"])
    before = Effective((("site", PolicySpec(sources=["s3://tickets"])), ("proj", narrow)))
    after = Effective((("site", PolicySpec(sources=["s3://other"])), ("proj", narrow)))
    assert before.source("s3://tickets/2026/a") is None
    assert after.source("s3://tickets/2026/a").origin == "site"
    assert before.source("s3://tickets/2025/a").origin == "proj"
    assert loosened(narrow, Effective((("site", PolicySpec(sources=["s3://tickets"])),))) == []


def test_a_project_admin_lays_nothing_down_for_the_organisation(site, admin, join):
    mine = join("mia", "admin")
    site.policies.lay(mine, "project", "methods: [sft]", "less")
    for scope in ("organisation", "site"):
        with pytest.raises(NotAllowed, match=r"policy\.write"):
            site.policies.lay(mine, scope, "methods: [sft]", "more")
    wide = join("max", "admin", scope=admin.organisation)
    site.policies.lay(wide, "organisation", "methods: [sft, dpo]", "for all")
    assert site.policies.effective(admin.project).method("kto").origin == admin.organisation
    assert [one.by for one in site.policies.history(wide, "organisation")] == [wide.user]


def test_of_two_who_change_one_policy_the_second_is_told(site, admin):
    site.policies.lay(admin, "project", "methods: [sft]", "one")
    seq = site.policies.laid(admin, "project").seq
    act = admin.actor.act("policy.laid", admin.project)
    with pytest.raises(Conflict, match="somebody else"):
        site.store.policies.add(admin.project, {}, admin.user, "two", 1.0, act, after=seq - 1)
    assert len(site.policies.history(admin, "project")) == 1


@pytest.mark.parametrize(
    "text",
    [
        "bases: x",
        "nothing: []",
        "data: {a: {roles: [owner]}}",
        "bases: ['']",
        "approvals: {roles: [viewer]}",
        "approvals: {within: 0 s}",
        "",
    ],
)
def test_what_is_no_policy_is_refused(text):
    with pytest.raises(SpecError):
        read_policy(text)
