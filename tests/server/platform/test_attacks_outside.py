"""Attacks that would have the platform reach beyond itself: addresses that lead inside, keys that go to another server, words that a shell or
Python would run, and one tenant's model in another's answer."""

from __future__ import annotations

import ast
import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest
from fastapi.testclient import TestClient

from luthier.app.site import Site
from luthier.server.platform.make import create_platform
from luthier.server.platform.models import ProjectRouter
from luthier.serving.scripted_engine import Reply, Rule, ScriptedEngine

SOURCE = Path(__file__).parents[3] / "src" / "luthier"
HOOKS = ("/v1/webhook_endpoints", "/luthier/v1/webhooks")


@pytest.fixture(scope="module")
def at(tmp_path_factory):
    site = Site.open({"LUTHIER_HOME": str(tmp_path_factory.mktemp("outside") / "site")})
    key = site.found()
    with TestClient(
        create_platform(site, {}), base_url="http://127.0.0.1:1", headers={"authorization": f"Bearer {key}"}
    ) as client:
        yield SimpleNamespace(site=site, key=key, client=client, who=site.check(key))


@pytest.fixture(scope="module")
def forbidden():
    """A listener that nobody may reach: its port, and how many have come."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        came = []

        def listen():
            while True:
                try:
                    line, _ = server.accept()
                except OSError:
                    return
                came.append(1)
                line.close()

        threading.Thread(target=listen, daemon=True).start()
        yield SimpleNamespace(port=server.getsockname()[1], came=came)


# -- N1: addresses --------------------------------------------------------------------------------------------------------

FORMS = [
    "http://127.0.0.1:{p}/", "http://localhost:{p}/", "https://2130706433:{p}/", "https://0x7f000001:{p}/", "https://017700000001:{p}/",
    "https://127.1:{p}/", "https://0:{p}/", "https://[::ffff:127.0.0.1]:{p}/", "https://127.0.0.1:1\\@127.0.0.1:{p}/",
    "https://user@127.0.0.1:{p}/", "https://good.example\\@127.0.0.1:{p}/", "file:///etc/passwd", "gopher://127.0.0.1:{p}/", "//127.0.0.1:{p}/",
    "https://127.0.0.1 :{p}/", "https://good.example/\r\nx: y", "https://127。0。0。1:{p}/", "javascript:alert(1)", "https://%31%32%37.0.0.1:{p}/",
]  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_n1_addresses_of_webhooks_that_are_refused_at_once(at, forbidden, form):
    url = form.format(p=forbidden.port)
    for root in HOOKS:
        made = at.client.post(
            root, json={"name": "x", "url": url, "event_types": ["fine_tuning.job.succeeded"]}
        )
        assert (made.status_code, made.json()["error"]["code"]) == (400, "invalid_value"), made.text
    assert forbidden.came == []


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "[::1]", "localhost", "169.254.169.254", "10.0.0.1", "[fd00:ec2::254]"]
)
def test_n1_addresses_that_lead_inside_are_never_connected_to(at, forbidden, host):
    """Their form is sound, so they are kept; nothing is sent there, and what is told is the same whether somebody listens or nobody."""
    told = {
        "name": "x",
        "url": f"https://{host}:{forbidden.port}/a",
        "event_types": ["fine_tuning.job.succeeded"],
    }
    made = at.client.post(HOOKS[0], json=told)
    assert made.status_code == 200, made.text
    place = f"{HOOKS[0]}/{made.json()['id']}"
    tried = at.client.post(f"{place}/test", json={"event_type": "fine_tuning.job.succeeded"})
    assert tried.status_code == 400 and "where nothing is sent" in tried.json()["error"]["message"]
    closed = at.client.post(place, json={"url": f"https://{host}:1/a"})
    assert closed.status_code == 200
    again = at.client.post(f"{place}/test", json={"event_type": "fine_tuning.job.succeeded"})
    assert again.json()["error"]["message"] == tried.json()["error"]["message"]
    assert at.client.delete(place).status_code == 200 and forbidden.came == []


RECIPE = """\
name: r
base: smollm2-135m-instruct
task: {{kind: chat}}
data: {{sources: [{{files: rows.jsonl, map: {{user: a, assistant: b}}}}]{rules}}}
{more}
"""
SENT = {
    "a judge": {"more": 'evaluate: {{judge: {{model: {{endpoint: "{url}", model: j, allow_host: "{host}", unredacted: true, key: "${{{key}}}"}}}}}}'},
    "an embedder": {"rules": ', rules: {{quality: [{{redact: pii}}], relevance: [{{rank: {{goal: x, n: 5, method: embedding, embedder: {{endpoint: {{url: "{url}", model: m, allow_host: "{host}", key: "${{{key}}}"}}}}}}}}]}}'},
    "another system": {"more": 'evaluate: {{against: [{{name: other, endpoint: "{url}", model: j, allow_host: "{host}", unredacted: true, key: "${{{key}}}"}}]}}'},
}  # fmt: skip


def written(what, url, key):
    told = {
        "rules": "",
        "more": "",
        **{
            name: text.format(url=url, key=key, host=urlsplit(url).hostname)
            for name, text in SENT[what].items()
        },
    }
    return RECIPE.format(**told)


@pytest.mark.parametrize("what", SENT)
def test_n1_servers_that_a_recipe_names(at, forbidden, what, allow):
    allow(
        at.site, environment=["THEIRS"], endpoints=[{"url": "https://judge.example/v1", "keys": ["THEIRS"]}]
    )
    for url in (f"http://127.0.0.1:{forbidden.port}/v1", "http://169.254.169.254/latest", "https://judge.example.evil.example/v1",
                "https://judge.example/v1x", "https://evil.example/https://judge.example/v1", "https://judge.example:444/v1"):  # fmt: skip
        answer = at.client.post("/luthier/v1/jobs", json={"recipe": written(what, url, "THEIRS")})
        assert answer.status_code == 403, (url, answer.text)
    assert forbidden.came == [] and at.client.get("/luthier/v1/jobs").json()["data"] == []


@pytest.mark.parametrize("what", SENT)
def test_n2_a_key_is_for_the_server_that_it_is_written_at(at, forbidden, what, allow):
    """Two servers that may be sent to, two keys that a recipe may refer to: none goes to the other's server."""
    allow(
        at.site, environment=["OURS", "THEIRS"],
        endpoints=[{"url": "https://judge.example/v1", "keys": ["THEIRS"]}, {"url": f"http://127.0.0.1:{forbidden.port}/v1", "keys": ["OURS"]}],
    )  # fmt: skip
    for url, key in (("https://judge.example/v1", "OURS"), (f"http://127.0.0.1:{forbidden.port}/v1", "THEIRS"), ("https://judge.example/v1", "PGPASSWORD")):  # fmt: skip
        answer = at.client.post("/luthier/v1/jobs", json={"recipe": written(what, url, key)})
        assert answer.status_code == 403 and key in answer.json()["error"]["message"], answer.text
    assert forbidden.came == []


