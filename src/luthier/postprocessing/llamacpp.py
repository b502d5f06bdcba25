"""A GGUF file in its own engine, llama.cpp, by the wheel `xllamacpp`: how it reads a conversation, and what it says next.

    ask(file, rows, conversations, context) -> Said     in a process of its own: native code that fails takes nothing down,
                                                        and its memory is gone afterwards

The engine's own server listens on loopback, on a free port, behind a key that is drawn for the occasion, for as long as it is asked.
Run as a program (python -m luthier.postprocessing.llamacpp WISH ANSWER) this file is that process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luthier.core.errors import ModelError

PACKAGE = "xllamacpp"
TOP = 64
"""Likeliest tokens that are told of each position; the others are known by their sum."""
SECONDS = 3600.0


@dataclass(frozen=True)
class Said:
    """`tokens`: of each conversation, the prompt's as the engine renders and reads it, or None with `fault` where it could not.
    `top`: of each row, of each position asked, [(token, ln p)] likeliest first. `tokens_per_s`: reading and saying together."""

    tokens: list[list[int] | None]
    fault: str | None
    top: list[list[list[tuple[int, float]]]]
    tokens_per_s: float | None


def version() -> str | None:
    """The installed wheel's version; None: it is not installed."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    try:
        return installed(PACKAGE)
    except PackageNotFoundError:
        return None


def ask(
    file: Path,
    rows: Sequence[Mapping[str, Any]],
    conversations: Sequence[Sequence[Mapping[str, Any]]],
    context: int,
    folder: Path,
) -> Said:
    """`rows`: {"ids": tokens, "at": positions whose next token is asked}. `folder` takes two small files. Raises ModelError."""
    wish, answer = folder / "wish.json", folder / "answer.json"
    told = {"model": str(file), "rows": list(rows), "conversations": list(conversations), "context": context}
    wish.write_text(json.dumps(told), encoding="utf-8")
    command = [sys.executable, "-m", __name__, str(wish), str(answer)]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(one for one in sys.path if one)}
    try:
        done = subprocess.run(  # noqa: S603 (our own module; what it reads are our own files)
            command,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
            env=environ,
            errors="replace",
        )
    except subprocess.TimeoutExpired:
        raise _fails(file, f"it did not answer within {SECONDS:.0f} s") from None
    if not answer.is_file():
        lines = [one for one in done.stderr.strip().splitlines() if "error" in one.lower()] or [
            "it ended without a word"
        ]
        raise _fails(file, lines[-1][:300])
    found = json.loads(answer.read_text(encoding="utf-8"))
    wish.unlink()
    answer.unlink()
    top = [[[(int(t), float(p)) for t, p in place] for place in row] for row in found["top"]]
    return Said(found["tokens"], found["fault"], top, found["tokens_per_s"])


def _fails(file: Path, why: str) -> ModelError:
    return ModelError(
        f"llama.cpp does not load or run {file.name}: {why}.",
        remedy="Nothing was packed; the trained model is kept. Leave this form out, and report this.",
    )


# -- in the process of its own -----------------------------------------------------------------------------------------------


def _answer(wish: Mapping[str, Any]) -> dict[str, Any]:
    import secrets
    import time

    import xllamacpp

    key = secrets.token_hex(16)
    settings = xllamacpp.CommonParams()
    settings.model.path = wish["model"]
    longest = max((len(row["ids"]) for row in wish["rows"]), default=0)
    settings.n_ctx = min(wish["context"], max(512, longest + 64))
    settings.n_parallel, settings.warmup, settings.verbosity, settings.ui = 1, False, 0, False
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = _threads()
    settings.hostnames, settings.port, settings.api_keys = ["127.0.0.1"], 0, [key]
    settings.use_jinja, settings.cache_ram_mib = True, 0
    server = xllamacpp.Server(settings)
    tokens, fault = [], None
    for conversation in wish["conversations"]:
        try:
            prompt = _post(server.listening_address, key, "/apply-template", {"messages": conversation})[
                "prompt"
            ]
            body = {"content": prompt, "add_special": True, "parse_special": True}
            tokens.append(_post(server.listening_address, key, "/tokenize", body)["tokens"])
        except OSError as error:  # urllib's errors derive from it
            tokens.append(None)
            fault = fault or str(error)
    # A token that ends the turn, or is only part of a character, would come without probabilities. They are the model's own, from
    # before sampling, so whatever is sampled is pushed to one that is neither.
    letter = _post(server.listening_address, key, "/tokenize", {"content": "a", "add_special": False})[
        "tokens"
    ][0]
    began, read = time.monotonic(), 0
    top = []
    for row in wish["rows"]:
        places = []
        for at in row["at"]:
            body = {
                "prompt": row["ids"][: at + 1],
                "n_predict": 1,
                "n_probs": TOP,
                "temperature": 0,
                "cache_prompt": True,
                "logit_bias": [[letter, 1000.0]],
            }
            told = server.handle_completions(body)["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
            places.append([[one["id"], one["logprob"]] for one in told])
        read += len(row["ids"])
        top.append(places)
    seconds = time.monotonic() - began
    return {"tokens": tokens, "fault": fault, "top": top, "tokens_per_s": read / seconds if read else None}


def _threads() -> int:
    """Never more than there are cores: its threads wait for each other by spinning."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _post(address: str, key: str, path: str, body: Mapping[str, Any]) -> Any:
    from urllib.request import ProxyHandler, Request, build_opener

    request = Request(  # noqa: S310 (the address is the server's own, on loopback)
        address + path,
        json.dumps(body).encode(),
        {"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
    )
    with build_opener(ProxyHandler({})).open(request, timeout=600) as answer:
        return json.load(answer)


if __name__ == "__main__":
    _asked, _told = map(Path, sys.argv[1:])
    _done = json.dumps(_answer(json.loads(_asked.read_text(encoding="utf-8"))))
    _told.write_text(_done, encoding="utf-8")
    os._exit(0)  # the engine's threads end with it, whatever they are at
