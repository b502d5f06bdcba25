"""Routes of verbs and of files on their way: who may, what is refused, what is told of them."""

import hashlib

import pytest

from luthier.app.passing import KEPT_S, Passing
from luthier.core.errors import NotFound, SpecError
from luthier.core.verbs import VERBS
from luthier.governance.access import ROLES

RECIPE = {"text": "name: a\nbase: tiny\ndata: {sources: [{files: rows.jsonl}]}\n"}


@pytest.mark.parametrize("role", list(ROLES))
def test_each_role_may_ask_what_the_table_says(client, key_of, role):
    headers = {"authorization": f"Bearer {key_of(role)}"}
    for verb in VERBS.values():
        status = client.post(verb.path, json={"no": 1}, headers=headers).status_code
        assert status == (400 if verb.permission in ROLES[role] else 403), verb.name


def test_a_body_is_read_strictly(client):
    for body, param in (
        ({"reference": 3}, "reference"), ({"reference": "a", "verify": "yes"}, "verify"), ({}, "reference"),
        ({"reference": "a", "folder": "/"}, "folder"), ({"reference": "x" * 301}, "reference"),
    ):  # fmt: skip
        told = client.post("/luthier/v1/do/records.show", json=body)
        assert (told.status_code, told.json()["error"]["param"]) == (400, param)


def test_an_error_tells_our_own_clients_what_app_raised(client):
    error = client.post("/luthier/v1/do/records.show", json={"reference": "none"}).json()["error"]
    assert error["code"] == "not_found" and error["type"] == "not_found_error"
    assert error["luthier"]["kind"] == "NotFound" and error["luthier"]["message"] in error["message"]
    assert "luthier" not in client.get("/luthier/v1/do/nothing").json()["error"]


def test_a_job_of_a_verb_is_entered_once(client, site, first_key, allow):
    allow(site, bases=["known", "tiny"])
    sent = {"recipe": RECIPE}
    one, two = (
        client.post("/luthier/v1/do/recipes.run", json=sent, headers={"idempotency-key": "k"})
        for _ in range(2)
    )
    assert one.status_code == two.status_code == 202 and one.json()["id"] == two.json()["id"]
    another = {"recipe": RECIPE, "fresh": True}
    other = client.post("/luthier/v1/do/recipes.run", json=another, headers={"idempotency-key": "k"})
    assert other.status_code == 409
    (job,), _ = site.jobs.list(site.check(first_key))
    elsewhere = client.post("/luthier/v1/do/recipes.plan", json=sent, headers={"idempotency-key": "k"})
    assert elsewhere.status_code == 202 and elsewhere.json()["id"] != job.id
    assert (job.kind, job.wish["verb"], job.wish["recipe"]["text"]) == ("verb", "recipes.run", RECIPE["text"])
    at_once = client.post("/luthier/v1/do/records.listing", json={}, headers={"idempotency-key": "k"})
    assert at_once.status_code == 400


def test_a_recipe_is_looked_at_before_its_job_is_entered(client, site, first_key, allow):
    allow(site, bases=["known", "tiny"])
    for text, status, said in (
        ("name: a\nbase: tiny\n", 400, "data"),
        (RECIPE["text"].replace("rows.jsonl", "/etc/x.csv"), 403, "may not be read"),
        (RECIPE["text"].replace("rows.jsonl", '"${PGPASSWORD}.csv"'), 403, "PGPASSWORD"),
    ):
        told = client.post("/luthier/v1/do/recipes.run", json={"recipe": {"text": text}})
        assert told.status_code == status and said in told.json()["error"]["message"]
    missing = client.post(
        "/luthier/v1/do/recipes.run", json={"recipe": {**RECIPE, "files": {"rows.jsonl": "0" * 64}}}
    )
    assert missing.status_code == 404
    told = client.post(
        "/luthier/v1/do/recipes.run",
        json={"recipe": {**RECIPE}, "overrides": ["data.sources.0.files=/etc/x.csv"]},
    )
    assert told.status_code == 403
    assert site.jobs.list(site.check(first_key))[0] == []


