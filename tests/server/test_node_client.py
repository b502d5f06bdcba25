"""The official client for Node, end to end."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from luthier.serving.scripted_engine import Reply, Rule, ScriptedEngine


def test_everything_that_the_client_asks(node_modules, open_door):
    rules = [Rule("call", Reply('<tool_call>{"name": "now", "arguments": {}}</tool_call>'))]
    door = open_door(ScriptedEngine(rules, Reply("one two three")))
    done = subprocess.run(
        ["node", str(Path(__file__).with_name("node_client.js"))],
        env={**os.environ, "NODE_PATH": str(node_modules), "BASE_URL": f"{door.url}/v1", "KEY": door.key},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    events = told.pop("events")
    assert told == {
        "chat": "one two three", "usage": 4, "stream": "one two three", "streamUsage": 4, "call": "now",
        "streamedCall": {"name": "now", "arguments": "{}"}, "completion": "one two three", "response": "one two three",
        "vectors": [4, 4], "models": ["router"], "error": ["NotFoundError", 404, "model_not_found", "string"],
    }  # fmt: skip
    assert (events[0], events[-1]) == ("response.created", "response.completed")
