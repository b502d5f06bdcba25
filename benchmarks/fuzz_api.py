"""Schemathesis against the server's own description: every phase, data that fits and data that does not. Its exit status says
whether a server error, or an answer that the description does not allow, was found.

    python benchmarks/fuzz_api.py --schemathesis PATH [--examples 1500] [--seed 1] [--seconds N]

PATH is the program `schemathesis` (pip install schemathesis, in an environment of its own: it brings pins that ours has not). The
server has a scripted engine, so what is tested is everything before and after a model. Nothing of it is filtered out: NUL bytes,
lone surrogates and wrong types are among what is sent.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

from luthier.server.keys import KeyRing, generate
from luthier.server.openai import create_app
from luthier.server.serve import running
from luthier.server.served import ServedModel
from luthier.server.watch import Seen
from luthier.serving.scripted_engine import Reply, Rule, ScriptedEngine

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,response_schema_conformance"
DIGEST = "0123456789abcdef" * 4


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--schemathesis", default="schemathesis", help="the program")
    options.add_argument(
        "--examples", type=int, default=1500, help="the most cases for each operation in the fuzzing phase"
    )
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--seconds", type=int, help="a budget for the whole run")
    given = options.parse_args()
    engine = ScriptedEngine(
        [Rule("0", Reply('<tool_call>{"name": "now", "arguments": {}}</tool_call>'))],
        Reply("one two three"),
        context_tokens=100_000,
    )
    engine.load()
    text, key = generate()
    told: Counter[tuple[str, int]] = Counter()

    def count(seen: Seen) -> None:
        told[seen.route, seen.status] += 1

    models = {"router": ServedModel("router", engine, package_digest=DIGEST, release="router@3")}
    app = create_app(models, KeyRing([key]), observers=[count])
    with running(app) as url, tempfile.TemporaryDirectory() as folder:
        command = [
            given.schemathesis, "run", f"{url}/openapi.json", "-H", f"Authorization: Bearer {text}", "--phases",
            "examples,coverage,fuzzing", "--mode", "all", "--max-examples", str(given.examples), "--seed", str(given.seed),
            "--checks", CHECKS, "--continue-on-failure", "--no-color", "--warnings", "off", "--generation-database", "none",
            "--suppress-health-check", "all", "--max-failures", "50",
        ]  # fmt: skip
        if given.seconds:
            command += ["--max-time", str(given.seconds)]
        done = subprocess.run(command, cwd=Path(folder), check=False)  # noqa: S603  the program that was named
    statuses = Counter[int]()
    for (_, status), times in told.items():
        statuses[status] += times
    routes = Counter[str]()
    for (route, _), times in told.items():
        routes[route] += times
    print(json.dumps({
        "host": urlsplit(url).hostname, "requests": sum(statuses.values()), "by_status": dict(sorted(statuses.items())),
        "by_route": dict(routes.most_common()), "server_errors": sum(n for s, n in statuses.items() if s >= 500),
        "answered_by_the_engine": len(engine.requests),
    }, indent=2))  # fmt: skip
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
