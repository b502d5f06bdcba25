"""Luthier's training stage on the race's rows, tokenising included. Runs in the project's environment:
run_luthier.py JOB LINES.

Only the start is given from outside: the saved adapter is copied into the fresh one, as the peers load it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from watch import Lines

from luthier.core.artifact import Artifact
from luthier.core.testing import FakeContext
from luthier.training.spec import TrainSpec
from luthier.training.train import STAGE


class Told(FakeContext):
    """A context that writes a line for each step, and shows the other events."""

    lines: Lines

    def emit(self, kind: str, **data: Any) -> Any:
        if kind == "step":
            self.lines.step(data["step"], data["loss"], data["tokens"], data["supervised"])
        else:
            print(kind, data, flush=True)
        if kind == "fallback":
            raise SystemExit(f"not what is raced: {data['reason']}")
        return super().emit(kind, **data)


def start_from(saved: Path) -> None:
    """Let every LoRA adapter that is attached from now on hold these weights."""
    from luthier.models.libraries import load_libraries

    load_libraries()
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    from luthier.models.adapters import ADAPTER_WEIGHTS, Lora

    fresh = Lora.attach

    def attach(self: Any, *given: Any) -> Any:
        model = fresh(self, *given)
        told = set_peft_model_state_dict(model, load_file(saved / ADAPTER_WEIGHTS))
        missing = [key for key in told.missing_keys if "lora_" in key]
        assert not missing, missing
        assert not told.unexpected_keys, told.unexpected_keys
        return model

    Lora.attach = attach


def main() -> None:
    lines = Lines()
    job, settings = lines.job, lines.job["settings"]
    track, scratch = Path(job["track"]), Path(job["scratch"])
    start_from(track / "adapter")
    spec = TrainSpec.model_validate(
        {
            "adapter": {"kind": "lora", "rank": job["rank"], "alpha": job["alpha"]},
            "learning_rate": job["learning_rate"],
            "warmup": 0,
            "schedule": "constant",
            "max_steps": job["steps"],
            "batch": {"rows": job["rows_per_step"], **settings.get("batch", {})},
            "dtype": settings["dtype"],
            "seed": job["seed"],
        }
    )
    folders = {"base": track / "base", "dataset": track / "dataset"}
    out, rest = scratch / "out", scratch / "rest"
    for folder in (out, rest):
        folder.mkdir(parents=True)
    inputs = {role: Artifact(role, role, {}, 1, {}, ()) for role in folders}
    at = Told(scratch, folders={inputs[role].digest: folders[role] for role in folders})
    at.lines = lines
    STAGE.function(spec, inputs, out, rest, at)


if __name__ == "__main__":
    main()
