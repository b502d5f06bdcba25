"""A recipe of somebody else's reaches nothing that its policy does not name: not by any field there is, and not by one there will be."""

import pytest

from luthier.app.merging import MergeFile
from luthier.app.recipe import Recipe
from luthier.core.errors import NotAllowed, NotFound, SpecError
from luthier.core.spec import Spec, Tree, parse
from luthier.governance.site_policy import Effective, EndpointRule, PolicySpec
from luthier.governance.vetted_fields import FIELDS, called, every_field, kind_of
from luthier.governance.vetting import class_of, vet, vetting

BASE = "smollm2-135m-instruct"
NOBODY = Effective()


def files(file_id):
    if file_id != "file-abc":
        raise NotFound(f"there is no file {file_id!r} in this project.")
    return "files/file-abc/rows.jsonl"


def written(**more):
    recipe = {"name": "router", "base": BASE, "data": {"sources": [{"files": "file-abc"}]}}
    for path, value in more.items():
        here = recipe
        *above, last = path.split("__")
        for part in above:
            here = here[int(part)] if part.isdecimal() else here.setdefault(part, {})
        here[int(last) if last.isdecimal() else last] = value
    return recipe


def vetted(policy=NOBODY, roles=("trainer",), **more):
    told = written(**more)
    return vet(parse(Recipe, Tree(told)), told, policy, roles, files)


def policy(**rules):
    return Effective((("site", PolicySpec(**rules)),))


def test_every_field_that_holds_text_is_listed_as_what_it_is():
    there = {called(spec, name) for one in (Recipe, MergeFile) for spec, name in every_field(one)}
    assert sorted(there - set(FIELDS)) == []
    assert sorted(set(FIELDS) - there) == []
    assert len(there) > 150


def test_a_field_that_nobody_has_listed_is_refused():
    class New(Spec):
        path: str = "x"
        limit: int = 3

    assert kind_of(New, "path") is None
    found = vetting(New(path="/etc/passwd"), NOBODY, files)
    assert [one.message.split(":")[0] for one in found.refusals] == ["path"]
    assert not vetting(Recipe.model_validate(written()), NOBODY, files).refusals


def test_an_uploaded_file_is_put_in_where_a_file_may_stand():
    found = vetted(data__rules={"relevance": [{"rank": {"to": "file-abc", "n": 5}}]})
    assert found.written["data"]["sources"] == [{"files": "files/file-abc/rows.jsonl"}]
    assert found.written["data"]["rules"]["relevance"] == [
        {"rank": {"to": "files/file-abc/rows.jsonl", "n": 5}}
    ]
    assert (found.files, found.data_class) == (("file-abc",), "unclassified")


def test_another_projects_file_is_none():
    with pytest.raises(NotAllowed, match="no file 'file-other'"):
        vetted(data__sources__0__files="file-other")


def test_a_files_id_stands_nowhere_else():
    with pytest.raises(NotAllowed, match="where no file is read"):
        vetted(task={"instruction": "file-abc"})


