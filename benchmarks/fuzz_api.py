"""Schemathesis against the server's own description: every phase, data that fits and data that does not. Its exit status says
whether a server error, or an answer that the description does not allow, was found.

    python benchmarks/fuzz_api.py --schemathesis PATH [--platform] [--examples 1500] [--seed 1] [--seconds N]

PATH is the program `schemathesis` (pip install schemathesis, in an environment of its own: it brings pins that ours has not). The
served model is a scripted engine, so what is tested is everything before and after a model. Nothing of what is sent is filtered out: NUL
bytes, lone surrogates and wrong types are among it. `--platform`: all routes of `luthier server`, of a site with one object of each kind,
whose ids are among what stands in paths, as its admin; nothing takes jobs from the queue.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from luthier.app.site import Site
from luthier.governance.access import SITE
from luthier.server.keys import KeyRing, generate
from luthier.server.openai import create_app
from luthier.server.platform.make import create_platform
from luthier.server.serve import running
from luthier.server.served import ServedModel
from luthier.server.watch import Observer, Seen
from luthier.serving.scripted_engine import Reply, Rule, ScriptedEngine

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,response_schema_conformance"
DIGEST = "0123456789abcdef" * 4
EVAL: dict[str, Any] = {
    "data_source_config": {"type": "custom", "item_schema": {"type": "object", "properties": {"q": {"type": "string"}}}},
    "testing_criteria": [{"type": "string_check", "name": "same", "input": "{{item.q}}", "reference": "x", "operation": "eq"}],
}  # fmt: skip
RUN = {
    "data_source": {"type": "jsonl", "source": {"type": "file_content", "content": [{"item": {"q": "x"}}]}}
}
RECIPE = "name: r\nbase: tiny-1\ndata: {sources: [{files: rows.jsonl, map: {user: q, assistant: a}}]}\n"


@dataclass
class Door:
    """What is fuzzed. `ids`: for a parameter of a path, what exists."""

    url: str
    key: str
    ids: dict[str, list[str]]


@contextmanager
def served(models: dict[str, ServedModel], observers: list[Observer]) -> Iterator[Door]:
    text, key = generate()
    with running(create_app(models, KeyRing([key]), observers=observers)) as url:
        yield Door(url, text, {})


@contextmanager
def platform(models: dict[str, ServedModel], observers: list[Observer]) -> Iterator[Door]:
    with tempfile.TemporaryDirectory() as folder:
        site = Site.open({"LUTHIER_HOME": folder})
        key = site.found()
        assert key is not None
        with running(create_platform(site, models, observers=observers)) as url:
            yield Door(url, key, seeded(site, url, key))


def seeded(site: Site, url: str, key: str) -> dict[str, list[str]]:
    """One object of each kind. What is deleted is deleted: of whoever asks, and of where he asks, there are others beside."""
    operator = site.operator()
    organisation = site.accounts.create_organisation(operator, "another")
    project = site.accounts.create_project(operator, organisation.id, "another")
    user = site.accounts.create_user(operator, "service", "robot", scope=project.id, role="viewer")
    other = site.accounts.keys.create(operator, scope=project.id, title="another", user=user.id)
    with httpx.Client(base_url=url, headers={"authorization": f"Bearer {key}"}, timeout=60.0) as client:

        def made(path: str, body: dict[str, Any]) -> dict[str, Any]:
            answer = client.post(path, json=body)
            answer.raise_for_status()
            told: dict[str, Any] = answer.json()
            return told

        file = client.post("/v1/files", files={"file": ("a.txt", b"x")}, data={"purpose": "user_data"})
        file.raise_for_status()
        sent = client.post(
            "/luthier/v1/passing", content=b"x", headers={"content-type": "application/octet-stream"}
        )
        sent.raise_for_status()
        upload = {"filename": "a", "purpose": "user_data", "bytes": 9, "mime_type": "text/plain"}
        evaluation = made("/v1/evals", EVAL)["id"]
        hook = {"name": "a", "url": "https://127.0.0.1/a", "event_types": ["fine_tuning.job.succeeded"]}
        budget = {"scope": "project", "unit": "gpu_hours", "amount": 1000.0}
        jobs = [site.jobs.submit(site.check(key), "fine_tune", {"n": 1}).id for _ in range(2)]  # type: ignore[arg-type]
        return {
            "organisation_id": [organisation.id], "project_id": [project.id], "user_id": [user.id], "key_id": [other.key.id],
            "scope": [project.id, SITE, "project"], "role": ["viewer"], "file_id": [file.json()["id"]],
            "sha256": [sent.json()["sha256"]], "upload_id": [made("/v1/uploads", upload)["id"]], "eval_id": [evaluation],
            "run_id": [made(f"/v1/evals/{evaluation}/runs", RUN)["id"]], "webhook_id": [made("/v1/webhook_endpoints", hook)["id"]],
            "budget_id": [made("/luthier/v1/budgets", budget)["id"]], "job_id": jobs, "model_id": ["router"],
        }  # fmt: skip


def with_ids(description: dict[str, Any], ids: dict[str, list[str]]) -> dict[str, Any]:
    """The description, with what exists beside any text where a path has a parameter."""
    for path in description["paths"].values():
        for operation in path.values():
            for one in operation.get("parameters", ()):
                if one["in"] == "path" and (there := ids.get(one["name"])):
                    one["schema"] = {"anyOf": [{"enum": there}, one["schema"]]}
    return description


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--schemathesis", default="schemathesis", help="the program")
    options.add_argument(
        "--platform", action="store_true", help="all of `luthier server`, not `luthier serve` alone"
    )
    options.add_argument(
        "--examples", type=int, default=1500, help="the most cases for each operation in the fuzzing phase"
    )
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--seconds", type=int, help="a budget for the whole run")
    options.add_argument("--only", help="a regular expression of paths")
    given = options.parse_args()
    engine = ScriptedEngine(
        [Rule("0", Reply('<tool_call>{"name": "now", "arguments": {}}</tool_call>'))],
        Reply("one two three"),
        context_tokens=100_000,
    )
    engine.load()
    told: Counter[tuple[str, int]] = Counter()

    def count(seen: Seen) -> None:
        told[f"{seen.method} {seen.route}", seen.status] += 1

    models = {"router": ServedModel("router", engine, package_digest=DIGEST, release="router@3")}
    opened = platform if given.platform else served
    with opened(models, [count]) as door, tempfile.TemporaryDirectory() as folder:
        head = {"authorization": f"Bearer {door.key}"}
        description = httpx.get(f"{door.url}/openapi.json", headers=head).raise_for_status().json()
        told.clear()
        location = Path(folder, "openapi.json")
        location.write_text(json.dumps(with_ids(description, door.ids)))
        command = [
            given.schemathesis, "run", str(location), "--url", door.url, "-H", f"Authorization: {head['authorization']}", "--phases",
            "examples,coverage,fuzzing", "--mode", "all", "--max-examples", str(given.examples), "--seed", str(given.seed),
            "--checks", CHECKS, "--continue-on-failure", "--no-color", "--warnings", "off", "--generation-database", "none",
            "--suppress-health-check", "all", "--max-failures", "50", "--request-timeout", "60",
        ]  # fmt: skip
        command += ["--max-time", str(given.seconds)] if given.seconds else []
        command += ["--include-path-regex", given.only] if given.only else []
        done = subprocess.run(command, cwd=Path(folder), check=False)  # noqa: S603  the program that was named
        host = urlsplit(door.url).hostname
    statuses, routes = Counter[int](), Counter[str]()
    for (route, status), times in told.items():
        statuses[status] += times
        routes[route] += times
    print(json.dumps({
        "host": host, "requests": sum(statuses.values()), "by_status": dict(sorted(statuses.items())),
        "by_route": dict(routes.most_common()), "server_errors": sum(n for s, n in statuses.items() if s >= 500),
        "routes_that_did_something": len({route for route, status in told if status < 400}),
        "answered_by_the_engine": len(engine.requests),
    }, indent=2))  # fmt: skip
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
