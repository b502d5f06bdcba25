"""LLaMA-Factory's own entry on the race's rows. Runs in its environment: run_llamafactory.py JOB LINES.

It imports torchaudio when it starts, for data that is sound; where the package does not fit the installed torch
(peers.py leaves it out) an empty module stands in its place. Nothing that is measured touches it.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
import types
from pathlib import Path

from watch import Lines, rows_of


def stand_in(name: str) -> None:
    """An empty module, where there is none."""
    if importlib.util.find_spec(name) is None:
        module = types.ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        sys.modules[name] = module


def main() -> None:
    lines = Lines()
    stand_in("torchaudio")
    from datasets import Dataset, DatasetDict
    from llamafactory.train.tuner import run_exp
    from trainer_watch import Sums

    job, settings = lines.job, lines.job["settings"]
    track, scratch = Path(job["track"]), Path(job["scratch"])
    rows = rows_of(job, settings.get("sorted", False))
    rows = [{**row, "attention_mask": [1] * len(row["input_ids"])} for row in rows]
    DatasetDict({"train": Dataset.from_list(rows)}).save_to_disk(scratch / "tokens")
    run_exp(
        {
            "stage": "sft",
            "do_train": True,
            "finetuning_type": "lora",
            "model_name_or_path": str(track / "base"),
            "adapter_name_or_path": str(track / "adapter"),
            "tokenized_path": str(scratch / "tokens"),
            "dataset": "race",  # asked for, then ignored: the tokens are there
            "template": "empty",
            "output_dir": str(scratch / "out"),
            "overwrite_output_dir": True,
            "use_cpu": True,
            "bf16": settings.get("bf16", True),
            "disable_gradient_checkpointing": not settings["checkpointing"],
            "per_device_train_batch_size": settings["rows"],
            "gradient_accumulation_steps": job["rows_per_step"] // settings["rows"],
            "learning_rate": job["learning_rate"],
            "lr_scheduler_type": "constant",
            "max_steps": job["steps"],
            "disable_shuffling": True,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
        },
        callbacks=[Sums(lines)],
    )


if __name__ == "__main__":
    main()
