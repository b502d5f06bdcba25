"""Swaps, broken versions, overload and a SIGTERM, each under load over real HTTP: what clients lost, and how long they waited.

    python benchmarks/rollout.py --swaps 200 --requests 20000

Engines are scripted and answer with their version, so an answer of one version under the name of another is seen. The server is a
process of its own; the store of rollouts is a real one; clients are asyncio tasks of one process. It says nothing of how long a real
model takes to load: only that whoever asks meanwhile is answered.

    calm       the same load without a swap, for comparison
    swaps      promote and roll back, N in all, as fast as the server follows
    broken     versions that cannot be loaded, say nothing or fail at the first question: all answers must be of the old one
    overload   five times as many clients as the server has places, engines that take 20 ms
    sigterm    a SIGTERM under load: what is under way is answered, the process ends with 0
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from luthier.app.app import App
from luthier.core.errors import ModelError

NAME = "router"
SLOTS, WAITING = 8, 32
BROKEN = ("unloadable", "mute", "failing")


# -- the server: a process of its own -----------------------------------------------------------------------------------------


def serve_here(home: Path, delay_s: float) -> None:
    """Serve NAME as `luthier serve` does, with scripted engines in place of models."""
    from luthier.server.arm import Arm
    from luthier.server.following import Followed, Following
    from luthier.server.keys import KeyRing, generate
    from luthier.server.openai import create_app
    from luthier.server.serve import serve
    from luthier.server.served import ServedModel
    from luthier.serving.scripted_engine import Reply, ScriptedEngine

    app = App.open({"LUTHIER_HOME": str(home)})

    class Versions:
        def __init__(self) -> None:
            verbs = app.rollouts
            self.current, self.reject = verbs.current, verbs.reject
            self.observe, self.review = verbs.observe, verbs.review

        def load(self, name: str, ref: str) -> ServedModel:
            kind = app.store.catalog.get(ref).spec["kind"]
            if kind == "unloadable":
                raise ModelError("the weights are torn.")
            reply = Reply(ref, first_delay_s=delay_s, fails=RuntimeError("no") if kind == "failing" else None)
            if kind == "mute":
                reply = Reply(ref, fails=RuntimeError("nothing"), fails_after=0)
            engine = ScriptedEngine(default=reply, slots=SLOTS)
            engine.requests = _Forgets()  # type: ignore[assignment]
            engine.load()
            return ServedModel(name, engine, package_digest="d" * 64, release=ref, waiting=WAITING)

    text, key = generate()
    source, at = Versions(), app.rollouts.current(NAME)
    first = at.answers if at else f"{NAME}@1"
    followed = Followed(NAME, Arm(first, source.load(NAME, first)), source)
    with Following({NAME: followed}, {}, poll_s=0.02) as router:
        door = create_app(router, KeyRing([key]))
        serve(door, port=0, on_ready=lambda url: print(json.dumps({"url": url, "key": text}), flush=True))


class _Forgets(list):  # type: ignore[type-arg]
    """The fake keeps every request it saw; over many thousands that would be the memory that is measured."""

    def append(self, _: Any) -> None:
        pass


@dataclass
class Server:
    home: Path
    delay_s: float = 0.0

    def __enter__(self) -> Server:
        command = [sys.executable, __file__, "--serve", str(self.home), "--delay", str(self.delay_s)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603  ourselves
        assert self.process.stdout is not None
        told = json.loads(self.process.stdout.readline())
        self.url, self.key = told["url"], told["key"]
        self.watched = psutil.Process(self.process.pid)
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)

    @property
    def memory_mb(self) -> float:
        return self.watched.memory_info().rss / 1e6


# -- clients ------------------------------------------------------------------------------------------------------------------


@dataclass
class Load:
    """`mixed`: answers whose text is of another version than their header says. `lost`: no answer at all."""

    codes: Counter[int] = field(default_factory=Counter)
    versions: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    mixed: int = 0
    lost: int = 0
    halt: bool = False

    @property
    def requests(self) -> int:
        return sum(self.codes.values()) + self.lost

    def plain(self) -> dict[str, Any]:
        ordered = sorted(self.seconds)

        def at(q: float) -> float | None:
            return round(1000 * ordered[min(len(ordered) - 1, int(q * len(ordered)))], 1) if ordered else None

        return {
            "requests": self.requests, "codes": dict(sorted(self.codes.items())), "versions": dict(sorted(self.versions.items())),
            "mixed": self.mixed, "lost": self.lost, "p50_ms": at(0.5), "p99_ms": at(0.99), "worst_ms": at(1.0),
        }  # fmt: skip


async def client(server: Server, number: int, load: Load) -> None:
    headers = {"authorization": f"Bearer {server.key}"}
    body = {"model": NAME, "messages": [{"role": "user", "content": "Which?"}], "user": str(number)}
    limits = httpx.Limits(max_connections=1)
    async with httpx.AsyncClient(
        base_url=server.url, headers=headers, timeout=30, trust_env=False, limits=limits
    ) as http:
        while not load.halt:
            began_s = time.monotonic()
            try:
                got = await http.post("/v1/chat/completions", json=body)
            except httpx.HTTPError:
                load.lost += not load.halt
                continue
            load.codes[got.status_code] += 1
            if got.status_code == 200:
                load.seconds.append(time.monotonic() - began_s)
                said = got.json()["choices"][0]["message"]["content"]
                load.versions[said] += 1
                load.mixed += said != got.headers["x-luthier-release"]
            elif got.status_code == 429:
                await asyncio.sleep(0.02)


async def under_load(server: Server, clients: int, work: Any) -> Load:
    """What the clients saw while `work` ran."""
    load = Load()
    tasks = [asyncio.create_task(client(server, n, load)) for n in range(clients)]
    try:
        await work(load)
    finally:
        load.halt = True
        await asyncio.gather(*tasks)
    return load


# -- what is done meanwhile ---------------------------------------------------------------------------------------------------


def version(app: App, number: int, kind: str = "good") -> str:
    key = f"{number:064x}"
    with app.store.working(key) as (out, _):
        (out / "release.json").write_text(json.dumps({"n": number}))
        made = app.store.commit("release", key, {"n": number, "kind": kind}, 1, {}, out, {})
    return str(app.store.catalog.name(NAME, made.digest))


async def settled(server: Server, wanted: str, limit_s: float = 20.0) -> None:
    """Until a fresh request is answered by the version that is wanted."""
    headers = {"authorization": f"Bearer {server.key}"}
    body = {"model": NAME, "messages": [{"role": "user", "content": "Which?"}], "user": "probe"}
    until_s = time.monotonic() + limit_s
    async with httpx.AsyncClient(base_url=server.url, headers=headers, timeout=30, trust_env=False) as http:
        while time.monotonic() < until_s:
            got = await http.post("/v1/chat/completions", json=body)
            if got.status_code == 200 and got.headers["x-luthier-release"] == wanted:
                return
            await asyncio.sleep(0.005)
    raise SystemExit(f"{wanted} did not answer within {limit_s:g} s")


def begin(app: App, ref: str) -> None:
    plan = {"canary": ["100%"], "each": 86_400, "least": 10**9}
    app.rollouts.start(ref, by="benchmark", reason="swap", plan=plan)


async def calm(home: Path, clients: int, requests: int) -> dict[str, Any]:
    async def work(load: Load) -> None:
        while load.requests < requests:
            await asyncio.sleep(0.05)

    with Server(home) as server:
        return (await under_load(server, clients, work)).plain()


async def swaps(home: Path, app: App, clients: int, count: int, requests: int) -> dict[str, Any]:
    """Promotions and rollbacks in turn, spread so that the load is as large as asked."""
    done = 0

    async def work(load: Load) -> None:
        nonlocal done
        while done < count or load.requests < requests:
            if done < count and load.requests >= requests * done / count:
                if done % 2 == 0:
                    begin(app, f"{NAME}@2")
                    await settled(server, f"{NAME}@2")
                    app.rollouts.promote(NAME, by="benchmark", reason="swap")
                else:
                    app.rollouts.roll_back(NAME, by="benchmark", reason="swap back")
                    await settled(server, f"{NAME}@1")
                done += 1
            else:
                await asyncio.sleep(0.005)

    with Server(home) as server:
        load = await under_load(server, clients, work)
        return {"swaps": done, **load.plain(), "memory_mb": round(server.memory_mb)}


async def broken(home: Path, app: App, clients: int, each: int) -> dict[str, Any]:
    refs = [version(app, 10 + n, BROKEN[n % len(BROKEN)]) for n in range(each * len(BROKEN))]
    rejected = 0

    async def work(_: Load) -> None:
        nonlocal rejected
        for ref in refs:
            begin(app, ref)
            until_s = time.monotonic() + 20
            while app.rollouts.current(NAME).state != "rejected":  # type: ignore[union-attr]
                if time.monotonic() > until_s:
                    return
                await asyncio.sleep(0.01)
            rejected += 1

    with Server(home) as server:
        load = await under_load(server, clients, work)
    return {"broken": len(refs), "rejected": rejected, **load.plain()}


async def overload(home: Path, seconds: float) -> dict[str, Any]:
    clients = 5 * (SLOTS + WAITING)
    with Server(home, delay_s=0.02) as server:
        before_mb, highest = server.memory_mb, 0.0

        async def work(_: Load) -> None:
            nonlocal highest
            until_s = time.monotonic() + seconds
            while time.monotonic() < until_s:
                highest = max(highest, server.memory_mb)
                await asyncio.sleep(0.1)

        load = await under_load(server, clients, work)
        began_s = time.monotonic()
        await settled(server, f"{NAME}@1")
        recovered_s = time.monotonic() - began_s
    return {
        "clients": clients, "places": SLOTS + WAITING, **load.plain(), "memory_before_mb": round(before_mb),
        "memory_highest_mb": round(highest), "recovered_s": round(recovered_s, 3),
    }  # fmt: skip


async def sigterm(home: Path, clients: int) -> dict[str, Any]:
    """Every client has one request under way, half of them streams, when the signal comes: each must be answered whole. Then a new
    connection must be refused, and the process end with 0."""
    with Server(home, delay_s=8.0) as server:
        headers = {"authorization": f"Bearer {server.key}"}
        body = {"model": NAME, "messages": [{"role": "user", "content": "Which?"}]}
        answered = cut = 0
        async with httpx.AsyncClient(
            base_url=server.url, headers=headers, timeout=60, trust_env=False
        ) as http:

            async def one(number: int) -> None:
                nonlocal answered, cut
                try:
                    got = await http.post("/v1/chat/completions", json=body | {"stream": number % 2 == 0})
                except httpx.HTTPError:
                    cut += 1
                    return
                whole = "[DONE]" in got.text if number % 2 == 0 else "choices" in got.json()
                answered += got.status_code == 200 and whole

            tasks = [asyncio.create_task(one(n)) for n in range(clients)]
            await asyncio.sleep(4)
            server.process.send_signal(signal.SIGTERM)
            began_s = time.monotonic()
            await asyncio.gather(*tasks)
            drained_s = time.monotonic() - began_s
        code = await asyncio.to_thread(server.process.wait, 60)
        try:
            httpx.get(f"{server.url}/healthz", trust_env=False, timeout=5)
            refused = False
        except httpx.ConnectError:
            refused = True
    return {
        "under_way": clients, "answered": answered, "cut_off": cut, "drained_s": round(drained_s, 2), "exit": code,
        "refused_after": refused,
    }  # fmt: skip


async def main_async(options: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, Any] = {"cores": len(os.sched_getaffinity(0))}
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        app = App.open({"LUTHIER_HOME": str(home)})
        for number in (1, 2):
            version(app, number)
        steps = {
            "calm": lambda: calm(home, options.clients, max(200, options.requests // 10)),
            "swaps": lambda: swaps(home, app, options.clients, options.swaps, options.requests),
            "broken": lambda: broken(home, app, options.clients, options.broken),
            "overload": lambda: overload(home, options.seconds),
            "sigterm": lambda: sigterm(home, options.clients),
        }
        for name, step in steps.items():
            if name in options.only.split(","):
                found[name] = await step()
                print(json.dumps({name: found[name]}), file=sys.stderr, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--swaps", type=int, default=200)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--broken", type=int, default=5, help="of each of the three kinds")
    parser.add_argument("--seconds", type=float, default=15.0, help="of overload")
    parser.add_argument("--only", default="calm,swaps,broken,overload,sigterm")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--delay", type=float, default=0.0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve_here(options.serve, options.delay)
        return
    print(json.dumps(asyncio.run(main_async(options)), indent=1))


if __name__ == "__main__":
    main()
