"""Rows, base model and blobs on S3: the whole line through s3fs, against a server on this machine."""

from __future__ import annotations

import json


def test_the_line_runs_with_everything_on_s3(workshop, bucket, monkeypatch):
    bucket.put_file(str(workshop.folder / "rows.jsonl"), "company/rows.jsonl")
    for path in (workshop.folder / "tiny").iterdir():
        bucket.put_file(str(path), f"company/tiny/{path.name}")
    monkeypatch.setenv("BUCKET", "company")
    monkeypatch.setenv("LUTHIER_BLOBS", "s3://${BUCKET}/blobs")
    on_s3 = ("--set", "data.sources.0.files='s3://${BUCKET}/rows.jsonl'", "--set", "base=s3://company/tiny")
    done = workshop.run(*on_s3)
    assert done["release"] == "router@1"
    assert not (workshop.home / "blobs").exists()
    shown = json.loads(workshop.luthier("show", done["digests"]["model"], "--json").stdout)
    assert {f["sha256"] for f in shown["files"]} <= {
        name.rpartition("/")[2] for name in bucket.find("company/blobs")
    }
    assert workshop.run(*on_s3)["made"] == []
    dataset = workshop.luthier("show", done["digests"]["dataset"], "--json").stdout
    assert "${BUCKET}" in dataset and "hunter2" not in dataset  # recorded as written, never as resolved