# -- J1, J2: words that a shell or Python would run -----------------------------------------------------------------------

SHELL = [
    "$(touch canary)",
    "`touch canary`",
    "; touch canary",
    "| touch canary",
    "&& touch canary",
    "a\ntouch canary",
    "--help",
    "-rf",
    "$IFS",
    "%0atouch",
    "'\"\\",
]


@pytest.mark.parametrize("words", SHELL)
def test_j1_words_for_a_shell_are_words(at, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = RECIPE.format(rules="", more="")
    told = [
        ("/luthier/v1/schedules", {"title": words, "cron": "@daily", "recipe": recipe}),
        ("/luthier/v1/jobs", {"recipe": recipe.replace("name: r", f"name: {json.dumps(words)}")}),
        ("/luthier/v1/jobs", {"recipe": recipe, "sets": [f"train.method={words}"]}),
        ("/luthier/v1/jobs", {"recipe": recipe, "needs": [words]}),
        ("/luthier/v1/keys", {"title": words}),
        (
            "/luthier/v1/do/models.render",
            {"reference": words, "target": words, "image": words, "namespace": words},
        ),
        ("/luthier/v1/do/models.harness", {"reference": words, "tasks": [words]}),
    ]
    for path, body in told:
        answer = at.client.post(path, json=body)
        if answer.status_code < 300 and "title" in body:
            assert answer.json()["title"] == words
        else:
            assert answer.status_code in (202, 400, 403, 404), (path, answer.text)
    assert list(tmp_path.iterdir()) == []


def test_j1_nothing_is_given_to_a_shell():
    """In all of the source: programs are started with lists of words."""
    calls = 0
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func)
            assert name not in (
                "os.system",
                "os.popen",
                "eval",
                "exec",
                "subprocess.getoutput",
                "pickle.loads",
                "pickle.load",
            ), (path, name)
            assert not [one for one in node.keywords if one.arg == "shell"], path
            calls += name in ("subprocess.run", "subprocess.Popen")
    assert calls > 3


