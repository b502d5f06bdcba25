"""TRL's SFTTrainer on the race's rows. Runs in TRL's environment: run_trl.py JOB LINES."""

from __future__ import annotations

from pathlib import Path

from watch import Lines, rows_of


def main() -> None:
    lines = Lines()
    from datasets import Dataset
    from peft import PeftModel
    from trainer_watch import Sums
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer
    from trl.trainer.utils import create_model_from_path

    job, settings = lines.job, lines.job["settings"]
    base, adapter = (str(Path(job["track"]) / name) for name in ("base", "adapter"))
    others = {"attn_implementation": settings["attention"]} if "attention" in settings else {}
    model = create_model_from_path(base, dtype=settings["weights"], **others)
    model = PeftModel.from_pretrained(model, adapter, is_trainable=True)
    padding_free = settings.get("padding_free", False)
    config = SFTConfig(
        output_dir=job["scratch"],
        use_cpu=True,
        bf16=settings["bf16"],
        gradient_checkpointing=settings["checkpointing"],
        per_device_train_batch_size=settings["rows"],
        gradient_accumulation_steps=job["rows_per_step"] // settings["rows"],
        learning_rate=job["learning_rate"],
        lr_scheduler_type="constant",
        max_steps=job["steps"],
        train_sampling_strategy=settings.get("sampling", "sequential"),
        padding_free=padding_free,
        max_length=None if padding_free else 1024,
        torch_compile=settings.get("compile", False),
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    trainer = SFTTrainer(
        model=model,
        args=config,
        train_dataset=Dataset.from_list(rows_of(job, settings.get("sorted", False))),
        processing_class=AutoTokenizer.from_pretrained(base),
        callbacks=[Sums(lines)],
    )
    trainer.train()


if __name__ == "__main__":
    main()
