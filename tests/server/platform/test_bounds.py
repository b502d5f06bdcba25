"""What one caller may make the server do at once: each bound is met with an answer that names it, and nobody else waits."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from luthier.app import passing
from luthier.app.passing import Passing
from luthier.core.errors import SpecError, StoreError
from luthier.server.errors import ApiError
from luthier.server.platform import files, graders, lanes
from luthier.server.platform import passing as passing_routes
from luthier.store import files as stored

GRADERS = "/v1/fine_tuning/alpha/graders/run"


def fuzzy(times, sample="{{sample.output_text}}"):
    one = {
        "type": "text_similarity",
        "input": sample,
        "reference": sample,
        "evaluation_metric": "fuzzy_match",
    }
    graders = {f"g{n}": {**one, "name": f"g{n}"} for n in range(times)}
    return {"type": "multi", "name": "m", "graders": graders, "calculate_output": "g0"}


def test_a_grader_request_that_compares_too_much_is_refused_at_once(client):
    began_s = time.monotonic()
    answer = client.post(GRADERS, json={"grader": fuzzy(20), "model_sample": "ab" * 25_000})
    assert answer.status_code == 400
    assert "50,000,000,000" in answer.json()["error"]["message"]
    assert "100,000,000" in answer.json()["error"]["message"]
    assert time.monotonic() - began_s < 5
    fine = client.post(GRADERS, json={"grader": fuzzy(2), "model_sample": "ab" * 1_000})
    assert fine.status_code == 200
    assert fine.json()["reward"] == 1.0
    assert client.post(GRADERS, json={"grader": fuzzy(1), "model_sample": "a" * 50_001}).status_code == 400


def test_a_full_lane_answers_at_once_and_is_free_again(client, monkeypatch):
    lane, over = lanes.Lane("graders", 1, 0), threading.Event()
    begun = threading.Event()

    def slow(*_):
        begun.set()
        over.wait(20)
        return {"reward": 1.0}

    monkeypatch.setattr(graders, "GRADING", lane)
    monkeypatch.setattr(graders, "graded", slow)
    body = {"grader": fuzzy(1), "model_sample": "a"}
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(client.post, GRADERS, json=body)
        assert begun.wait(10)
        answer = client.post(GRADERS, json=body)
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "2")
        assert client.get("/v1/files").status_code == 200  # others are answered meanwhile
        over.set()
        assert first.result(10).status_code == 200
    assert client.post(GRADERS, json=body).status_code == 200


def put_in(client, data=b"hello"):
    return client.post("/v1/files", data={"purpose": "user_data"}, files={"file": ("a.txt", data)})


def test_a_download_is_of_the_kept_file_and_verified(client, site, first_key):
    file = put_in(client).json()["id"]
    app = site.app(site.check(first_key))
    with app.uploaded.content(file) as (_, path):
        assert path.parent.name == "kept"
    assert path.is_file()
    assert client.get(f"/v1/files/{file}/content").content == b"hello"
    path.chmod(0o600)
    path.write_bytes(b"jello")
    assert client.get(f"/v1/files/{file}/content").status_code == 503


def test_a_project_has_so_many_downloads_and_uploads_under_way(client, monkeypatch):
    file = put_in(client).json()["id"]
    sent = client.post(
        "/luthier/v1/passing", content=b"x", headers={"content-type": "application/octet-stream"}
    )
    there = f"/luthier/v1/passing/{sent.json()['sha256']}"
    for _ in range(20):  # each gives its place back
        assert client.get(f"/v1/files/{file}/content").status_code == client.get(there).status_code == 200
    none = lanes.Slots("of nothing", 0)
    for module in (files, passing_routes):
        monkeypatch.setattr(module, "DOWNLOADS", none)
        monkeypatch.setattr(module, "UPLOADS", none)
    octets = {"content-type": "application/octet-stream"}
    answers = [
        client.get(f"/v1/files/{file}/content"), client.get(there), put_in(client),
        client.post("/luthier/v1/passing", content=b"x", headers=octets),
    ]  # fmt: skip
    assert [one.status_code for one in answers] == [429] * 4
    assert all(one.headers["retry-after"] == "2" for one in answers)


def test_slots_are_of_each_project():
    slots = lanes.Slots("uploads", 1)
    with slots.of("a"), slots.of("b"), pytest.raises(ApiError, match="1 uploads"), slots.of("a"):
        pass
    with slots.of("a"):
        pass


def test_what_is_on_its_way_has_a_bound(tmp_path, monkeypatch):
    monkeypatch.setattr(passing, "MOST_BYTES", 10)
    there = Passing(tmp_path)
    with pytest.raises(SpecError, match="11 bytes, and at most 10"), there.arriving(100, 11):
        pass
    with there.arriving(100, 6) as found:
        found.write(b"123456")
    with (
        pytest.raises(SpecError, match="12 bytes"),
        there.arriving(100) as found,
    ):  # who does not say how much
        found.write(b"abcdef")
    assert [path.stat().st_size for path in (tmp_path / "passing").iterdir()] == [6]


def test_the_disk_keeps_a_reserve(tmp_path, client, monkeypatch):
    monkeypatch.setattr(stored, "RESERVE_SHARE", 1.0)
    with pytest.raises(StoreError, match="kept for records"), Passing(tmp_path).arriving(100):
        pass
    assert put_in(client).status_code == 503
    octets = {"content-type": "application/octet-stream"}
    assert client.post("/luthier/v1/passing", content=b"x", headers=octets).status_code == 503


def test_a_file_that_is_said_to_be_too_long_is_refused_before_it_is_read(client):
    octets = {"content-type": "application/octet-stream", "content-length": str(21 * 10**9)}
    assert client.post("/luthier/v1/passing", content=iter([b"x"]), headers=octets).status_code == 413


@pytest.mark.parametrize(
    ("name", "data", "told"),
    [("a.parquet", b"PAR1", ".jsonl"), ("a.csv.gz", b"x", ".jsonl"), ("a.csv", b"id,rating", "at most 5")],
)
def test_judgements_from_afar_are_plain_and_bounded(client, monkeypatch, name, data, told):
    monkeypatch.setattr("luthier.app.verbs.MOST_JUDGED_BYTES", 5)
    octets = {"content-type": "application/octet-stream"}
    sha256 = client.post("/luthier/v1/passing", content=data, headers=octets).json()["sha256"]
    answer = client.post("/luthier/v1/do/traffic.feedback", json={"path": {"name": name, "sha256": sha256}})
    assert answer.status_code == 400
    assert told in answer.json()["error"]["message"]
    fine = client.post("/luthier/v1/passing", content=b"id", headers=octets).json()["sha256"]
    job = client.post("/luthier/v1/do/traffic.feedback", json={"path": {"name": "a.csv", "sha256": fine}})
    assert (job.status_code, job.json()["object"]) == (202, "luthier.job")
