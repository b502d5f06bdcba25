"""Rows, base model and blobs on S3: the whole line through s3fs, against a server on this machine."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time

import pytest


@pytest.fixture
def bucket(monkeypatch):
    pytest.importorskip("s3fs", reason="s3fs is not installed (pip install 'luthier[s3]')")
    pytest.importorskip("moto", reason="moto is not installed (pip install 'moto[server]')")
    import s3fs

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    try:
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.2)
        s3fs.S3FileSystem.clear_instance_cache()
        fs = s3fs.S3FileSystem()
        fs.mkdir("company", region_name="eu-west-1")
        yield fs
    finally:
        server.kill()
        server.wait()
        s3fs.S3FileSystem.clear_instance_cache()


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
