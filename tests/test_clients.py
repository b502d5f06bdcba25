"""Each example of a client, run as it stands against a real server with a scripted engine; skipped where its library is not installed."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

CLIENTS = Path(__file__).parents[1] / "examples" / "clients"
QUESTION = 'Where is my "parcel"\\?'


@pytest.fixture(scope="module")
def door():
    from luthier.server.keys import KeyRing, generate
    from luthier.server.openai import create_app
    from luthier.server.serve import running
    from luthier.server.served import ServedModel
    from luthier.serving.scripted_engine import Reply, Rule, ScriptedEngine

    engine = ScriptedEngine([Rule(QUESTION, Reply("the delivery queue"))], Reply("another question"))
    engine.load()
    text, key = generate()
    model = ServedModel("router", engine, package_digest="d" * 64, release="router@3")
    with running(create_app({"router": model}, KeyRing([key]))) as url:
        yield {"LUTHIER_URL": f"{url}/v1", "LUTHIER_KEY": text}


def run(door, command, **options):
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "PYTHONPATH") if name in os.environ}
    done = subprocess.run(
        [*command, "router", QUESTION], env={**kept, **door, "NO_PROXY": "*"}, capture_output=True, text=True, timeout=120, **options
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert door["LUTHIER_KEY"] not in done.stdout + done.stderr
    return done


def test_python(door):
    pytest.importorskip("openai")
    said = run(door, [sys.executable, CLIENTS / "ask.py"]).stdout
    assert (
        said.count("the delivery queue") == 2 and "router@3" in said and "luthier lineage chatcmpl-" in said
    )


def test_curl(door):
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    done = run(door, ["sh", CLIENTS / "ask.sh"])
    assert '"the delivery queue"' in done.stdout and "x-luthier-release: router@3" in done.stderr


def test_node(door, tmp_path, node_modules):
    shutil.copy(CLIENTS / "ask.mjs", tmp_path)
    (tmp_path / "node_modules").symlink_to(node_modules)
    said = run(door, ["node", tmp_path / "ask.mjs"]).stdout
    assert said.count("the delivery queue") == 2 and "router@3" in said


def test_langchain(door):
    beside = CLIENTS.parents[1] / ".services" / "langchain" / "bin" / "python"  # it pins an older openai
    if not beside.exists() and importlib.util.find_spec("langchain_openai") is None:
        pytest.skip(
            "langchain-openai is not installed (pip install it into the environment .services/langchain)"
        )
    said = run(door, [beside if beside.exists() else sys.executable, CLIENTS / "ask_langchain.py"]).stdout
    assert said.count("the delivery queue") == 3
