"""A stand-in for vLLM's server: its HTTP API with a script for a model. Run like the real one, by an interpreter that takes
`-m vllm.entrypoints.openai.api_server` (a file that starts this one).

Each model says its own text (tokens: the bytes' numbers, as the tiny model's tokenizer has them), so a test sees which one answered.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ADAPTERS: dict[str, str] = {}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        assert "Authorization" not in self.headers  # what is asked so needs no key
        self._tell(200, {"version": "0.99"} if self.path == "/version" else {})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.headers.get("Authorization") != f"Bearer {os.environ['VLLM_API_KEY']}":
            self._tell(401, {"error": {"message": "no"}})
        elif self.path == "/v1/load_lora_adapter":
            if not Path(body["lora_path"], "adapter_model.safetensors").is_file():
                self._tell(400, {"error": {"message": "No adapter found"}})
                return
            ADAPTERS[body["lora_name"]] = body["lora_path"]
            self._tell(200, {})
        elif self.path == "/v1/unload_lora_adapter":
            ADAPTERS.pop(body["lora_name"], None)
            self._tell(200, {})
        elif body["model"] not in ("base", *ADAPTERS):
            self._tell(404, {"error": {"message": f"The model {body['model']} does not exist."}})
        else:
            self._stream(body)

    def _stream(self, body):
        assert all(isinstance(one, int) for one in body["prompt"])
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        text = "base says" if body["model"] == "base" else f"{Path(ADAPTERS[body['model']]).name} says"
        for n, letter in enumerate(text):
            last = n == len(text) - 1
            logprobs = {
                "tokens": [letter],
                "token_logprobs": [-0.5],
                "top_logprobs": [{letter: -0.5, "?": -2.0}],
            }
            choice = {
                "index": 0,
                "text": letter,
                "logprobs": logprobs,
                "finish_reason": "stop" if last else None,
            }
            self.wfile.write(b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n")
        self.wfile.write(b"data: [DONE]\n\n")
        self.close_connection = True

    def _tell(self, status, told):
        body = json.dumps(told).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Server(ThreadingHTTPServer):
    address_family = socket.AF_UNIX

    def server_bind(self):
        self.socket.bind(self.server_address)
        self.server_name, self.server_port = "localhost", 0


if __name__ == "__main__":
    words = sys.argv[1:]
    if "fails" in str(words[words.index("--model") + 1]):
        raise SystemExit("ValueError: this model has no such layer")
    if Path(words[words.index("--model") + 1], "slow").exists():
        time.sleep(60)
    for n in range(500):
        print("line", n, "of the log", flush=True)
    Server(words[words.index("--uds") + 1], Handler).serve_forever()
