"""Policy, approvals, budgets and usage over HTTP, and what served models cost whom."""

import csv
import io
import time

import pytest
from fastapi.testclient import TestClient

from luthier.app.sheets import as_csv, as_xlsx, cell
from luthier.app.spending import spend, whose_of
from luthier.core.errors import SpecError
from luthier.core.units import Money
from luthier.cost.quota import MICRO
from luthier.server.platform.make import create_platform
from luthier.server.platform.served import Served
from luthier.server.served import ServedModel
from luthier.serving.scripted_engine import ScriptedEngine
from luthier.store.budgets import Use, Whose

V1 = "/luthier/v1"


def bearer(key):
    return {"authorization": f"Bearer {key}"}


def test_a_policy_is_laid_down_and_shown(client, site, key_of):
    laid = client.put(f"{V1}/policy/project", json={"yaml": "methods: [sft]", "reason": "less"}).json()
    assert laid["data"] == {"methods": ["sft"]} and laid["object"] == "luthier.policy"
    assert client.get(f"{V1}/policy").json()["rules"]["methods"] == [
        {"from": laid["scope"], "value": ["sft"]}
    ]
    assert client.get(f"{V1}/policy/site").json()["data"] is None
    assert [one["reason"] for one in client.get(f"{V1}/policy/project/history").json()["data"]] == ["less"]
    for body, code in (
        ({"yaml": "methods: [sft]"}, "missing_required_parameter"),
        ({"yaml": "nothing: 1", "reason": "x"}, "invalid_value"),
        ({"yaml": "sources: [/srv]", "reason": "x"}, "invalid_value"),
        ({"yaml": "methods: [sft]", "reason": "x", "more": 1}, "unknown_parameter"),
    ):
        answer = client.put(f"{V1}/policy/project", json=body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, code)
    for scope in ("organisation", "site"):  # the key reaches its project alone
        assert (
            client.put(f"{V1}/policy/{scope}", json={"yaml": "methods: [sft]", "reason": "x"}).status_code
            == 403
        )
    assert client.get(f"{V1}/policy", headers=bearer(key_of("viewer"))).status_code == 403
    assert client.put(f"{V1}/policy/project", headers=bearer(key_of("trainer")), json={}).status_code == 403


def test_a_release_is_asked_for_and_granted_by_another(client, key_of, released):
    trainer, deployer = bearer(key_of("trainer")), bearer(key_of("deployer"))
    body = {"kind": "release", "subject": released("router"), "reason": "better"}
    asked = client.post(f"{V1}/approvals", json=body, headers=trainer).json()
    assert (asked["state"], asked["object"]) == ("open", "luthier.approval")
    again = client.post(f"{V1}/approvals", json=body, headers=trainer)
    assert again.status_code == 409
    at = f"{V1}/approvals/{asked['id']}"
    assert client.post(f"{at}/grant", json={"reason": "mine"}, headers=trainer).status_code == 403
    assert client.post(f"{at}/grant", json={}, headers=deployer).status_code == 400
    assert client.post(f"{at}/grant", json={"reason": "fine"}, headers=deployer).json()["state"] == "granted"
    assert client.post(f"{at}/withdraw", json={"reason": "late"}, headers=trainer).status_code == 409
    assert client.get(f"{V1}/approvals?state=granted&limit=1").json()["data"][0]["id"] == asked["id"]
    assert client.get(f"{V1}/approvals?after={asked['id']}").json()["data"] == []
    assert client.get(f"{V1}/approvals/appr-none").status_code == 404
    assert client.get(f"{V1}/approvals?state=lost").status_code == 400


def test_budgets_are_set_changed_and_ended(client, key_of):
    made = client.post(f"{V1}/budgets", json={"scope": "project", "unit": "money:EUR", "amount": 10}).json()
    assert (made["amount"], made["left"], made["alerts"], made["exhausted"]) == (
        10,
        10,
        [0.5, 0.8, 1.0],
        False,
    )
    at = f"{V1}/budgets/{made['id']}"
    assert client.post(at, json={"amount": 20}).json()["amount"] == 20
    assert client.post(at, json={}).status_code == 400
    assert [one["id"] for one in client.get(f"{V1}/budgets").json()["data"]] == [made["id"]]
    for wrong in (
        {"scope": "org_x"},  # which there is not, or not for him
        {"unit": "euros"},
        {"amount": -1},
        {"amount": "5"},
        {"period": "week"},
        {"alerts": [0]},
    ):
        answer = client.post(
            f"{V1}/budgets", json={"scope": "project", "unit": "tokens", "amount": 5, **wrong}
        )
        assert answer.status_code in (400, 403, 404), wrong
    assert client.post(f"{V1}/budgets", json={}, headers=bearer(key_of("trainer"))).status_code == 403
    assert client.delete(at).json()["deleted"] is True
    assert client.delete(at).status_code == 404


