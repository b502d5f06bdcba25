"""Clients that poll and follow a job while it trains on the same machine: how long they wait, what the server's memory does, what training loses.

    python benchmarks/server_load.py [--clients 200] [--minutes 60] [--poll 5] [--database postgresql://...] [--json FILE]

One server process with its own reconciler, one fine-tuning job of a real small model in a child of it. Half of the clients hold a stream of
the job's events and read each line; the other half ask every `--poll` seconds for one of what such clients ask: the job, its events, the
list of jobs, files, models. Loaded and quiet stretches take turns, so that training is compared with itself within minutes. Client and
server share the machine's cores with training; the seconds that each took are told, since in a real house clients have their own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from urllib.parse import urlsplit

from luthier.app.site import Caller, Site

MODEL = "smollm2-135m-instruct"
ROWS = 4_000
LOADED_S, QUIET_S = 240.0, 120.0
SETTLE_S = 15.0
"""Left out at the start of each stretch."""
TICKS = os.sysconf("SC_CLK_TCK")


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--clients", type=int, default=200)
    options.add_argument("--minutes", type=float, default=60.0)
    options.add_argument("--poll", type=float, default=5.0, help="seconds between two requests of one client")
    options.add_argument("--loaded", type=float, default=LOADED_S, help="seconds of a stretch with clients")
    options.add_argument("--quiet", type=float, default=QUIET_S, help="seconds of a stretch without")
    options.add_argument("--database", help="an empty PostgreSQL database; default: SQLite")
    options.add_argument("--json", type=Path, help="write what was found there")
    asked = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="luthier-load-") as folder:
        house = House.build(Path(folder), asked.database, asked.clients)
        try:
            found = asyncio.run(watch(house, asked.minutes * 60, asked.poll, asked.loaded, asked.quiet))
        finally:
            house.end()
    print("\n".join(found.lines()))
    if asked.json:
        asked.json.write_text(json.dumps(asdict(found), indent=1))
    return 1 if found.wrong else 0


# -- the house --------------------------------------------------------------------------------------------------------------


@dataclass
class House:
    """A server in a process of its own, a key for each client, and a job that trains until it is cancelled."""

    site: Site
    caller: Caller
    server: subprocess.Popen[str]
    address: tuple[str, int]
    keys: list[str]
    job: str

    @classmethod
    def build(cls, folder: Path, database: str | None, clients: int) -> House:
        environ = {**os.environ, "LUTHIER_HOME": str(folder / "site")}
        environ.pop("LUTHIER_DATABASE", None)
        if database is not None:
            environ["LUTHIER_DATABASE"] = database
        site = Site.open(environ)
        key = site.found()
        caller = site.check(key) if key else None
        assert caller is not None and caller.project is not None, "the database must be empty"
        keys = _keys(site, caller, caller.project, clients)
        command = [sys.executable, "-m", "luthier", "server", "start", "--port", "0", "--json"]
        server = subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True)  # noqa: S603
        assert server.stdout is not None
        address = urlsplit(json.loads(server.stdout.readline())["address"])
        assert address.hostname is not None and address.port is not None
        house = cls(site, caller, server, (address.hostname, address.port), keys, "")
        house.job = asyncio.run(house._train())
        return house

    async def _train(self) -> str:
        rows = "".join(json.dumps(_row(n)) + "\n" for n in range(ROWS)).encode()
        client = Client(self.address, self.keys[0])
        form = (
            b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n--x\r\nContent-Disposition: form-data; '
            b'name="file"; filename="rows.jsonl"\r\n\r\n' + rows + b"\r\n--x--\r\n"
        )
        file = await client.ask("POST", "/v1/files", form, "multipart/form-data; boundary=x")
        wish = {
            "model": MODEL, "training_file": file["id"], "seed": 1,
            "method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 100, "batch_size": 8}}},
        }  # fmt: skip
        job = await client.ask("POST", "/v1/fine_tuning/jobs", json.dumps(wish).encode())
        await client.close()
        return str(job["id"])

    def rss_bytes(self) -> int:
        status = Path(f"/proc/{self.server.pid}/status").read_text()
        return 1024 * int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])

    def cpu_s(self) -> float:
        """Of the server itself, without its children."""
        told = Path(f"/proc/{self.server.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(told[11]) + int(told[12])) / TICKS

    def steps(self) -> list[float]:
        """When each step of training was told."""
        found: list[float] = []
        after = 0
        while page := list(self.site.jobs.events(self.caller, self.job, after=after, limit=1_000)):
            after = page[-1].seq or 0
            found += [one.time_s for one in page if str(one.data.get("message")).startswith("Step ")]
        return found

    def end(self) -> None:
        with suppress(Exception):
            self.site.jobs.ask(self.caller, self.job, "cancel")
        until = time.monotonic() + 60
        while time.monotonic() < until and self.site.jobs.get(self.caller, self.job).state == "running":
            time.sleep(0.5)
        self.server.send_signal(signal.SIGTERM)
        try:
            self.server.wait(60)
        except subprocess.TimeoutExpired:
            self.server.kill()


def _keys(site: Site, caller: Caller, project: str, clients: int) -> list[str]:
    """Of service accounts, as many as hold so many keys."""
    found: list[str] = []
    while len(found) < clients:
        name = f"service {len(found)}"
        user = site.accounts.create_user(caller, "service", name, scope=project, role="trainer").id
        found += [
            site.accounts.keys.create(caller, scope=project, title=f"client {n}", user=user).text
            for n in range(min(40, clients - len(found)))
        ]
    return found


def _row(number: int) -> dict[str, object]:
    return {
        "messages": [
            {
                "role": "user",
                "content": f"Ticket {number}: the printer on floor {number % 17} does not answer.",
            },
            {"role": "assistant", "content": f"queue-{number % 17}"},
        ]
    }


# -- clients ----------------------------------------------------------------------------------------------------------------


class Client:
    """As little as HTTP/1.1 needs over one connection that is kept: what it costs is taken from training."""

    def __init__(self, address: tuple[str, int], key: str) -> None:
        self._address, self._key = address, key
        self._pair: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._last = 0

    async def ask(
        self, method: str, path: str, body: bytes = b"", kind: str = "application/json"
    ) -> dict[str, object]:
        """Raises RuntimeError for a status other than 2xx."""
        reader, status, head = await self._send(
            method, path, body, f"content-type: {kind}\r\n" if body else ""
        )
        told = await reader.readexactly(int(head["content-length"]))
        if not 200 <= status < 300:
            raise RuntimeError(f"{method} {path}: {status} {told[:200]!r}")
        found: dict[str, object] = json.loads(told) if method == "POST" else {}
        return found

    async def follow(self, path: str, heard: Counter[str]) -> None:
        """Reads a stream to its end, from where this client was when it read last."""
        more = f"accept: text/event-stream\r\nlast-event-id: {self._last}\r\n"
        reader, status, _ = await self._send("GET", path, b"", more)
        if status != 200:
            raise RuntimeError(f"GET {path}: {status}")
        while line := await reader.readline():
            if line.startswith(b"id: "):
                self._last = int(line[4:])
            elif line.startswith(b"event: "):
                heard[line[7:].strip().decode()] += 1
            elif line == b"0\r\n":
                return

    async def close(self) -> None:
        if self._pair is not None:
            self._pair[1].close()
            with suppress(OSError):
                await self._pair[1].wait_closed()
            self._pair = None

    async def _send(
        self, method: str, path: str, body: bytes, more: str
    ) -> tuple[asyncio.StreamReader, int, dict[str, str]]:
        if self._pair is None:
            self._pair = await asyncio.open_connection(*self._address)
        reader, writer = self._pair
        head = f"{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {self._key}\r\ncontent-length: {len(body)}\r\n{more}\r\n"
        writer.write(head.encode() + body)
        await writer.drain()
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        pairs = (line.partition(":") for line in lines[1:] if line)
        return reader, int(lines[0].split()[1]), {name.lower(): value.strip() for name, _, value in pairs}


@dataclass
class Stretch:
    loaded: bool
    began_s: float
    ended_s: float = 0.0
    server_cpu_s: float = 0.0
    client_cpu_s: float = 0.0
    requests: int = 0
    step_s: list[float] = field(default_factory=list)


@dataclass
class Found:
    clients: int
    poll_s: float
    latencies_ms: dict[str, dict[str, float]]
    wrong: dict[str, int]
    heard: dict[str, int]
    stretches: list[Stretch]
    rss_mb: list[tuple[float, float]]
    slower: list[float]
    """Of each loaded stretch, by how much its mean step is longer than those of its quiet neighbours."""

    def lines(self) -> list[str]:
        loaded = [one for one in self.stretches if one.loaded]
        seconds = sum(one.ended_s - one.began_s for one in loaded)
        told = [
            f"{self.clients} clients, half with a stream, half asking every {self.poll_s:g} s; {seconds:.0f} s loaded, "
            f"{sum(one.requests for one in loaded):,} requests, {sum(self.heard.values()):,} events heard",
            "what            n      p50 ms   p99 ms   longest",
        ]
        told += [
            f"{name:14} {one['n']:6.0f} {one['p50']:9.1f} {one['p99']:8.1f} {one['longest']:9.1f}"
            for name, one in sorted(self.latencies_ms.items())
        ]
        told.append(
            f"cores taken while loaded: server {sum(one.server_cpu_s for one in loaded) / seconds:.3f}, "
            f"clients {sum(one.client_cpu_s for one in loaded) / seconds:.3f}"
        )
        if self.slower:
            told.append(
                f"a step of training is longer by {100 * statistics.median(self.slower):.1f} % (median of {len(self.slower)} "
                f"loaded stretches against their quiet neighbours; {100 * min(self.slower):.1f} to {100 * max(self.slower):.1f} %)"
            )
        first, last = _minutes(self.rss_mb, 5, 10), self.rss_mb[-30:]
        told.append(
            f"server's memory: {statistics.median(m for _, m in first):.0f} MB after 5 to 10 minutes, "
            f"{statistics.median(m for _, m in last):.0f} MB in the last 5, at most {max(m for _, m in self.rss_mb):.0f} MB"
        )
        told.append(f"went wrong: {self.wrong or 'nothing'}")
        return told


def _minutes(points: Sequence[tuple[float, float]], low: float, high: float) -> Sequence[tuple[float, float]]:
    began = points[0][0]
    return [one for one in points if low * 60 <= one[0] - began <= high * 60] or points[:1]


# -- the watch --------------------------------------------------------------------------------------------------------------


class Load:
    def __init__(self, house: House, poll_s: float) -> None:
        self._poll_s = poll_s
        self._clients = [Client(house.address, key) for key in house.keys]
        self.took_ms: dict[str, list[float]] = {}
        self.wrong: Counter[str] = Counter()
        self.heard: Counter[str] = Counter()
        self.requests = 0
        job = house.job
        self._story = f"/luthier/v1/jobs/{job}/events"
        self._asks = (
            ("job", f"/v1/fine_tuning/jobs/{job}"),
            ("events", f"/v1/fine_tuning/jobs/{job}/events?limit=20"),
            ("jobs", "/v1/fine_tuning/jobs?limit=20"),
            ("files", "/v1/files?limit=20"),
            ("models", "/v1/models"),
        )

    async def poll(self, number: int, until_s: float) -> None:
        client, turn = self._clients[number], number
        await asyncio.sleep(self._poll_s * (number % 100) / 100)
        while (now := time.time()) < until_s:
            name, path = self._asks[turn % len(self._asks)]
            turn += 1
            try:
                began = time.perf_counter()
                await client.ask("GET", path)
                self.took_ms.setdefault(name, []).append(1_000 * (time.perf_counter() - began))
                self.requests += 1
            except (RuntimeError, OSError, asyncio.IncompleteReadError) as error:
                self.wrong[str(error)[:120]] += 1
                await client.close()
            await asyncio.sleep(max(0.0, min(until_s, now + self._poll_s) - time.time()))
        await client.close()

    async def follow(self, number: int, until_s: float) -> None:
        client = self._clients[number]
        with suppress(TimeoutError):
            async with asyncio.timeout(until_s - time.time()):
                try:
                    await client.follow(self._story, self.heard)
                    self.wrong["a stream ended"] += 1
                except (RuntimeError, OSError, asyncio.IncompleteReadError) as error:
                    self.wrong[str(error)[:120]] += 1
        await client.close()


async def watch(house: House, seconds: float, poll_s: float, loaded_s: float, quiet_s: float) -> Found:
    load, stretches, rss = Load(house, poll_s), [], []
    await _begun(house)
    until_s, loaded = time.time() + seconds, False
    while time.time() < until_s:
        now = time.time()
        stretch = Stretch(loaded, now, min(until_s, now + (loaded_s if loaded else quiet_s)))
        server_s, client_s, requests = house.cpu_s(), time.process_time(), load.requests
        tasks = []
        if loaded:
            many = len(house.keys)
            tasks = [
                asyncio.create_task((load.follow if n % 2 else load.poll)(n, stretch.ended_s))
                for n in range(many)
            ]
        while (left := stretch.ended_s - time.time()) > 0:
            rss.append((time.time(), house.rss_bytes() / 1e6))
            await asyncio.sleep(min(10.0, left))
        await asyncio.gather(*tasks)
        stretch.server_cpu_s, stretch.client_cpu_s = house.cpu_s() - server_s, time.process_time() - client_s
        stretch.requests = load.requests - requests
        stretches.append(stretch)
        print(
            f"{'loaded' if loaded else 'quiet '} {stretch.requests:6,} requests, {rss[-1][1]:.0f} MB",
            flush=True,
        )
        loaded = not loaded
    _with_steps(stretches, house.steps())
    told = {
        name: {"n": len(took), "p50": statistics.median(took), "p99": _p99(took), "longest": max(took)}
        for name, took in {
            **load.took_ms,
            "all": [one for took in load.took_ms.values() for one in took],
        }.items()
    }
    return Found(
        len(house.keys), poll_s, told, dict(load.wrong), dict(load.heard), stretches, rss, _slower(stretches)
    )


async def _begun(house: House) -> None:
    """Until training has made a few steps."""
    until = time.monotonic() + 900
    while len(house.steps()) < 5:
        state = house.site.jobs.get(house.caller, house.job)
        assert state.state in ("queued", "running"), state.error
        assert time.monotonic() < until, "training does not begin"
        await asyncio.sleep(2)


def _with_steps(stretches: Sequence[Stretch], steps: Sequence[float]) -> None:
    for stretch in stretches:
        within = [at for at in steps if stretch.began_s + SETTLE_S <= at <= stretch.ended_s]
        stretch.step_s = [after - before for before, after in pairwise(within)]


def _slower(stretches: Sequence[Stretch]) -> list[float]:
    found = []
    for before, stretch, after in zip(stretches, stretches[1:], stretches[2:], strict=False):
        if stretch.loaded and all(one.step_s for one in (before, stretch, after)):
            quiet = (statistics.fmean(before.step_s) + statistics.fmean(after.step_s)) / 2
            found.append(statistics.fmean(stretch.step_s) / quiet - 1)
    return found


def _p99(values: Sequence[float]) -> float:
    return sorted(values)[int(0.99 * (len(values) - 1))]


if __name__ == "__main__":
    sys.exit(main())