@pytest.mark.parametrize(
    "reference", ["/etc/passwd", "rows.jsonl", "s3://bucket/x.csv", "{sql: x, query: y}", "*.csv"]
)
def test_nothing_of_the_servers_disk_is_looked_at(client, reference):
    told = client.post("/luthier/v1/do/data.inspect", json={"reference": reference})
    assert told.status_code == 400 and "a server looks at what it keeps" in told.json()["error"]["message"]


def test_whether_the_server_has_a_file_of_that_name_is_not_told(client, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secrets").write_text("id,text\n1,here\n")
    for verb in ("inspect", "advise", "search"):
        there, missing = (
            client.post(f"/luthier/v1/do/data.{verb}", json={"reference": name})
            for name in ("secrets", "nothing")
        )
        assert there.status_code == missing.status_code == 404, there.text
        assert there.text.replace("secrets", "nothing") == missing.text
    assert client.post("/luthier/v1/do/data.inspect", json={"reference": "0" * 300}).status_code == 404


def test_files_go_in_and_out_by_their_hash_and_belong_to_one_project(client, site, first_key):
    body = b"rows" * 1000
    sha256 = hashlib.sha256(body).hexdigest()
    plain = {"content-type": "application/octet-stream"}
    assert client.head(f"/luthier/v1/passing/{sha256}").status_code == 404
    told = client.post("/luthier/v1/passing", content=body, headers=plain)
    assert told.json() == {"sha256": sha256, "size_bytes": 4000}
    assert client.head(f"/luthier/v1/passing/{sha256}").status_code == 200
    came = client.get(f"/luthier/v1/passing/{sha256}")
    assert came.content == body and came.headers["repr-digest"].startswith("sha-256=:")
    for name in ("..%2f..%2fluthier.db", "0" * 63, "A" * 64):
        assert client.get(f"/luthier/v1/passing/{name}").status_code in (400, 404)
    assert client.post("/luthier/v1/passing", content=body).status_code == 415
    home = site.app(site.check(first_key)).home
    assert [path.name for path in (home / "passing").iterdir()] == [sha256]
    with pytest.raises(NotFound):
        Passing(home.parent / "proj_other").find(sha256)


def test_what_nobody_used_goes_and_what_is_too_large_leaves_nothing(tmp_path):
    passing = Passing(tmp_path)
    with passing.arriving(10) as found:
        found.write(b"abc")
    with pytest.raises(SpecError, match="more than 2 bytes"), passing.arriving(2) as too_large:
        too_large.write(b"abc")
    assert [path.name for path in (tmp_path / "passing").iterdir()] == [found.sha256]
    stat = passing.find(found.sha256).stat()
    passing.purge(stat.st_mtime + KEPT_S - 60)
    assert passing.find(found.sha256).read_bytes() == b"abc"
    passing.purge(stat.st_mtime + KEPT_S + 3600)
    with pytest.raises(NotFound):
        passing.find(found.sha256)


def test_what_is_placed_twice_is_the_same_to_whoever_looks_at_times(tmp_path):
    passing = Passing(tmp_path)
    for text in (b"abc", b"abd"):
        with passing.arriving(10) as found:
            found.write(text)
        for n in (1, 2):
            passing.place(found.sha256, tmp_path / text.decode() / str(n))
    times = [[(tmp_path / text / n).stat().st_mtime for n in "12"] for text in ("abc", "abd")]
    assert times[0][0] == times[0][1] != times[1][0] == times[1][1]


def test_every_route_is_described(client):
    told = client.get("/openapi.json").json()
    assert {verb.path for verb in VERBS.values()} <= set(told["paths"])
    show = told["paths"]["/luthier/v1/do/records.show"]["post"]
    assert show["requestBody"]["content"]["application/json"]["schema"]["$ref"].endswith("/ShowWish")
    assert "`records.read`" in show["description"] and "202" not in show["responses"]
    assert "202" in told["paths"]["/luthier/v1/do/recipes.run"]["post"]["responses"]
    assert "/luthier/v1/jobs/{job_id}" in told["paths"]
    names = [one["operationId"] for path in told["paths"].values() for one in path.values()]
    assert len(names) == len(set(names))
