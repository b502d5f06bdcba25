"""The demo: from licence notices in a package to a served model that names the licence, on a laptop without a GPU.

Which of thirteen licences is this notice? Rows → rules → LoRA on SmolLM2-135M → measured against the prompted
base, the base with three examples, and a plain TF-IDF classifier → gate → release → one question over the OpenAI API.
`make demo` runs it. Everything it makes lies in .luthier/ beside the project (or in LUTHIER_HOME).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parent.parent


def main() -> int:
    os.environ.setdefault("LUTHIER_HOME", str(PROJECT / ".luthier"))
    began = time.monotonic()
    subprocess.run([sys.executable, HERE / "make_data.py"], check=True)
    recipe = HERE / "recipe.yaml"
    done = subprocess.run([sys.executable, "-m", "luthier", "run", recipe, *sys.argv[1:]], check=False)
    if done.returncode:
        return done.returncode
    question, licence = test_row("licence-notices")
    ask("licence-notices", question, licence)
    print(f"the demo took {(time.monotonic() - began) / 60:.1f} minutes")
    return 0


def test_row(name: str) -> tuple[str, str]:
    """The first row of the test split, which no training step has seen: the notice and its licence."""
    import pyarrow.parquet as pq

    from luthier.app.app import App

    app = App.open()
    dataset = app.records.show(app.records.show(name)["parents"]["dataset"])
    row = pq.read_table(Path(dataset["folder"]) / "test.parquet").slice(0, 1).to_pylist()[0]
    return next(m["content"] for m in row["messages"] if m["role"] == "user"), row["label"]


def ask(name: str, question: str, licence: str) -> None:
    """Serve the release on a free port of this machine and put one question to it with OpenAI's own client."""
    from openai import OpenAI

    server = subprocess.Popen(
        [sys.executable, "-m", "luthier", "serve", name, "--port", "0", "--json"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout is not None
        told = server.stdout.readline()
        if "base_url" not in told:
            sys.exit(f"the release could not be served: {told}{server.stdout.read()}")
        door = json.loads(told)
        with OpenAI(base_url=door["base_url"], api_key=door["api_key"]) as client:
            answer = client.chat.completions.create(
                model=name, messages=[{"role": "user", "content": question}], logprobs=True
            )
        choice = answer.choices[0]
        shown = " ".join(question.split())
        print(f"\nasked over the OpenAI API at {door['base_url']}: which licence is this notice?\n  {shown}")
        print(f"answer: {choice.message.content}   (right would be: {licence})")
        print(f"where that answer came from: luthier lineage {answer.id}")
        sys.stdout.flush()
        subprocess.run([sys.executable, "-m", "luthier", "lineage", answer.id], check=True)
    finally:
        server.terminate()
        server.wait(timeout=30)


if __name__ == "__main__":
    sys.exit(main())
