"""A release behind the OpenAI door, asked by OpenAI's own client; and the way back from an answer to its rows."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest


@pytest.fixture
def door(ran):
    command = [sys.executable, "-m", "luthier", "serve", "router", "--port", "0", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield json.loads(process.stdout.readline())
    finally:
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=60)
        assert process.returncode == 0 and "Traceback" not in told


def test_from_a_served_answer_back_to_the_rows(workshop, door):
    from openai import OpenAI

    with OpenAI(base_url=door["base_url"], api_key=door["api_key"]) as client:
        answer = client.chat.completions.create(
            model="router",
            messages=[{"role": "user", "content": "my parcel is late"}],
            logprobs=True,
            top_logprobs=3,
        )
    said = answer.choices[0]
    assert said.message.content in ("billing", "delivery", "technical")
    assert len(said.logprobs.content[0].top_logprobs) == 3
    traced = json.loads(workshop.luthier("lineage", answer.id, "--rows", "--json").stdout)
    assert traced["answer"]["release"] == "router@1"
    assert {"dataset", "model", "release"} <= {n["kind"] for n in traced["nodes"]}
    assert traced["row_count"] == len(traced["rows"]) > 0 and traced["rows"][0]["split"] == "train"
    # What was served is what chat says: one model, one way of asking.
    chat = json.loads(workshop.luthier("chat", "router", "--ask", "my parcel is late", "--json").stdout)
    assert chat["answer"] == said.message.content


def test_no_key_no_answer(door):
    from openai import AuthenticationError, OpenAI

    with (
        OpenAI(base_url=door["base_url"], api_key="luthier_wrong") as client,
        pytest.raises(AuthenticationError),
    ):
        client.models.list()


def test_beyond_loopback_needs_a_key(ran):
    result = ran.luthier("serve", "router", "--host", "0.0.0.0", "--port", "0")
    assert result.exit_code == 2 and "no key was chosen" in result.stderr
