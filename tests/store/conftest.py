"""A real PostgreSQL, started for the session from Debian's server programs; each test gets a database of its own."""

import os
import shutil
import subprocess
import uuid
from pathlib import Path

import pytest


def _server_programs() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if found:
        return found[-1].parent
    return Path(shutil.which("initdb")).parent if shutil.which("initdb") else None


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory):
    programs = _server_programs()
    if programs is None:
        pytest.skip("PostgreSQL's server programs are not installed (Debian: apt-get install postgresql)")
    folder = Path("/tmp") / f"luthier-pg-{uuid.uuid4().hex[:8]}"  # a short path: sockets allow 107 bytes
    folder.mkdir()
    as_user = []
    if os.geteuid() == 0:  # initdb refuses root
        shutil.chown(folder, "postgres", "postgres")
        as_user = ["runuser", "-u", "postgres", "--"]
    run = lambda *command: subprocess.run([*as_user, *map(str, command)], check=True, capture_output=True)  # noqa: E731
    run(programs / "initdb", "-D", folder / "data", "-U", "luthier", "-A", "trust", "--no-sync")
    run(programs / "pg_ctl", "-D", folder / "data", "-w", "-l", folder / "log",
        "-o", f"-c listen_addresses='' -c unix_socket_directories={folder} -c fsync=off", "start")  # fmt: skip
    yield folder, run
    run(programs / "pg_ctl", "-D", folder / "data", "-m", "immediate", "stop")
    shutil.rmtree(folder)


@pytest.fixture
def postgres_url(postgres_server):
    folder, run = postgres_server
    name = f"t{uuid.uuid4().hex[:12]}"
    run("psql", "-h", folder, "-U", "luthier", "-d", "postgres", "-c", f"create database {name}")
    return f"postgresql://luthier@/{name}?host={folder}"