@pytest.fixture
def used(site, first_key):
    caller = site.check(first_key)
    whose = Whose(caller.organisation, caller.project, caller.user, caller.key_id)
    with site.store.database.transaction() as connection:
        spend(site, connection, [
            Use(1_795_000_000.0, "2026-11", whose, "served", "tokens", 5 * MICRO, model='=HYPERLINK("http://x")'),
            Use(1_795_000_000.0, "2026-11", whose, "fine_tune", "money:EUR", 2_500_000, job="job-1", model="m"),
        ])  # fmt: skip
    return caller


def test_usage_as_json_csv_and_workbook(client, used, key_of, tmp_path):
    rows = client.get(f"{V1}/usage?by=model,day&month=2026-11").json()["data"]
    assert {(one["model"], one["day"], one["unit"], one["amount"]) for one in rows} == {
        ('=HYPERLINK("http://x")', "2026-11-18", "tokens", 5.0), ("m", "2026-11-18", "money:EUR", 2.5),
    }  # fmt: skip
    answer = client.get(f"{V1}/usage?by=model&format=csv&unit=tokens")
    assert answer.headers["content-type"].startswith("text/csv")
    assert list(csv.reader(io.StringIO(answer.text))) == [
        ["model", "unit", "amount"],
        ['\'=HYPERLINK("http://x")', "tokens", "5.0"],
    ]
    assert client.get(f"{V1}/usage?by=&month=2026-12").json()["data"] == []
    for wrong in ("by=planet", "by=day,day", "month=2026", "unit=x", "format=pdf", "for=me", "by=day&by=day"):
        assert client.get(f"{V1}/usage?{wrong}").status_code == 400, wrong
    assert client.get(f"{V1}/usage", headers=bearer(key_of("trainer"))).status_code == 403
    assert client.get(f"{V1}/usage", headers=bearer(key_of("auditor"))).status_code == 200

    pytest.importorskip("xlsxwriter", reason="XlsxWriter is not installed (pip install 'luthier[xlsx]')")
    calamine = pytest.importorskip(
        "python_calamine", reason="python-calamine is not installed (pip install 'luthier[excel]')"
    )
    book = client.get(f"{V1}/usage?by=model&format=xlsx")
    assert book.headers["content-disposition"] == 'attachment; filename="usage-all.xlsx"'
    read = (
        calamine.CalamineWorkbook.from_filelike(io.BytesIO(book.content))
        .get_sheet_by_name("usage")
        .to_python()
    )
    assert read == [
        ["model", "unit", "amount"],
        ['\'=HYPERLINK("http://x")', "tokens", 5.0],
        ["m", "money:EUR", 2.5],
    ]
    assert b"<f>" not in sheet_of(book.content)


def sheet_of(book):
    import zipfile

    with zipfile.ZipFile(io.BytesIO(book)) as parts:
        return parts.read("xl/worksheets/sheet1.xml")


@pytest.mark.parametrize("text", ["=1", "+1", "-1", "@x", "\t=1", "\r=1", "\n=1", "  =1"])
def test_what_begins_like_a_formula_is_text(text):
    assert cell(text).startswith("'")
    assert as_csv([{"a": text}], ["a"]).splitlines()[1].lstrip(b'"').startswith(b"'")
    pytest.importorskip("xlsxwriter", reason="XlsxWriter is not installed (pip install 'luthier[xlsx]')")
    assert b"<f>" not in sheet_of(as_xlsx([{"a": text}], ["a"], "x"))


# -- served models -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def hourly():
    return None


@pytest.fixture
def asking(site, first_key, hourly):
    """A client of a server with one model, and what asks it once."""
    engine = ScriptedEngine()
    engine.load()
    model = ServedModel(
        "router", engine, package_digest="0" * 64, release="router@3", created_s=1.0, waiting=4, hourly=hourly
    )
    app = create_platform(site, {"router": model})
    with TestClient(app, base_url="http://127.0.0.1:1", headers=bearer(first_key)) as client:
        body = {"model": "router", "messages": [{"role": "user", "content": "hello there"}]}
        yield lambda **more: client.post("/v1/chat/completions", json=body, **more)


