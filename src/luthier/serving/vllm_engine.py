"""vLLM as a managed process: one base, adapters loaded and unloaded as it runs, named by their digests.

It wants an environment of its own (it pins many packages), so the interpreter that has it is named: --engine-set python=PATH. Its
server listens on loopback behind a key that is drawn for the occasion; its telemetry is off; it reaches no hub.

An adapter's name carries its digest: other weights under an old name would be answered from a stale cache (vllm-project/vllm#42125).
"""

from __future__ import annotations

import http.client
import json
import logging
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from luthier.core.errors import ModelError, SpecError
from luthier.data.egress import EgressSpec
from luthier.models.llamacpp import PASSED_ON
from luthier.serving.completions import CompletionsBackend
from luthier.serving.engine import Health, Unavailable
from luthier.serving.opening import Opening
from luthier.serving.package_engine import PackageEngine

logger = logging.getLogger("luthier.serving")

SETTINGS = ("python", "streams", "max_rank")
QUIET = {
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
}
PASSED = (*PASSED_ON, "HOME", "VLLM_CPU_KVCACHE_SPACE", "VLLM_CPU_OMP_THREADS_BIND", "VLLM_TARGET_DEVICE")
START_S, STOP_S, PAUSE_S = 900.0, 20.0, 1.0
BASE_NAME = "base"
_BOUND = Path(__file__).with_name("bound.py")

_SERVERS: dict[tuple[Any, ...], VllmServer] = {}
_OPENING = threading.Lock()


class VllmEngine(PackageEngine):
    """Releases over one base share one process. `open` is how it is made."""

    @classmethod
    def open(cls, what: Opening) -> VllmEngine:
        """Settings: python (the interpreter that has vLLM), streams (32), max_rank (64). Raises SpecError, ModelError."""
        what.refuse_settings("vllm", SETTINGS)
        python = what.settings.get("python")
        if python is None or not os.access(python, os.X_OK):
            raise SpecError(
                "the engine vllm needs the interpreter of an environment that has vLLM"
                + ("." if python is None else f"; {python!r} is none."),
                remedy="Make one (python -m venv DIR; DIR/bin/pip install vllm), and write --engine-set python=DIR/bin/python.",
            )
        streams, rank = what.settings.get("streams", "32"), what.settings.get("max_rank", "64")
        for name, value, most in (("streams", streams, 1024), ("max_rank", rank, 512)):
            if not value.isdecimal() or not 1 <= int(value) <= most:
                raise SpecError(f"{name} is {value!r}.", remedy=f"Write a whole number from 1 to {most}.")
        if what.adapter_folder is not None:
            _refuse(what.adapter_folder, int(rank))
        key = (python, what.base_folder, what.dtype, streams, rank)
        with _OPENING:
            server = _SERVERS.get(key)
            if server is None:
                server = VllmServer(
                    python, what.base_folder, dtype=what.dtype, streams=int(streams), max_rank=int(rank)
                )
                _SERVERS[key] = server
        return cls(VllmBackend(server, what), what.facts, other=what.other)


def _refuse(adapter: Path, most: int) -> None:
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    why = next(
        (
            told
            for holds, told in (
                (config.get("peft_type") == "LORA", f"it is {config.get('peft_type')}"),
                (not config.get("use_dora"), "it is DoRA"),
                ((config.get("r") or 0) <= most, f"its rank {config.get('r')} is above max_rank {most}"),
                (not (adapter / "head.safetensors").is_file(), "it has a head of its own"),
            )
            if not holds
        ),
        None,
    )
    if why:
        raise ModelError(
            f"vLLM cannot serve this adapter: {why}.",
            remedy="Package it as merged, or use --engine transformers.",
        )


class VllmBackend(CompletionsBackend):
    def __init__(self, server: VllmServer, what: Opening) -> None:
        self._server = server
        self._adapter = what.adapter_folder
        self._called = BASE_NAME if self._adapter is None else f"adapter-{what.digest[:16]}"
        super().__init__(
            "vllm",
            what.base_folder,
            slots=server.streams,
            dialect="vllm",
            spec=lambda: server.spec(self._called),
            secret=lambda _: server.key,
        )
        self._joined = False

    @property
    def told(self) -> str:
        return f"{self._called} in vLLM, {self._server.dtype}; {self.slots} streams"

    def load(self) -> None:
        super().load()
        if not self._joined:
            self._server.join(self._called, self._adapter)
            self._joined = True

    def close(self) -> None:
        super().close()
        if self._joined:
            self._joined = False
            self._server.leave(self._called)

    def health(self) -> Health:
        return super().health() if self._template is None else self._server.health()


