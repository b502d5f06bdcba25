"""What is raced on: two models and two data sets, written to a folder once. Runs in the project's environment:
tracks.py FOLDER STEPS TRACK...

    FOLDER/models/NAME       a Hugging Face folder
    FOLDER/TRACK/base        a link to it
    FOLDER/TRACK/dataset     luthier's records of all 600 rows
    FOLDER/TRACK/rows.json   the tokens of the rows of the first STEPS steps, in order, which the peers are given
    FOLDER/TRACK/adapter     the initial adapter, in peft's layout

All of it follows from the seeds below. Texts are random words: speed and losses need no more, quality is not raced.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from contestants import ALPHA, RANK, ROWS_PER_STEP

ROWS, SEED = 600, 0
TEXT = """
the of and to in is it that for on with as was at be this have from or had by but what some we can out other were all
there when up use your how said an each she which do their time if will way about many then them write would like so
these her long make thing see him two has look more day could go come did number sound no most people my over know
water than call first who may down side been now find any new work part take get place made live where
"""
WORDS = TEXT.split()
LABELS = ("billing", "delivery", "returns", "account", "technical", "complaint", "praise", "other")
INSTRUCTION_WORDS = 291  # about 300 tokens, with what the template adds around them
TRACKS = {
    "chats": ("smollm2-135m", "chats"),
    "instruction": ("smollm2-135m", "instruction"),
    "chats-qwen3": ("qwen3-8x512", "chats"),
    "instruction-qwen3": ("qwen3-8x512", "instruction"),
}


def say(rng: random.Random, words: int) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(max(4, words))).capitalize() + "."


def chat(rng: random.Random) -> list[dict[str, str]]:
    """About 36 % of its tokens are supervised; lengths are log-normal, from 54 to about 414 tokens, median 150."""
    words = min(370, max(14, int(rng.lognormvariate(4.65, 0.55))))
    return [
        {"role": "user", "content": say(rng, int(words * 0.58))},
        {"role": "assistant", "content": say(rng, int(words * 0.42))},
    ]


def routed(rng: random.Random, instruction: str) -> list[dict[str, str]]:
    """One of eight labels for a text; the instruction before it is the same in every row."""
    return [
        {"role": "system", "content": instruction},
        {"role": "user", "content": say(rng, rng.randint(50, 90))},
        {"role": "assistant", "content": rng.choice(LABELS)},
    ]


def conversations(kind: str) -> list[list[dict[str, str]]]:
    rng = random.Random(SEED)  # noqa: S311  (not for secrets)
    if kind == "chats":
        return [chat(rng) for _ in range(ROWS)]
    instruction = say(rng, INSTRUCTION_WORDS)
    return [routed(rng, instruction) for _ in range(ROWS)]


def write_dataset(folder: Path, kind: str) -> list[dict[str, Any]]:
    """As `prepare` would leave it; returns the records."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from luthier.data.records import RECORD

    empty = dict.fromkeys(RECORD.names)
    records = [
        {**empty, "id": f"{i:032x}", "messages": messages, "origin": f"{kind}.jsonl:{i + 1}", "weight": 1.0}
        for i, messages in enumerate(conversations(kind))
    ]
    folder.mkdir(parents=True)
    for split, some in (("train", records), ("validation", [])):
        pq.write_table(pa.Table.from_pylist(some, RECORD), folder / f"{split}.parquet")
    task = {"kind": "chat", "instruction": None, "labels": None}
    counts = {"train": ROWS, "validation": 0}
    (folder / "dataset.json").write_text(json.dumps({"task": task, "counts": counts}))
    return records


def smollm2(folder: Path) -> None:
    from luthier.models.testing import real_model

    real_model(folder)


def qwen3(folder: Path) -> None:
    """Qwen3's layout (norms on queries and keys, no Llama) with random weights and SmolLM2's tokenizer. The usual spread
    of 0.02 leaves logits so flat that a wrong mask would hardly show in the losses."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from luthier.models.adapters import copy_tokenizer

    tokens_from = folder.parent / "smollm2-135m"
    if not tokens_from.exists():
        made(tokens_from, smollm2)
    theirs = AutoConfig.from_pretrained(tokens_from)
    config = AutoConfig.for_model(
        "qwen3",
        vocab_size=theirs.vocab_size,
        hidden_size=512,
        intermediate_size=1536,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=64,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        **{f"{name}_token_id": getattr(theirs, f"{name}_token_id") for name in ("bos", "eos", "pad")},
    )
    torch.manual_seed(SEED)
    model = AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        if parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=0.05)
    model.to(torch.bfloat16).save_pretrained(folder)
    copy_tokenizer(tokens_from, folder)
    facts = {"role": "base", "name": folder.name, "parameters": model.num_parameters()}
    (folder / "luthier.json").write_text(json.dumps(facts))


MODELS: dict[str, Callable[[Path], None]] = {"smollm2-135m": smollm2, "qwen3-8x512": qwen3}


def made(folder: Path, write: Callable[[Path], None]) -> None:
    """Written under another name first, so that what is there is whole."""
    if folder.exists():
        return
    unfinished = folder.with_name(folder.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.parent.mkdir(parents=True, exist_ok=True)
    write(unfinished)
    unfinished.rename(folder)


def write_track(folder: Path, base: Path, kind: str, steps: int) -> None:
    from luthier.models.adapters import Lora
    from luthier.models.spec import LoraSpec
    from luthier.models.template import Template
    from luthier.models.weights import describe, load, load_tokenizer
    from luthier.training.batches import Order

    folder.mkdir()
    (folder / "base").symlink_to(base)
    records = write_dataset(folder / "dataset", kind)
    template = Template(load_tokenizer(base), describe(base).context)
    order = Order([record["id"] for record in records], SEED, ROWS_PER_STEP)
    encoded = [
        [template.encode(records[i]["messages"]) for i in order.step(step)] for step in range(1, steps + 1)
    ]
    told = [[{"ids": one.ids, "supervised": one.supervised} for one in rows] for rows in encoded]
    (folder / "rows.json").write_text(json.dumps(told))
    model = load(base, dtype="fp32", device="cpu")
    model = Lora().attach(model, LoraSpec(rank=RANK, alpha=ALPHA), SEED)
    (folder / "adapter").mkdir()
    Lora().save(model, folder / "adapter", base.name)


def main() -> None:
    folder, steps, wanted = Path(sys.argv[1]).resolve(), int(sys.argv[2]), sys.argv[3:]
    for name in wanted:
        model, kind = TRACKS[name]
        base = folder / "models" / model
        made(base, MODELS[model])
        made(folder / name, lambda at, base=base, kind=kind: write_track(at, base, kind, steps))


if __name__ == "__main__":
    main()