def test_each_answer_is_counted_for_its_key_project_and_model(site, first_key, asking):
    used = sum(asking().json()["usage"]["total_tokens"] for _ in range(5))
    assert used > 0
    deadline = time.monotonic() + 10
    who, rows = site.check(first_key), []
    while not rows and time.monotonic() < deadline:
        time.sleep(0.05)
        rows = site.budgets.usage(who, ["project", "user", "key", "model", "kind"])
    whose = {"project": who.project, "user": who.user, "key": who.key_id, "model": "router@3", "kind": "served"}  # fmt: skip
    assert rows == [
        {**whose, "unit": "tokens", "amount": float(used)},
        {**whose, "unit": "unpriced_answers", "amount": 5.0},  # which is not the same as nothing
    ]
    assert [one["amount"] for one in site.budgets.usage(who, [], unit="unpriced_answers")] == [5.0]
    with pytest.raises(SpecError, match="no unit"):
        site.budgets.add(who, "project", "unpriced_answers", 1)


@pytest.mark.parametrize("hourly", [Money(3600.0, "EUR")])
def test_an_answer_costs_what_the_machine_does_while_it_holds_a_slot(site, first_key, asking):
    assert asking().status_code == 200
    deadline, who, rows = time.monotonic() + 10, site.check(first_key), {}
    while not rows and time.monotonic() < deadline:
        time.sleep(0.05)
        rows = {one["unit"]: one["amount"] for one in site.budgets.usage(who, [])}
    assert set(rows) == {"tokens", "money:EUR"} and 0 < rows["money:EUR"] < 10  # a euro a second


def test_nothing_is_answered_where_nothing_is_left(site, first_key, asking, monkeypatch):
    monkeypatch.setattr("luthier.server.platform.served.LOOK_S", 0.0)
    who = site.check(first_key)
    site.budgets.add(who, who.key_id, "tokens", 10)
    assert asking().status_code == 200
    with site.store.database.transaction() as connection:
        whose = Whose(who.organisation, who.project, who.user, who.key_id)
        spend(
            site,
            connection,
            [Use(time.time(), time.strftime("%Y-%m", time.gmtime()), whose, "served", "tokens", 10 * MICRO)],
        )
    answer = asking()
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "insufficient_quota")
    assert answer.headers["x-should-retry"] == "false"
    [budget] = site.budgets.list(who)
    site.budgets.change(who, budget["id"], amount=10_000)
    assert asking().status_code == 200


def test_what_is_left_is_entered_when_the_server_stops_and_waits_while_it_cannot_be(
    site, first_key, monkeypatch
):
    from luthier.core.errors import Busy
    from luthier.server.exchange import Exchange
    from luthier.server.watch import Seen

    who, served = site.check(first_key), Served(site, flush_s=600)
    exchange = Exchange(
        "chatcmpl-1", "req_1", "router", "0" * 64, "router@3", who.key_id, None, "", (), 7, 5, ("stop",), None, None, 0.1, False,
        cost=(0.25, "EUR"),
    )  # fmt: skip
    seen = Seen(
        "req_1",
        "POST",
        "/v1/chat/completions",
        200,
        None,
        who.key_id,
        1.0,
        0.1,
        exchange,
        project=who.project,
    )
    for _ in range(3):
        served(seen)
    served(Seen("req_2", "GET", "/v1/models", 200, None, who.key_id, 1.0, 0.1, project=who.project))

    def busy(*_given):
        raise Busy("another process is writing.")

    with monkeypatch.context() as broken:
        broken.setattr("luthier.server.platform.served.spend", busy)
        served.flush()
    served.close()
    assert {(one["unit"], one["amount"]) for one in site.budgets.usage(who, [])} == {
        ("tokens", 36.0),
        ("money:EUR", 0.75),
    }
    served.close()
    assert len(site.budgets.usage(who, [])) == 2


def test_a_jobs_use_is_its_submitters(site, first_key):
    who = site.check(first_key)
    job = site.jobs.submit(who, "scripted", {"steps": 1})
    assert whose_of(site, job) == Whose(who.organisation, who.project, who.user, who.key_id)