REACHING = {
    "a file of the server": {"data__sources__0__files": "/etc/passwd"},
    "a relative file": {"data__sources__0__files": "../other/rows.jsonl"},
    "several": {"data__sources__0__files": ["file-abc", "s3://bucket/x.jsonl"]},
    "a secret in a path": {"data__sources__0__files": "/data/${LUTHIER_DATABASE}"},
    "a secret in words": {"task": {"instruction": "Say ${AWS_SECRET_ACCESS_KEY}"}},
    "a database": {"data__sources__0": {"sql": {"url": "sqlite:////home/luthier/luthier.db", "table": "api_keys"}}},
    "a lake": {"data__sources__0": {"delta": {"url": "/srv/lake"}}},
    "an iceberg table": {"data__sources__0": {"iceberg": {"table": "/srv/lake"}}},
    "an iceberg catalog": {
        "data__sources__0": {"iceberg": {"table": "a.b", "catalog": {"type": "rest", "uri": "http://169.254.169.254"}}}
    },
    "a broker": {"data__sources__0": {"kafka": {"brokers": "kafka.internal:9092", "topic": "x"}}},
    "a data set of the hub": {"data__sources__0": {"hub": {"dataset": "owner/name"}}},
    "a clone on disk": {"data__sources__0": {"hub": {"path": "/srv/clone"}}},
    "a contract's file": {"data__sources__0__contract": "/etc/passwd"},
    "a folder as base": {"base": "/srv/models/secret"},
    "a URL as base": {"base": "s3://models/x"},
    "a hub id as base": {"base": "owner/name"},
    "a home as base": {"base": "~/models"},
    "a teacher": {"train": {"method": {"distill": {"teacher": "/srv/models/secret"}}}},
    "a goal's file": {"data__rules": {"relevance": [{"rank": {"to": "/etc/passwd", "n": 5}}]}},
    "benchmarks": {"data__rules": {"quality": [{"decontaminate": {"against": "/srv/*.jsonl"}}]}},
    "an embedder's server": {
        "data__rules": {"relevance": [{"rank": {"goal": "x", "n": 5, "method": "embedding", "embedder": {"endpoint": {"url": "http://127.0.0.1:9/v1", "model": "m"}}}}]}
    },
    "an embedder's folder": {"data__rules": {"relevance": [{"rank": {"goal": "x", "n": 5, "method": "embedding", "embedder": {"static": {"folder": "/srv/e"}}}}]}},
    "a pseudonym's key": {"data__rules": {"quality": [{"redact": {"do": "pseudonymise", "key": "${LUTHIER_KEY}"}}]}},
    "a writer": {
        "data__rules": {
            "quantity": [{"generate": {"n": 5, "endpoint": {"url": "http://127.0.0.1:9/v1", "model": "m"}}}]
        }
    },
    "a difficulty's model": {"data__rules": {"relevance": [{"difficulty": {"model": "/srv/models/x"}}]}},
    "a cluster": {"data__engine": {"spark": {"master": "local[2]"}}},
    "a judge": {"evaluate": {"judge": {"model": {"endpoint": "http://127.0.0.1:9/v1", "model": "m"}}}},
    "a judge's rubric": {"evaluate": {"judge": {"model": BASE, "rubric": "/etc/passwd"}}},
    "what people said": {"evaluate": {"judge": {"model": BASE, "human": "/etc/passwd"}}},
    "another system": {"evaluate": {"against": [{"endpoint": "http://127.0.0.1:9/v1", "model": "m", "name": "x"}]}},
    "another base": {"evaluate": {"against": [{"base": "/srv/models/x", "name": "x"}]}},
    "questions": {"evaluate": {"general": "/etc/passwd"}},
    "refusals": {"evaluate": {"safety": ["/etc/passwd"]}},
    "canaries": {"evaluate": {"memorisation": {"canaries": "/etc/passwd"}}},
    "a search's database": {"search": {"over": {"train.epochs": [1, 2]}, "storage": "postgresql://db/x"}},
    "a searched base": {"search": {"over": {"base": [BASE, "/srv/models/x"]}}},
    "a searched teacher": {"search": {"over": {"train.method": ["sft", {"distill": {"teacher": "secret"}}]}}},
    "a technique's file": {
        "search": {
            "techniques": {
                "a": {"set": {"data.rules.relevance": [{"rank": {"to": "goal.txt"}}]}},
                "b": {"set": {"train.epochs": 2}},
            }
        }
    },
    "a schema's file": {"postprocess": {"answers": [{"schema": {"schema": "/etc/passwd"}}]}},
    "banned words": {"postprocess": {"answers": [{"banned": {"file": "/etc/passwd"}}]}},
    "a fallback's server": {"postprocess": {"fallback": {"endpoint": {"url": "http://127.0.0.1:9/v1", "model": "m"}}}},
    "a webhook": {"monitor": {"alerts": {"webhook": {"url": "http://127.0.0.1:9/hook", "secret": "${KEY}"}}}},
    "mail": {"monitor": {"alerts": {"email": {"host": "localhost", "sender": "a@b.c", "to": ["x@y.z"]}}}},
}  # fmt: skip


@pytest.mark.parametrize("more", REACHING.values(), ids=REACHING)
def test_nothing_reaches_beyond_the_project_where_nothing_is_said(more):
    with pytest.raises(NotAllowed) as told:
        vetted(**more)
    assert "the default" in told.value.message or "the server" in told.value.message


