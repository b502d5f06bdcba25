"""Files and uploads over HTTP: what goes in comes out, faults name their lines, names are never paths, other projects see nothing."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import time
import zipfile

import pytest

from luthier.store.accounts import KeyRow, Project

LINES = [
    {"messages": [{"role": "user", "content": f"{n} + {n}?"}, {"role": "assistant", "content": str(2 * n)}]}
    for n in range(10)
]


def jsonl(lines) -> bytes:
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


def put(client, data: bytes, name: str = "rows.jsonl", purpose: str = "fine-tune", **more):
    return client.post("/v1/files", files={"file": (name, data)}, data={"purpose": purpose, **more})


@pytest.fixture
def other(site, first_key):
    """A key of another project of the same organisation."""
    from luthier.core import keys

    caller = site.check(first_key)
    text, key_id, sha256 = keys.generate()
    project = Project("proj_other", caller.organisation, "other", time.time())
    key = KeyRow(key_id, sha256, caller.user, project.id, "other", time.time())
    site.store.accounts.add(project, key, act=site.top.actor.act("project.made", project.id))
    return {"authorization": f"Bearer {text}"}


def test_a_file_goes_in_is_listed_read_and_deleted(client, site):
    made = put(client, jsonl(LINES)).json()
    assert (made["object"], made["status"], made["filename"]) == ("file", "processed", "rows.jsonl")
    assert client.get(f"/v1/files/{made['id']}").json() == made
    assert [one["id"] for one in client.get("/v1/files?purpose=fine-tune").json()["data"]] == [made["id"]]
    assert client.get(f"/v1/files/{made['id']}/content").content == jsonl(LINES)
    kept = site.top.home / "blobs" / "kept" / made["id"]
    assert kept.exists()
    gone = client.delete(f"/v1/files/{made['id']}").json()
    assert gone == {"id": made["id"], "object": "file", "deleted": True}
    assert client.get(f"/v1/files/{made['id']}").status_code == 404
    assert not kept.exists() and not list((site.top.home / "projects").rglob(".*.incoming"))


def test_pages_follow_each_other_in_both_orders_past_a_deleted_file(client):
    made = [put(client, b"x", purpose="user_data").json()["id"] for _ in range(5)]
    client.delete(f"/v1/files/{made[2]}")
    newest = client.get("/v1/files?limit=2").json()
    assert ([one["id"] for one in newest["data"]], newest["has_more"]) == ([made[4], made[3]], True)
    older = client.get(f"/v1/files?after={made[2]}&limit=9").json()
    assert [one["id"] for one in older["data"]] == [made[1], made[0]]
    assert [one["id"] for one in client.get("/v1/files?order=asc").json()["data"]] == [
        made[n] for n in (0, 1, 3, 4)
    ]
    for wrong in ("limit=10001", "limit=-1", "order=up", "what=1", "limit=1&limit=2"):
        assert client.get(f"/v1/files?{wrong}").status_code == 400
    assert client.get("/v1/files?after=file-never").status_code == 404


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"messages": []}, "not a list of messages"),
        ({"messages": [{"role": "user", "content": "a"}]}, "nothing to learn"),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 2}]}, "0 or 1"),
        ({"messages": [{"role": "user", "content": "a", "weight": 1}, {"role": "assistant", "content": "b"}]}, "only the assistant's"),
        ({"messages": [{"role": "robot", "content": "a"}, {"role": "assistant", "content": "b"}]}, "robot"),
        ({"messages": [{"role": "user", "content": 5}, {"role": "assistant", "content": "b"}]}, "neither text"),
        ({"messages": [{"role": "user", "content": "a", "mood": "x"}, {"role": "assistant", "content": "b"}]}, "mood"),
        ({"input": {"messages": [{"role": "user", "content": "a"}]}, "preferred_output": [], "non_preferred_output": []}, "form"),
    ],
)  # fmt: skip
def test_a_fault_names_its_line(client, line, said):
    made = put(client, jsonl([*LINES[:3], line, *LINES[3:]])).json()
    assert made["status"] == "error"
    assert "line 4: " in made["status_details"] and said in made["status_details"]


def test_a_broken_line_is_told_and_what_is_no_json_lines_is_refused(client):
    made = put(client, jsonl(LINES) + b'{"messages": [1, NaN]}\n').json()
    assert "line 11: " in made["status_details"]
    for data in (b"", b"text", b"\xff\xfe", b"[]", b"\x00" * 50):
        answer = put(client, data)
        assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")


def test_pairs_tools_and_items_are_known_by_their_form(client, site, first_key):
    ask = {"role": "user", "content": "a?"}
    said = lambda text: [{"role": "assistant", "content": text}]  # noqa: E731
    call = {"id": "c1", "type": "function", "function": {"name": "now", "arguments": "{}"}}
    tools = [{"type": "function", "function": {"name": "now", "parameters": {"type": "object"}}}]
    forms = {
        "preference": [{"input": {"messages": [ask]}, "preferred_output": said(f"{n}"), "non_preferred_output": said("no")} for n in range(5)],
        "reinforcement": [{"messages": [{"role": "user", "content": f"{n}?"}], "answer": str(n)} for n in range(5)],
        "chat": [{"messages": [{"role": "user", "content": f"{n}?"}, {"role": "assistant", "tool_calls": [call]}], "tools": tools} for n in range(5)],
    }  # fmt: skip
    files = site.app(site.check(first_key)).uploaded
    for form, lines in forms.items():
        made = put(client, jsonl(lines)).json()
        assert made["status"] == "processed", made["status_details"]
        assert files.check_of(made["id"]).form == form
    assert files.check_of(made["id"]).tools


TRAVERSALS = [
    "../x", "..\\x", "%2e%2e%2fx", "%252e%252e%252fx", "/etc/x", "file:/x", "//host/x", "a\x00b", "n" * 300, "..", " ", "a\nb", "\u202egpj.x",
]  # fmt: skip


@pytest.mark.parametrize("name", TRAVERSALS)
def test_a_name_that_would_be_a_path_is_refused_and_nothing_is_written(client, site, name):
    before = sorted(site.top.home.rglob("*"))
    disposition = 'form-data; name="file"; filename="' + name.replace("\\", "\\\\") + '"'
    body = f'--B\r\nContent-Disposition: {disposition}\r\n\r\nx\r\n--B\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nuser_data\r\n--B--\r\n'
    answer = client.post(
        "/v1/files", content=body.encode(), headers={"content-type": "multipart/form-data; boundary=B"}
    )
    begun = client.post(
        "/v1/uploads", json={"filename": name, "purpose": "user_data", "bytes": 1, "mime_type": "text/plain"}
    )
    assert answer.status_code == begun.status_code == 400
    assert [p for p in sorted(site.top.home.rglob("*")) if p not in before and p.is_file()] == []


@pytest.mark.parametrize("path", ["..%2f..%2fblobs", "%2e%2e", "..%252f", "file-1%00", "a%2fb"])
def test_a_path_that_would_leave_finds_nothing(client, site, path):
    canary = site.top.home / "canary"
    canary.write_text("here")
    for method in ("get", "delete"):
        assert getattr(client, method)(f"/v1/files/{path}").status_code in (404, 405)
    assert client.get(f"/v1/files/{path}/content").status_code == 404
    assert canary.read_text() == "here"


def test_an_archive_is_never_opened(client):
    zipped, tarred = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../../bomb.jsonl", b"0" * 5_000_000)
    with tarfile.open(fileobj=tarred, mode="w:gz") as archive:
        member = tarfile.TarInfo("/etc/x")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(member)
    for data in (zipped.getvalue(), tarred.getvalue()):
        assert put(client, data).status_code == 400
        kept = put(client, data, "rows.zip", "user_data").json()
        assert kept["bytes"] == len(data)


def test_another_project_sees_nothing_of_it(client, other):
    made = put(client, jsonl(LINES)).json()
    for method, path in (("get", ""), ("delete", ""), ("get", "/content")):
        found = getattr(client, method)(f"/v1/files/{made['id']}{path}", headers=other)
        never = getattr(client, method)(f"/v1/files/file-never{path}", headers=other)
        assert found.status_code == never.status_code == 404
        assert (
            found.json()["error"]["message"].replace(made["id"], "file-never")
            == never.json()["error"]["message"]
        )
    assert client.get("/v1/files", headers=other).json()["data"] == []
    assert client.get(f"/v1/files/{made['id']}").status_code == 200


def test_what_expires_goes(client, site, first_key, monkeypatch):
    more = {"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
    made = put(client, b"x", purpose="user_data", **more).json()
    assert made["expires_at"] == made["created_at"] + 3600
    for wrong in (
        {"expires_after[seconds]": "3600"},
        {**more, "expires_after[seconds]": "60"},
        {**more, "expires_after[seconds]": "x"},
    ):
        assert put(client, b"x", purpose="user_data", **wrong).status_code == 400
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 4000)
    assert client.get(f"/v1/files/{made['id']}").status_code == 404
    assert client.get("/v1/files").json()["data"] == []
    app = site.app(site.check(first_key))
    assert app.uploaded.sweep() == 1  # as housekeeping does once an hour
    assert not (site.top.home / "blobs" / "kept" / made["id"]).exists()
    assert [one.action for one in app.store.audit.read()][-1] == "file.expired"


def test_what_has_expired_makes_room(client, site, first_key, monkeypatch):
    more = {"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
    put(client, b"x" * 900, purpose="user_data", **more)
    monkeypatch.setattr("luthier.app.uploaded.MOST_BYTES", 1_500)
    refused = put(client, b"y" * 900, purpose="user_data")
    assert refused.status_code == 400 and "more than" in refused.json()["error"]["message"]
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 4000)
    assert put(client, b"y" * 900, purpose="user_data").status_code == 200
    acts = [one.action for one in site.app(site.check(first_key)).store.audit.read()]
    assert acts.count("file.expired") == 1


def test_parts_become_a_file_in_the_order_that_is_named(client, site):
    data = jsonl(LINES)
    half = len(data) // 2
    begun = client.post(
        "/v1/uploads",
        json={"filename": "a.jsonl", "purpose": "fine-tune", "bytes": len(data), "mime_type": "text/jsonl"},
    ).json()
    place = f"/v1/uploads/{begun['id']}"
    second, first = (
        client.post(f"{place}/parts", files={"data": ("x", one)}).json()["id"]
        for one in (data[half:], data[:half])
    )
    for wrong in ([first], [first, first], [first, "part_never"]):
        assert client.post(f"{place}/complete", json={"part_ids": wrong}).status_code in (400, 404)
    assert (
        client.post(f"{place}/complete", json={"part_ids": [first, second], "md5": "0" * 32}).status_code
        == 400
    )
    md5 = hashlib.md5(data).hexdigest()
    done = client.post(f"{place}/complete", json={"part_ids": [first, second], "md5": md5}).json()
    assert (done["status"], done["file"]["status"]) == ("completed", "processed")
    assert client.get(f"/v1/files/{done['file']['id']}/content").content == data
    assert client.post(f"{place}/complete", json={"part_ids": [first, second]}).status_code == 409
    assert client.post(f"{place}/parts", files={"data": ("x", b"x")}).status_code == 409
    assert client.post(f"{place}/cancel").status_code == 409
    assert [one.name for one in (site.top.home / "blobs" / "kept").iterdir()] == [done["file"]["id"]]


def test_a_cancelled_upload_leaves_nothing(client, site):
    begun = client.post(
        "/v1/uploads", json={"filename": "a", "purpose": "user_data", "bytes": 1, "mime_type": "x/y"}
    ).json()
    client.post(f"/v1/uploads/{begun['id']}/parts", files={"data": ("x", b"x")})
    assert client.post(f"/v1/uploads/{begun['id']}/cancel").json()["status"] == "cancelled"
    assert list((site.top.home / "blobs" / "kept").iterdir()) == []


def test_the_trail_tells_of_each_change_in_the_projects_own_records(client, site, first_key):
    made = put(client, b"x", purpose="user_data").json()
    client.delete(f"/v1/files/{made['id']}")
    entries = list(site.app(site.check(first_key)).store.audit.read(subject=made["id"]))
    assert [one.action for one in entries] == ["file.uploaded", "file.deleted"]