class VllmServer:
    """One `vllm serve`. Killed, it is started anew with the adapters that it had."""

    def __init__(self, python: str, base: Path, *, dtype: str, streams: int, max_rank: int) -> None:
        self.streams, self.dtype = streams, {"bf16": "bfloat16", "fp32": "float32"}[dtype]
        self._python, self._base, self._max_rank = python, base, max_rank
        self.key = secrets.token_hex(24)
        self._adapters: dict[str, Path | None] = {}
        self._child: subprocess.Popen[bytes] | None = None
        self._folder: Path | None = None
        self._port = 0
        self._fault = "not loaded"
        self._changing = threading.RLock()

    @property
    def pid(self) -> int | None:
        return None if self._child is None else self._child.pid

    def spec(self, model: str) -> EgressSpec:
        if self._child is None:
            raise Unavailable(
                f"The engine vllm does not answer: {self._fault}.", remedy="Ask again in a moment."
            )
        return EgressSpec(
            url=f"http://127.0.0.1:{self._port}/v1", model=model, key="${VLLM_API_KEY}", timeout=3600.0
        )

    def health(self) -> Health:
        ready = self._child is not None and self._child.poll() is None
        return Health(ready, "ready" if ready else self._fault)

    def join(self, name: str, adapter: Path | None) -> None:
        """Raises ModelError in vLLM's own words."""
        with self._changing:
            if self._child is None:
                self._start()
            if adapter is not None and name not in self._adapters:
                self._load(name, adapter)
            self._adapters[name] = adapter

    def leave(self, name: str) -> None:
        """The process ends with the last one."""
        with self._changing:
            adapter = self._adapters.pop(name, None)
            if not self._adapters:
                self._stop()
            elif adapter is not None:
                self._post("/v1/unload_lora_adapter", {"lora_name": name})

    def _load(self, name: str, adapter: Path) -> None:
        status, told = self._post("/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(adapter)})
        if status != 200:
            raise ModelError(
                f"vLLM does not load the adapter: {told[:300]}.", remedy="Package the model as merged."
            )

    def command(self) -> list[str]:
        return [
            self._python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(self._base), "--served-model-name", BASE_NAME,
            "--host", "127.0.0.1", "--port", str(self._port), "--dtype", self.dtype, "--max-num-seqs", str(self.streams),
            "--enable-lora", "--max-lora-rank", str(_rank(self._max_rank)), "--max-logprobs", "20", "--enforce-eager",
            "--structured-outputs-config", '{"backend": "guidance"}',  # the library that grammars are checked by here
        ]  # fmt: skip

    def _start(self) -> None:
        self._port = _free_port()
        self._folder = Path(tempfile.mkdtemp(prefix="luthier-"))
        environ = {name: os.environ[name] for name in PASSED if name in os.environ}
        with (self._folder / "log").open("wb") as log:
            child = subprocess.Popen(  # noqa: S603 (the interpreter that the user named, and our own words)
                [sys.executable, "-P", "-E", str(_BOUND), *self.command()],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env={**environ, **QUIET, "VLLM_API_KEY": self.key},
                cwd=self._folder,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_S
        while not self._answers():
            if child.poll() is not None or time.monotonic() > deadline:
                why = self._last_words()
                _end(child)
                shutil.rmtree(self._folder, ignore_errors=True)
                raise ModelError(
                    f"vLLM does not start: {why}.",
                    remedy="Try its command by hand: " + " ".join(self.command()),
                )
            time.sleep(0.2)
        self._child = child
        threading.Thread(target=self._watch, args=(child,), daemon=True, name="vllm-watch").start()

    def _watch(self, child: subprocess.Popen[bytes]) -> None:
        status = child.wait()
        with self._changing:
            if self._child is not child:
                return
            self._child = None
            self._fault = f"its process ended (status {status}) and is started anew"
        logger.warning("vllm: %s", self._fault)
        _end(child)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        while True:
            with self._changing:
                if not self._adapters or self._child is not None:
                    return
                try:
                    self._start()
                    for name, adapter in self._adapters.items():
                        if adapter is not None:
                            self._load(name, adapter)
                    return
                except ModelError as error:
                    self._fault = f"its process does not start: {error.message}"
                    logger.error("vllm: %s", error.message)
            time.sleep(PAUSE_S)

    def _stop(self) -> None:
        child, self._child, self._fault = self._child, None, "not loaded"
        if child is not None:
            _end(child)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _answers(self) -> bool:
        try:
            return self._ask("GET", "/health", None)[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def _post(self, path: str, body: dict[str, Any]) -> tuple[int, str]:
        try:
            return self._ask("POST", path, body)
        except (OSError, http.client.HTTPException) as error:
            return 0, str(error)

    def _ask(self, method: str, path: str, body: dict[str, Any] | None) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=300)
        try:
            headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode(errors="replace")
        finally:
            connection.close()

    def _last_words(self) -> str:
        assert self._folder is not None
        lines = (self._folder / "log").read_text(encoding="utf-8", errors="replace").strip().splitlines()
        wrong: Sequence[str] = (
            [one for one in lines if "Error" in one] or lines[-1:] or ["it ended without a word"]
        )
        return wrong[-1].strip()[:300].rstrip(".")


def _rank(rank: int) -> int:
    """vLLM takes only some."""
    return next(one for one in (8, 16, 32, 64, 128, 256, 320, 512) if one >= rank)


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _end(child: subprocess.Popen[bytes]) -> None:
    """With all that it started: it works in processes of its own."""
    import signal

    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(child.pid, sign)
        except ProcessLookupError:
            break
        try:
            child.wait(STOP_S)
        except subprocess.TimeoutExpired:
            continue
    if child.stdin is not None:
        child.stdin.close()