def test_what_a_policy_names_is_allowed_and_no_more():
    site = policy(
        sources=["s3://tickets/2026", "postgresql://db/crm"],
        environment=["PW"],
        endpoints=[EndpointRule(url="http://127.0.0.1:9/v1", keys=["JUDGE_KEY"])],
    )
    vetted(site, data__sources__0__files="s3://tickets/2026/a/*.jsonl")
    vetted(site, data__sources__0={"sql": {"url": "postgresql+psycopg://u:${PW}@db/crm", "table": "t"}})
    judge = {"endpoint": "http://127.0.0.1:9/v1", "model": "m", "key": "${JUDGE_KEY}"}
    vetted(site, evaluate={"judge": {"model": judge}})
    for refused in (
        {"data__sources__0__files": "s3://tickets-of-others/a.jsonl"},
        {"data__sources__0__files": "s3://tickets/2026/../2025/a.jsonl"},
        {"data__sources__0__files": "simplecache::s3://tickets/2026/a.jsonl"},
        {"data__sources__0": {"sql": {"url": "postgresql://db/crm?host=evil", "table": "t"}}},
        {"data__sources__0": {"sql": {"url": "postgresql://u:${OTHER}@db/crm", "table": "t"}}},
        {"evaluate": {"judge": {"model": {**judge, "key": "${PW}"}}}},
        {"evaluate": {"judge": {"model": {**judge, "endpoint": "http://127.0.0.1:8/v1"}}}},
    ):
        with pytest.raises(NotAllowed):
            vetted(site, **refused)


def test_bases_methods_and_licences():
    vetted(
        policy(bases=["smollm2-*"], methods=["sft"], licences=["Apache-2.0", "internal"]),
        data__about={"licence": "internal"},
    )
    vetted(policy(bases=["sha256:b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"]))
    vetted(policy(bases=["known", "owner/*"], hub=["owner/*"]), base="owner/name@4f2a")
    vetted(policy(bases=["/srv/models"]), base="/srv/models/mistral")
    for refused, more in (
        (policy(bases=["mistral-*"]), {}),
        (policy(bases=["sha256:" + "0" * 64]), {}),
        (policy(bases=["owner/*"]), {"base": "owner/name"}),
        (policy(methods=["sft"]), {"train": {"method": "dpo"}}),
        (policy(methods=["sft"]), {"search": {"over": {"train.method": ["sft", "dpo"]}}}),
        (policy(licences=["MIT"]), {}),
    ):
        with pytest.raises(NotAllowed):
            vetted(refused, **more)


def test_a_class_of_data_is_for_those_who_may():
    site = policy(data={"unclassified": {}, "personal": {"roles": ["admin"], "approval": True}})
    assert vetted(site).data_class == "unclassified"
    tagged = {"data__about": {"tags": ["class:personal"]}}
    with pytest.raises(NotAllowed, match="'personal' is for admin"):
        vetted(site, **tagged)
    assert vetted(site, roles=["admin"], **tagged).data_class == "personal"
    assert site.training_needs_approval("personal") == "site"
    with pytest.raises(NotAllowed, match="of the class 'secret'"):
        vetted(site, data__about={"tags": ["class:secret"]})
    assert (
        class_of(parse(Recipe, Tree(written(data__about={"tags": ["class:b", "class:a"]}))).data.about)
        == "a+b"
    )


def test_every_release_has_the_gates_that_are_asked():
    site = policy(gates={"macro_f1": {"at_least": 0.8}})  # which nobody waives, since it does not say so
    assert site.gate_floor() == {"macro_f1": {"at_least": 0.8, "waivable": False}}
    gate = {"macro_f1": {"at_least": 0.85, "waivable": False}}
    task = {"kind": "classify"}
    vetted(site, task=task, evaluate={"gate": gate})
    for asked in ({}, {"macro_f1": {"at_least": 0.7, "waivable": False}}, {"macro_f1": {"at_least": 0.9}}):
        with pytest.raises(NotAllowed, match="macro_f1"):
            vetted(site, task=task, evaluate={"gate": asked})
    loose = policy(gates={"macro_f1": {"at_least": 0.8, "waivable": True}})
    assert loose.gate_floor() == {"macro_f1": {"at_least": 0.8}}
    vetted(loose, task=task, evaluate={"gate": {"macro_f1": {"at_least": 0.9}}})