PYTHON = ["__import__('os').system('touch canary')", "open('canary', 'w')", "().__class__.__mro__[1].__subclasses__()", "lambda: 1", "[x for x in (1,)]", "a := 1", "{{ cycler.__init__ }}", "9 ** 9 ** 9"]  # fmt: skip


@pytest.mark.parametrize("code", PYTHON)
def test_j2_python_is_no_rule(at, code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one = {
        "type": "string_check",
        "name": "g",
        "input": "{{sample.output_text}}",
        "reference": "x",
        "operation": "eq",
    }
    graders = [
        {"type": "python", "name": "p", "source": f"def grade(sample, item):\n    {code}"},
        {"type": "multi", "name": "m", "graders": {"g": one}, "calculate_output": code},
    ]
    for grader in graders:
        for path in ("validate", "run"):
            body = {"grader": grader, **({"model_sample": "x"} if path == "run" else {})}
            answer = at.client.post(f"/v1/fine_tuning/alpha/graders/{path}", json=body)
            assert answer.status_code == 400, answer.text
    for rules in (
        f", rules: {{quality: [{{filter: {json.dumps(code)}}}]}}",
        f", rules: {{quality: [{{convert: {json.dumps(code)}}}]}}",
    ):
        answer = at.client.post("/luthier/v1/jobs", json={"recipe": RECIPE.format(rules=rules, more="")})
        assert answer.status_code == 400, answer.text
    assert list(tmp_path.iterdir()) == []


# -- I4: two tenants, one name --------------------------------------------------------------------------------------------


def test_i4_two_tenants_whose_models_have_one_name(tmp_path):
    """Streams of both, interleaved, over a router that has room for one model: each is told what its own model says."""
    site = Site.open({"LUTHIER_HOME": str(tmp_path / "site")})
    first = site.found()
    root, operator = site.check(first), site.operator()
    other = site.accounts.create_project(operator, root.organisation, "other")
    robot = site.accounts.create_user(operator, "service", "robot", scope=other.id, role="deployer")
    keys = {
        root.project: first,
        other.id: site.accounts.keys.create(operator, scope=other.id, title="k", user=robot.id).text,
    }

    def find(caller, name):
        return SimpleNamespace(
            key=(caller.project, name, "d"), name=name, created_s=0.0, plain=lambda: {"id": name}
        )

    def opened(found):
        reply = Reply(" ".join([f"of-{found.key[0]}"] * 20), token_delay_s=0.002)
        engine = ScriptedEngine(
            [Rule(lambda asked: salts.add((found.key[0], asked.cache_salt)) or True, reply)], default=reply
        )
        engine.load()
        return SimpleNamespace(engine=engine, digest="d" * 64), "router@1"

    salts: set[tuple[str, str]] = set()
    scripted = SimpleNamespace(models=SimpleNamespace(find=find, open=opened))
    router = ProjectRouter(scripted, most=1)
    body = {"model": "router", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    with TestClient(create_platform(site, router), base_url="http://127.0.0.1:1") as client:

        def ask(project):
            text = client.post(
                "/v1/chat/completions", json=body, headers={"authorization": f"Bearer {keys[project]}"}
            )
            assert text.status_code == 200, text.text
            return project, text.text

        with ThreadPoolExecutor(6) as pool:
            answers = list(pool.map(ask, [root.project, other.id] * 9))
    for project, told in answers:
        mine, theirs = (f"of-{one}" for one in sorted(keys, key=lambda one: one != project))
        assert told.count(mine) == 20 and theirs not in told
    assert salts == {
        (one, one) for one in (root.project, other.id)
    }  # what was read of a prompt is a project's own
