"""vLLM as a managed process: one base, adapters loaded and unloaded as it runs, named by their digests.

It wants an environment of its own (it pins many packages), so the interpreter that has it is named: --engine-set python=PATH. Its
server listens on a private socket behind a key that is drawn for the occasion; its telemetry is off; it reaches no hub. What it says is
kept in memory, the last lines only.

An adapter's name carries its digest: other weights under an old name would be answered from a stale cache (vllm-project/vllm#42125).
"""

from __future__ import annotations

import http.client
import json
import logging
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from luthier.core.errors import ModelError, SpecError
from luthier.data.egress import Door, EgressSpec, LocalConnection
from luthier.models.llamacpp import PASSED_ON
from luthier.serving.completions import CompletionsBackend
from luthier.serving.engine import Cancelled, Health, Unavailable
from luthier.serving.opening import Opening, Settings, refuse_others, whole_number
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
START_S, STOP_S, PAUSE_S, UNLOAD_S = 900.0, 20.0, 1.0, 5.0
LAST_LINES, LINE_BYTES = 200, 4_096
BASE_NAME = "base"
_BOUND = Path(__file__).with_name("bound.py")

_SERVERS: dict[tuple[Any, ...], VllmServer] = {}
_OPENING = threading.Lock()


class VllmEngine(PackageEngine):
    """Releases over one base share one process. `open` is how it is made."""

    alone = "its process takes the memory of a whole GPU"

    @staticmethod
    def check(settings: Settings) -> tuple[str, int, int]:
        """Python, streams, the largest rank. Raises as `open` does for what no model would change."""
        refuse_others(settings, "vllm", SETTINGS)
        python = settings.get("python")
        if python is None or not Path(python).is_file() or not os.access(python, os.X_OK):
            raise SpecError(
                "the engine vllm needs the interpreter of an environment that has vLLM"
                + ("." if python is None else f"; {python!r} is none."),
                remedy="Make one (python -m venv DIR; DIR/bin/pip install vllm), and write --engine-set python=DIR/bin/python.",
            )
        return (
            str(Path(python).absolute()),
            whole_number(settings, "streams", 32, 1024),
            whole_number(settings, "max_rank", 64, 512),
        )

    @classmethod
    def open(cls, what: Opening) -> VllmEngine:
        """Settings: python (the interpreter that has vLLM), streams (32), max_rank (64). Raises SpecError, ModelError."""
        python, streams, rank = cls.check(what.settings)
        if what.adapter_folder is not None:
            _refuse(what.adapter_folder, rank)
        key = (python, what.base_folder, what.dtype, streams, rank)
        with _OPENING:
            server = _SERVERS.get(key)
            if server is None:
                server = VllmServer(
                    python, what.base_folder, dtype=what.dtype, streams=streams, max_rank=rank
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
        return f"{self._called} in vLLM {self._server.version}, {self._server.dtype}; {self.slots} streams"

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
        return super().health() if self._template is None else self._server.health(self._called)

    def _door(self) -> Door:
        return replace(super()._door(), local=self._server.socket)


class VllmServer:
    """One `vllm serve`. Killed, it is started anew with the adapters that it had.

    It listens on a socket in a folder that only this user may enter: a port could be taken by anybody between our choice of it and
    vLLM's binding it, and whoever took it would be asked our questions with our key.
    """

    def __init__(self, python: str, base: Path, *, dtype: str, streams: int, max_rank: int) -> None:
        self.streams, self.dtype = streams, {"bf16": "bfloat16", "fp32": "float32"}[dtype]
        self._python, self._base, self._max_rank = python, base, max_rank
        self.key = secrets.token_hex(24)
        self.version = ""
        self._users: dict[str, int] = {}  # how many engines ask for each name
        self._adapters: dict[str, Path] = {}
        self._loaded: set[str] = set()
        self._child: subprocess.Popen[bytes] | None = None
        self._folder: Path | None = None
        self._said: deque[bytes] = deque(maxlen=LAST_LINES)
        self._fault = "not loaded"
        self._mending = False
        self._counting = threading.Lock()  # never held for long, so that nobody who leaves waits for a start
        self._changing = threading.RLock()  # held while the process starts or loads an adapter

    @property
    def pid(self) -> int | None:
        return None if self._child is None else self._child.pid

    @property
    def socket(self) -> Path:
        return (self._folder or Path()) / "s.sock"

    def spec(self, model: str) -> EgressSpec:
        if self._child is None:
            raise Unavailable(
                f"The engine vllm does not answer: {self._fault}.", remedy="Ask again in a moment."
            )
        return EgressSpec(url="http://localhost/v1", model=model, key="${VLLM_API_KEY}", timeout=3600.0)

    def health(self, name: str) -> Health:
        child = self._child
        ready = child is not None and child.poll() is None and (name == BASE_NAME or name in self._loaded)
        return Health(ready, "ready" if ready else self._fault)

    def join(self, name: str, adapter: Path | None) -> None:
        """Raises ModelError in vLLM's own words."""
        with self._counting:
            self._users[name] = self._users.get(name, 0) + 1
            if adapter is not None:
                self._adapters[name] = adapter
        try:
            with self._changing:
                if self._child is None:
                    self._start()
                if adapter is not None and name not in self._loaded:
                    self._load(name, adapter)
        except BaseException:
            self.leave(name)
            raise

    def leave(self, name: str) -> None:
        """An adapter is unloaded with the last engine that asks for it, and the process ends with the last of all, even while it is
        still being started."""
        with self._counting:
            self._users[name] -= 1
            if self._users[name]:
                return
            del self._users[name]
            self._adapters.pop(name, None)
            last = not self._users
        if last:
            with self._changing:
                if not self._users:
                    self._stop()
        elif self._child is not None and self._changing.acquire(timeout=UNLOAD_S):
            # Whoever holds it for longer starts another process, which is not told of this adapter.
            try:
                if name in self._loaded and name not in self._users:
                    self._loaded.discard(name)
                    self._post("/v1/unload_lora_adapter", {"lora_name": name})
            finally:
                self._changing.release()

    def _load(self, name: str, adapter: Path) -> None:
        status, told = self._post("/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(adapter)})
        if status != 200:
            raise ModelError(
                f"vLLM does not load the adapter: {told[:300]}.", remedy="Package the model as merged."
            )
        self._loaded.add(name)

    def command(self) -> list[str]:
        return [
            self._python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(self._base), "--served-model-name", BASE_NAME,
            "--dtype", self.dtype, "--max-num-seqs", str(self.streams),
            "--enable-lora", "--max-lora-rank", str(_rank(self._max_rank)), "--max-logprobs", "20", "--enforce-eager",
            "--structured-outputs-config", '{"backend": "guidance"}',  # the library that grammars are checked by here
            "--disable-uvicorn-access-log",
        ]  # fmt: skip

    def _start(self) -> None:
        """Raises ModelError, and Cancelled once nobody waits for it any more."""
        self._folder = Path(tempfile.mkdtemp(prefix="luthier-"))  # mode 0700
        self._loaded.clear()
        self._said.clear()
        environ = {name: os.environ[name] for name in PASSED if name in os.environ}
        child = subprocess.Popen(  # noqa: S603 (the interpreter that the user named, and our own words)
            [sys.executable, "-P", "-E", str(_BOUND), *self.command(), "--uds", str(self.socket)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**environ, **QUIET, "VLLM_API_KEY": self.key},
            cwd=self._folder,
            start_new_session=True,
        )
        listening = threading.Thread(target=_keep, args=(child, self._said), daemon=True, name="vllm-says")
        listening.start()
        try:
            self._await(child, listening)
        except BaseException:
            _end(child)
            shutil.rmtree(self._folder, ignore_errors=True)
            raise
        self._child = child
        threading.Thread(target=self._watch, args=(child,), daemon=True, name="vllm-watch").start()

    def _await(self, child: subprocess.Popen[bytes], listening: threading.Thread) -> None:
        deadline = time.monotonic() + START_S
        while True:
            if not self._users:
                raise Cancelled
            ended = child.poll() is not None
            if ended or time.monotonic() > deadline:
                listening.join(1.0 if ended else 0.0)  # its last line may still be on its way
                raise ModelError(
                    f"vLLM does not start: {self._last_words()}.",
                    remedy="Try its command by hand: " + " ".join(self.command()),
                )
            if self._get("/health")[0] == 200:
                break
            time.sleep(0.2)
        status, told = self._get("/version")
        try:
            self.version = str(json.loads(told)["version"])
        except (ValueError, KeyError, TypeError):
            raise ModelError(
                f"vLLM tells no version ({status}: {told[:100]}).", remedy="Install a current vLLM there."
            ) from None

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
            if self._mending:
                return
            self._mending = True
        while not self._mended():
            time.sleep(PAUSE_S)

    def _mended(self) -> bool:
        """Whether it answers again with every adapter that it had, or nobody uses it any more."""
        with self._changing:
            with self._counting:
                used, wanted = bool(self._users), dict(self._adapters)
            try:
                if used and self._child is None:
                    self._start()
                for name, adapter in wanted.items():
                    if name not in self._loaded:
                        self._load(name, adapter)
            except Cancelled:
                return False
            except (ModelError, OSError) as error:
                self._fault = error.message.rstrip(".") if isinstance(error, ModelError) else str(error)
                logger.error("vllm: %s", self._fault)
                return False
            self._mending = False
            return True

    def _stop(self) -> None:
        child, self._child, self._fault = self._child, None, "not loaded"
        self._loaded.clear()
        if child is not None:
            _end(child)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _get(self, path: str) -> tuple[int, str]:
        return self._ask("GET", path, None, {})

    def _post(self, path: str, body: dict[str, Any]) -> tuple[int, str]:
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        return self._ask("POST", path, json.dumps(body), headers)

    def _ask(self, method: str, path: str, body: str | None, headers: dict[str, str]) -> tuple[int, str]:
        """Status 0: nobody answers."""
        connection = LocalConnection(self.socket, timeout=300)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode(errors="replace")
        except (OSError, http.client.HTTPException) as error:
            return 0, str(error)
        finally:
            connection.close()

    def _last_words(self) -> str:
        lines = b"".join(self._said).decode(errors="replace").strip().splitlines()
        wrong: Sequence[str] = (
            [one for one in lines if "Error" in one] or lines[-1:] or ["it ended without a word"]
        )
        return wrong[-1].strip()[:300].rstrip(".")


def _keep(child: subprocess.Popen[bytes], lines: deque[bytes]) -> None:
    """What it says, read as it comes and kept as far as `lines` goes."""
    assert child.stdout is not None
    with child.stdout as said:
        while line := said.readline(LINE_BYTES):
            lines.append(line)


def _rank(rank: int) -> int:
    """vLLM takes only some."""
    return next(one for one in (8, 16, 32, 64, 128, 256, 320, 512) if one >= rank)


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