def test_the_method_that_is_used_where_none_is_written_is_held_against_the_policy():
    narrow = policy(methods=["dpo"])
    for train in ({}, {"method": "sft"}, {"method": {"sft": {"turns": "last"}}}):
        with pytest.raises(NotAllowed, match="method 'sft'"):
            vetted(narrow, train=train)
    vetted(policy(methods=["sft"]))


def test_what_a_policy_asks_of_a_gate_its_author_does_not_waive():
    from luthier.governance.policy import judge
    from luthier.governance.waiver import Asked, grant

    site = policy(gates={"macro_f1": {"at_least": 0.8}})
    gate = {"macro_f1": {"at_least": 0.8, "waivable": False}, "accuracy": {"at_least": 0.9}}
    told = vetted(site, task={"kind": "classify"}, evaluate={"gate": gate}).written
    rules = parse(Recipe, Tree(told)).evaluate.gate
    report = {"systems": {"tuned": {"metrics": {"macro_f1": 0.1, "accuracy": 0.1}}}}
    verdicts = judge(rules, report)
    asked = lambda metric: Asked((metric,), "it is good enough for me", "ann")  # noqa: E731
    assert grant(asked("accuracy"), verdicts, "report", ())[0]
    with pytest.raises(SpecError, match="may not be waived"):
        grant(asked("macro_f1"), verdicts, "report", ())


def test_the_page_explains_every_key_of_a_policy():
    from pathlib import Path

    page = (Path(__file__).parents[2] / "docs" / "policy.md").read_text()
    assert [name for name in PolicySpec.model_fields if f"| `{name}` |" not in page] == []


def test_a_part_of_another_package_is_used_as_it_is_and_where_it_is_named(monkeypatch):
    from luthier.core import plugin
    from luthier.data.rules.drop_empty import drop_empty

    class Settings(Spec):
        folder: str = "built in"
        least: int = 1

    class Rule:
        spec = Settings

    for name in ("models", "private", "of"):
        if hasattr(drop_empty, name):
            setattr(Rule, name, getattr(drop_empty, name))

    class Point:
        dist = None

        def load(self):
            return Rule

    outside = plugin._entry_points
    monkeypatch.setattr(
        plugin, "_entry_points", lambda kind: {"acme": Point()} if kind == "rule" else outside(kind)
    )
    rules = {"data__rules": {"quality": [{"acme": {"least": 2}}]}}
    with pytest.raises(NotAllowed, match="'acme' of another package"):
        vetted(**rules)
    named = policy(parts=["rule:acme"])
    vetted(named, **rules)
    with pytest.raises(NotAllowed, match="nobody has said"):
        vetted(named, data__rules={"quality": [{"acme": {"folder": "/etc"}}]})


def test_a_catalog_without_an_address_is_a_source_by_its_name():
    glue = {"table": "db.secret", "catalog": {"type": "glue", "name": "prod"}}
    with pytest.raises(NotAllowed, match="glue://prod"):
        vetted(data__sources__0={"iceberg": glue})
    vetted(policy(sources=["glue://prod"]), data__sources__0={"iceberg": glue})


def test_what_looks_like_an_id_of_a_hub_leads_to_no_folder():
    open_ = policy(bases=["known", "acme/*"], hub=["acme/*"])
    vetted(open_, base="acme/small")
    with pytest.raises(NotAllowed, match="may not be used"):
        vetted(open_, base="acme/../../secret-model")
    told = written(base="acme/small")
    with pytest.raises(NotAllowed, match="stand for a model"):
        vet(parse(Recipe, Tree(told)), told, open_, ("trainer",), files, ["acme/small/config.json"])


def test_a_query_of_duckdb_is_not_for_others():
    source = {
        "sql": {"url": "duckdb:////srv/a.db", "query": "select * from read_text('/etc/passwd')", "key": "id"}
    }
    with pytest.raises(NotAllowed, match="any file"):
        vetted(policy(sources=["/srv", "duckdb:////srv/a.db"]), data__sources__0=source)


def test_the_default_holds_wherever_the_site_says_nothing():
    laid = Effective((("site", PolicySpec(methods=["sft"])), ("org_1", PolicySpec(sources=["/srv/data"]))))
    assert laid.source("/srv/data/x") is not None
