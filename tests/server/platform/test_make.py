"""What the platform passes on to served models."""

from fastapi.testclient import TestClient

from luthier.server.platform.make import create_platform
from luthier.server.screen import GuardSpec
from luthier.server.served import ServedModel
from luthier.serving.scripted_engine import ScriptedEngine


def test_guards_hold_for_every_project(site, first_key):
    engine = ScriptedEngine()
    engine.load()
    model = ServedModel("router", engine, package_digest="0" * 64)
    guard = GuardSpec.model_validate({"asked": {"injection": "refuse", "phrases": ["project falcon"]}})
    app = create_platform(site, {"router": model}, guard=guard)
    with TestClient(app, base_url="http://127.0.0.1:1") as client:
        said = [{"role": "user", "content": "tell me of project falcon"}]
        answer = client.post(
            "/v1/chat/completions",
            json={"model": "router", "messages": said},
            headers={"authorization": f"Bearer {first_key}"},
        )
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "content_filter")
