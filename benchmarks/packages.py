"""Every form of one model: its size, the gate's figures, the memory and the time it took to make. Prints a table.

    python benchmarks/packages.py [FORM ...]        SmolLM2-135M-Instruct with a LoRA adapter of small random weights (rank 8)

The adapter is not trained: what is asked is whether a form says what the model says, not whether that is right. Its updates are
scaled to a twentieth of the weights they stand beside (by their norms).
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from pathlib import Path

from luthier.core.artifact import Artifact
from luthier.core.testing import FakeContext
from luthier.core.units import show_bytes
from luthier.models.testing import real_model
from luthier.postprocessing.spec import FORMS, PostprocessSpec

ROWS = (
    ("Where is my parcel? The tracking page shows an error.", "I am sorry about that. Please give me your order number."),
    ("What is the capital of France?", "The capital of France is Paris."),
    ("Write a haiku about rain.", "Soft rain on the roof,\nthe garden drinks in silence,\nnight leans in to hear."),
    ("Explain what a hash function does.", "It maps data of any size to a value of fixed size, so that equal data gives equal values."),
    ("Translate to German: good morning", "Guten Morgen"),
    ("List three prime numbers.", "2, 3 and 5 are prime numbers."),
    ("I was charged twice for my invoice.", "The second payment will be refunded within five days."),
    ("def add(a, b):", "def add(a, b):\n    return a + b"),
)  # fmt: skip


def world(folder: Path) -> tuple[dict[str, Artifact], FakeContext]:
    import pyarrow as pa
    import pyarrow.parquet as pq
    import torch

    from luthier.data.records import RECORD
    from luthier.models.adapters import Lora
    from luthier.models.spec import LoraSpec
    from luthier.models.weights import load

    base, model, dataset = (folder / name for name in ("base", "model", "dataset"))
    real_model(base)
    model.mkdir()
    dataset.mkdir()
    adapted = Lora().attach(load(base), LoraSpec(rank=8), seed=0)
    draw = torch.Generator().manual_seed(0)
    for module in adapted.modules():
        if hasattr(module, "lora_B") and "default" in module.lora_B:
            a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
            torch.nn.init.normal_(b, generator=draw)
            scale = module.scaling["default"]
            with torch.no_grad():
                b.mul_(0.05 * module.base_layer.weight.norm() / (scale * (b @ a).norm()))
    Lora().save(adapted, model, "smollm2-135m-instruct")
    del adapted
    rows = [
        {
            "id": str(n),
            "messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": told}],
        }
        for n, (asked, told) in enumerate(ROWS)
    ]
    pq.write_table(pa.Table.from_pylist(rows, RECORD), dataset / "validation.parquet")
    inputs = {role: Artifact(role, role, {}, 1, {}, ()) for role in ("model", "base", "dataset")}
    task = {"kind": "chat", "instruction": None, "labels": None}
    told = {"role": "tuned", "adapter": "lora", "base_digest": inputs["base"].digest, "task": task}
    (model / "luthier.json").write_text(json.dumps(told))
    places = {"model": model, "base": base, "dataset": dataset}
    return inputs, FakeContext(folder, folders={inputs[role].digest: place for role, place in places.items()})


def main() -> None:
    from luthier.app.packing import PACKAGE

    wished = sys.argv[1:] or list(FORMS)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        inputs, at = world(folder)
        (folder / "scratch").mkdir()
        (folder / "out").mkdir()
        began = time.monotonic()
        PACKAGE.function(PostprocessSpec(export=wished), inputs, folder / "out", folder / "scratch", at)
        seconds = time.monotonic() - began
        found = json.loads((folder / "out" / "parity.json").read_text())
        for form, one in found.items():
            files = [p for p in (folder / "out" / form).rglob("*") if p.is_file()]
            size = show_bytes(sum(path.stat().st_size for path in files)) if files else ""
            speed = next(
                (e.data["tokens_per_s"] for e in at.events if e.kind == "parity" and e.data["form"] == form),
                None,
            )
            speed = f"{speed:.0f} tokens/s" if speed else ""
            print(
                f"{form:9} {size:>9}  top-1 {one['top_1']:.3f}  mean {one['divergence']:.2e}  worst {one['worst']:.2e}  "
                f"{one['tokens']} tokens  {one['engine']}  {speed}"
            )
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(f"{seconds:.0f} s, {show_bytes(peak)} at most in this process")


if __name__ == "__main__":
    main()
