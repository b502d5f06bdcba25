"""How fast is training here? SmolLM2-135M-Instruct, LoRA rank 16, synthetic chats of 54 to about 414 tokens.

    python benchmarks/training_speed.py [--steps 4] [--dtype bf16] [--micro-tokens 2048] [--adapter lora]

Prints one line per optimizer step, then the median speed without the first step, the peak of memory, and what
the formulas of training/plan forecast for it. Same arguments, same losses.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
from pathlib import Path

from luthier.core.artifact import Artifact
from luthier.core.testing import FakeContext
from luthier.core.units import show_bytes

TEXT = """
the of and to in is it that for on with as was at be this have from or had by but what some we can out other were all
there when up use your how said an each she which do their time if will way about many then them write would like so
these her long make thing see him two has look more day could go come did number sound no most people my over know
water than call first who may down side been now find any new work part take get place made live where
"""
WORDS = TEXT.split()
CHATS = 600


def chat(rng: random.Random, i: int) -> dict:
    """About 36 % of its tokens are supervised; lengths are log-normal, most of them near 150 tokens."""

    def say(n: int) -> str:
        return " ".join(rng.choice(WORDS) for _ in range(max(4, n))).capitalize() + "."

    words = min(370, max(14, int(rng.lognormvariate(4.65, 0.55))))
    messages = [
        {"role": "user", "content": say(int(words * 0.58))},
        {"role": "assistant", "content": say(int(words * 0.42))},
    ]
    return {"id": f"{i:032x}", "messages": messages, "origin": f"chats.jsonl:{i + 1}", "weight": 1.0}


def dataset(folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from luthier.data.records import RECORD

    rng = random.Random(0)  # noqa: S311  (not for secrets)
    chats = [chat(rng, i) for i in range(CHATS)]
    empty = dict.fromkeys(RECORD.names)
    for split, rows in (("train", chats), ("validation", [])):
        pq.write_table(
            pa.Table.from_pylist([{**empty, **row} for row in rows], RECORD), folder / f"{split}.parquet"
        )
    told = {
        "task": {"kind": "chat", "instruction": None, "labels": None},
        "counts": {"train": CHATS, "validation": 0},
    }
    (folder / "dataset.json").write_text(json.dumps(told))


class Printing(FakeContext):
    """A context that prints the steps as they come."""

    def emit(self, kind: str, **data):
        if kind == "step":
            print(f"step {data['step']:3d}  loss {data['loss']:.5f}  gradient {data['gradient_norm']:.4f}  "
                  f"{data['tokens']:5d} tokens  {data['tokens_per_s']:6.1f} tokens/s", flush=True)  # fmt: skip
        return super().emit(kind, **data)


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--steps", type=int, default=4)
    arguments.add_argument("--dtype", choices=("fp32", "bf16"), default="bf16")
    arguments.add_argument("--micro-tokens", type=int, default=2048)
    arguments.add_argument("--adapter", choices=("lora", "full"), default="lora")
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        measure(given, Path(temporary))


def measure(given: argparse.Namespace, temporary: Path) -> None:
    from luthier.models.testing import real_model
    from luthier.models.weights import describe
    from luthier.training.memory import Lengths, peak_bytes_so_far
    from luthier.training.plan import forecast
    from luthier.training.spec import TrainSpec
    from luthier.training.train import STAGE, tokenised

    folders = {role: temporary / role for role in ("base", "dataset", "out", "scratch")}
    for folder in folders.values():
        folder.mkdir()
    real_model(folders["base"])
    dataset(folders["dataset"])
    inputs = {role: Artifact(role, role, {}, 1, {}, ()) for role in ("base", "dataset")}
    at = Printing(temporary, folders={inputs[role].digest: folders[role] for role in inputs})
    spec = TrainSpec.model_validate(
        {
            "adapter": {"kind": given.adapter},
            "max_steps": given.steps,
            "warmup": 0,
            "schedule": "constant",
            "dtype": given.dtype,
            "batch": {"micro_tokens": given.micro_tokens},
        }
    )
    STAGE.function(spec, inputs, folders["out"], folders["scratch"], at)
    speeds = [event.data["tokens_per_s"] for event in at.events if event.kind == "step"]
    facts = describe(folders["base"])
    parents = {role: artifact.digest for role, artifact in sorted(inputs.items())}
    method = spec.method.load()(spec.method.settings)
    splits, _ = tokenised(
        spec, method, folders["base"], folders["dataset"], facts.context, parents, folders["scratch"], at
    )
    told = forecast(spec, facts, Lengths.of(splits, spec))
    rows = splits["train"]
    share = rows.supervised_tokens.sum() / rows.tokens.sum()
    print(f"\n{len(rows)} chats of {rows.tokens.min()} to {rows.tokens.max()} tokens, {share:.1%} supervised")
    print(f"median {statistics.median(speeds[1:] or speeds):.1f} tokens/s after the first step")
    print(f"peak of memory {show_bytes(peak_bytes_so_far())}; forecast {show_bytes(told.peak_total_bytes)}: "
          + ", ".join(f"{name} {show_bytes(n)}" for name, n in told.peak_bytes.items()))  # fmt: skip


if __name__ == "__main__":
    main()
