"""Where does the time of one micro-batch go, plain and fused? SmolLM2-135M-Instruct, documents of 54 to 414 tokens.

    python benchmarks/step_parts.py [--adapter lora] [--dtype bf16] [--micro-tokens 2048] [--rounds 3] [--model FOLDER]
    python benchmarks/step_parts.py --only fused     one form alone: then the peak of memory is that form's

The forms (plain; fused with the plain formulas; fused with the compiled kernels) take turns in one process, since a
shared machine is noisy; the least processor time of the rounds is the figure. Then each is profiled once: matrix
products, attention, the head (whatever is as wide as the vocabulary), element-wise work and the rest.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

FORMS = ("plain", "formulas", "fused")
MATRIX = ("aten::mm", "aten::addmm", "aten::addmm_", "mkldnn::")
ATTENTION = ("aten::bmm", "aten::baddbmm", "aten::_scaled_dot", "luthier::causal", "Documents")


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--adapter", choices=("lora", "full"), default="lora")
    arguments.add_argument("--dtype", choices=("fp32", "bf16"), default="bf16")
    arguments.add_argument("--micro-tokens", type=int, default=2048)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--only", choices=FORMS)
    arguments.add_argument("--model", type=Path)
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        measure(given, Path(temporary))


def measure(given: argparse.Namespace, temporary: Path) -> None:
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
    from luthier.models import weights
    from luthier.models.fast import quicken
    from luthier.models.testing import real_model

    folder = given.model or real_model(temporary)
    started = time.perf_counter()
    model = prepared(
        weights.load(folder, dtype=given.dtype if given.adapter == "lora" else "fp32"), given.adapter
    )
    loaded = time.perf_counter()
    forms = [given.only] if given.only else list(FORMS)
    quick = None if forms == ["plain"] else quicken(model)
    print(f"loaded in {loaded - started:.1f} s, fused in {time.perf_counter() - loaded:.1f} s")
    if quick:
        print("fused:", ", ".join(quick.parts), *(f"\nleft: {k}: {v}" for k, v in quick.left.items()))
    batch = micro_batch(given.micro_tokens, model.config.vocab_size)
    took: dict[str, list[float]] = {form: [] for form in forms}
    for _ in range(given.rounds):
        for form in forms:
            with form_of(form, quick):
                took[form].append(step(model, batch, given.dtype))
    # Profiling keeps a record of every operation, so memory is read before.
    print(f"peak of memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")
    for form in forms:
        with form_of(form, quick):
            show(form, min(took[form]), parts(model, batch, given.dtype), batch["tokens"])


@contextmanager
def form_of(form: str, quick: Any) -> Iterator[None]:
    from luthier.models.fast import kernels

    with (
        quick.off() if quick and form == "plain" else nullcontext(),
        kernels.plainly() if form == "formulas" else nullcontext(),
    ):
        yield


def prepared(model: Any, kind: str) -> Any:
    from luthier.core import plugin
    from luthier.models.spec import FullSpec, LoraSpec

    spec = LoraSpec() if kind == "lora" else FullSpec()
    return plugin.load("adapter", kind)().attach(model, spec, 0).train()


def micro_batch(tokens: int, vocabulary: int) -> dict[str, Any]:
    """Documents like those of benchmarks/training_speed.py, as many as fit; 36 % of the tokens are supervised."""
    import torch

    from luthier.models.attention import packed

    rng = random.Random(0)  # noqa: S311  (not for secrets)
    lengths: list[int] = []
    while sum(lengths) < tokens:
        lengths.append(min(tokens - sum(lengths), 414, max(54, int(rng.lognormvariate(5.0, 0.55)))))
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(3, vocabulary - 1, (tokens,), generator=draw)
    keep = torch.arange(tokens)[torch.rand(tokens, generator=draw) < 0.36]
    targets = torch.randint(3, vocabulary - 1, keep.shape, generator=draw)
    inputs = {"input_ids": ids[None], **packed(lengths)}
    return {"inputs": inputs, "keep": keep, "targets": targets, "tokens": tokens}


def step(model: Any, batch: dict[str, Any], dtype: str) -> float:
    """Processor time of one forward and backward pass, by thread: that of a machine of one's own."""
    import torch

    from luthier.models.losses import weighted_nll

    started = time.process_time()
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bf16"):
        weights = torch.ones(len(batch["keep"]))
        told = weighted_nll(model, batch["inputs"], batch["keep"], batch["targets"], weights)
    (told.sum / len(weights)).backward()
    for p in model.parameters():
        p.grad = None
    return (time.process_time() - started) / torch.get_num_threads()


def parts(model: Any, batch: dict[str, Any], dtype: str) -> Counter[str]:
    """Seconds by kind of work, from torch's profiler."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as seen:
        step(model, batch, dtype)
    told: Counter[str] = Counter()
    for event in seen.events():
        told[kind(event, model.config.vocab_size)] += event.self_cpu_time_total / 1e6
    return told


def kind(event: Any, vocabulary: int) -> str:
    above, names = event, []
    while above is not None:
        names.append(above.name)
        above = above.cpu_parent
    if any(vocabulary in shape for shape in event.input_shapes or []) or "cross_entropy" in event.name:
        return "head"
    if any(part in name for name in names for part in ATTENTION):
        return "attention"
    if event.name.startswith(MATRIX):
        return "matrix products"
    return "element-wise" if event.name.startswith(("aten::", "luthier::")) else "between"


def show(form: str, seconds: float, told: Counter[str], tokens: int) -> None:
    total = sum(told.values())
    shares = ", ".join(f"{name} {share / total:.0%}" for name, share in told.most_common())
    print(f"{form:9s} {seconds:6.2f} s  {tokens / seconds:6.1f} tokens/s   profiled {total:.2f} s: {shares}")


if __name__ == "__main__":
    main()
