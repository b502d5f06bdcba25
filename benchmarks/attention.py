"""What a shared prefix and the CPU form of attention are worth: SmolLM2-135M-Instruct, LoRA rank 16, a step's forward
and backward, interleaved, medians.

    python benchmarks/attention.py [--rounds 3] [--dtype bf16] [--model FOLDER] [--threads N] [--busy]

With --busy, one thread and processor time: what can be said on a machine that others use.

For each set of rows: apart or shared, attention by torch's kernel per segment or by blocks; seconds, tokens of the rows per
second, tokens computed, and attention's share of the time. Losses are printed because they must agree.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from luthier.models.blocked import LineAttention
from luthier.models.line import Line
from luthier.training.batches import cut
from luthier.training.methods.sft import Sft, SftSettings
from luthier.training.rows import Row, Tokens

VOCABULARY = 49_000
clock = time.perf_counter


def row(k: int, begin: np.ndarray, own: int, draw: np.random.Generator) -> Row:
    """The last 36 % of its own tokens are learnt, as in benchmarks/training_speed.py."""
    ids = np.concatenate([begin, draw.integers(100, VOCABULARY, own)]).astype(np.int32)
    learnt = np.zeros(len(ids), bool)
    learnt[-max(1, int(own * 0.36)) :] = True
    return Row(str(k), 1.0, "", (Tokens(ids, learnt),))


def sets() -> dict[str, list[Row]]:
    draw = np.random.default_rng(0)
    long, short = (draw.integers(100, VOCABULARY, n) for n in (384, 300))
    none = long[:0]
    return {
        "384 shared, 16 rows of 96": [row(k, long, 96, draw) for k in range(16)],
        "300 shared, 16 rows of 60-100": [
            row(k, short, int(draw.integers(60, 101)), draw) for k in range(16)
        ],
        "20 shared, 14 rows of about 140": [
            row(k, short[:20], 54 + int(draw.lognormal(4.2, 0.6)), draw) for k in range(14)
        ],
        "nothing shared, 14 rows of about 140": [
            row(k, none, 54 + int(draw.lognormal(4.3, 0.6)), draw) for k in range(14)
        ],
    }


@contextmanager
def watched(seconds: list[float], blocks: bool):
    """Time spent in attention, in the calling thread; without `blocks` by torch's own kernel, a segment at a time."""
    forward, backward, attend = LineAttention.forward, LineAttention.backward, Line.attend

    def timed(call):
        def inner(*arguments):
            begun = clock()
            out = call(*arguments)
            seconds.append(clock() - begun)
            return out

        return inner

    class Plain(torch.autograd.Function):
        @staticmethod
        def forward(ctx, q, k, v, line, scale):
            begun = clock()
            with torch.enable_grad():
                ctx.given = [x.detach().requires_grad_() for x in (q, k, v)]
                ctx.out = line.plainly(*ctx.given, scale)
            seconds.append(clock() - begun)
            return ctx.out.detach()

        @staticmethod
        def backward(ctx, grad):
            begun = clock()
            grads = torch.autograd.grad(ctx.out, ctx.given, grad)
            seconds.append(clock() - begun)
            return *grads, None, None

    def plainly(line, _layer, q, k, v, scale, *_):
        return Plain.apply(q.to(v.dtype), k.to(v.dtype), v, line, scale)

    if blocks:
        LineAttention.forward, LineAttention.backward = map(staticmethod, (timed(forward), timed(backward)))
    else:
        Line.attend = plainly
    try:
        yield
    finally:
        LineAttention.forward, LineAttention.backward = map(staticmethod, (forward, backward))
        Line.attend = attend


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--dtype", choices=["bf16", "fp32"], default="bf16")
    arguments.add_argument("--model", type=Path)
    arguments.add_argument("--micro-tokens", type=int, default=2048)
    arguments.add_argument("--threads", type=int)
    arguments.add_argument("--busy", action="store_true")
    given = arguments.parse_args()
    if given.busy:
        global clock
        clock, given.threads = time.process_time, 1
    if given.threads:
        torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as scratch:
        measure(given, given.model or _real(Path(scratch) / "model"))


def _real(folder: Path) -> Path:
    from luthier.models.testing import real_model

    return real_model(folder)


def measure(given: argparse.Namespace, folder: Path) -> None:
    from luthier.core import plugin
    from luthier.models import weights
    from luthier.models.fast import quicken
    from luthier.models.spec import LoraSpec

    dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[given.dtype]
    model = weights.load(folder, dtype=given.dtype, device="cpu")
    model = plugin.load("adapter", "lora")().attach(model, LoraSpec(), 0)
    quick = quicken(model)
    print("fused:", ", ".join(quick.parts), "| left:", dict(quick.left))
    model.train()
    method = Sft(SftSettings())
    parameters = [p for p in model.parameters() if p.requires_grad]

    def step(batches, blocks: bool) -> tuple[float, float, float]:
        spent: list[float] = []
        begun, total, supervised = clock(), 0.0, sum(batch.supervised for batch in batches)
        for batch in batches:
            with watched(spent, blocks), torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                loss = method.loss(model, batch)
                (loss.sum / supervised).backward()
            total += loss.sum.item() / supervised
        seconds = clock() - begun
        for p in parameters:
            p.grad = None
        return seconds, sum(spent), total

    for name, rows in sets().items():
        print(f"\n{name}")
        batches = {}
        for share in (False, True):
            method.share = share
            parts = cut(rows, given.micro_tokens, share=share)
            batches[share] = [method.collate([rows[i] for i in part]) for part in parts]
        ways = [(False, False), (False, True), (True, True)]
        if not any(batch.inputs["layout"].shared for batch in batches[True]):
            ways.pop()
        found: dict[tuple[bool, bool], list[tuple[float, float, float]]] = {way: [] for way in ways}
        for _ in range(given.rounds + 1):
            for share, blocks in ways:
                found[share, blocks].append(step(batches[share], blocks))
        for share, blocks in ways:
            tokens, computed = (
                sum(getattr(b, name) for b in batches[share]) for name in ("tokens", "computed")
            )
            # The first round prepares products for new shapes.
            seconds, spent, loss = map(statistics.median, zip(*found[share, blocks][1:], strict=True))
            print(
                f"  {'shared' if share else 'apart':7s} {'blocks' if blocks else 'torch':7s} {seconds:6.2f} s  "
                f"{tokens / seconds:6.0f} tokens/s  {computed:5d} of {tokens} computed  "
                f"attention {spent / seconds:4.0%}  loss {loss:.5f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
