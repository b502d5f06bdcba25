"""What no packed form goes without, beside its weights: generation settings, licence, and a card that says how it is loaded.

The tokenizer and the chat template come with the weights (models/adapters/files.py; inside the file for GGUF), hashes with the
package (sums.py). The card here is the form's own and says what follows from the package alone; the model card of a release
(governance) says how the model was made and measured.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from luthier.models.folder import read_config
from luthier.models.known import KNOWN

from .forms import KINDS
from .spec import Form

LICENCE_FILES = ("LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY.md")
GENERATION, CARD, NOTICE = "generation_config.json", "README.md", "NOTICE"
VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes as --max-lora-rank; 16 where nothing is said."""


def complete(folder: Path, form: Form, base: Path, facts: Mapping[str, Any]) -> None:
    """Put beside a form's weights what is missing. `facts`: base_name, base_digest, model_digest, task, vllm."""
    if not (folder / GENERATION).is_file():
        written = base / GENERATION
        settings = json.loads(written.read_text(encoding="utf-8")) if written.is_file() else _default(base)
        _write_json(folder / GENERATION, settings)
    found = [path for pattern in LICENCE_FILES for path in sorted(base.glob(pattern)) if path.is_file()]
    for path in found:
        shutil.copyfile(path, folder / path.name)
    licence = licence_of(facts["base_name"], base)
    if not found:
        (folder / NOTICE).write_text(_notice(facts["base_name"], licence), encoding="utf-8")
    (folder / CARD).write_text(
        _card(form, facts, licence, (folder / "head.safetensors").is_file()), encoding="utf-8"
    )


def licence_of(base_name: str, base: Path) -> str | None:
    """What the base states: in its luthier.json, in the table of known models, or nothing."""
    told = (
        json.loads((base / "luthier.json").read_text(encoding="utf-8"))
        if (base / "luthier.json").is_file()
        else {}
    )
    if isinstance(told.get("license"), str):
        return str(told["license"])
    return KNOWN[base_name].licence if base_name in KNOWN else None


def _default(base: Path) -> dict[str, Any]:
    """Of a base that says nothing: its own special tokens, and the likeliest token each time."""
    config = read_config(base)
    ids = {key: config.get(key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return {**{key: value for key, value in ids.items() if value is not None}, "do_sample": False}


def _notice(base_name: str, licence: str | None) -> str:
    stated = (
        f"states the licence {licence}; its text did not come with the weights"
        if licence
        else "came without a licence file and without a stated licence: ask whoever gave it what you may do with it"
    )
    return f"This model was tuned from {base_name}, which {stated}.\n"


def vllm_ready(adapter: Path) -> dict[str, Any]:
    """Whether vLLM can serve the adapter beside its base, from adapter_config.json alone: {"ready", "why", "max_lora_rank"}."""
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    rank = config.get("r") or 0
    why = next(
        (
            told
            for holds, told in (
                (
                    config.get("peft_type") == "LORA",
                    f"it is {config.get('peft_type')}, and vLLM reads LoRA alone",
                ),
                (not config.get("use_dora"), "vLLM reads no DoRA"),
                (not config.get("modules_to_save"), "vLLM reads no whole modules beside the adapter"),
                (config.get("bias", "none") == "none", "vLLM reads no trained biases"),
                (rank <= VLLM_RANKS[-1], f"its rank {rank} is above {VLLM_RANKS[-1]}, vLLM's largest"),
                (
                    not (adapter / "head.safetensors").is_file(),
                    "its answers come from a head that only Luthier reads",
                ),
            )
            if not holds
        ),
        None,
    )
    needed = next((one for one in VLLM_RANKS if one >= rank), None)
    return {"ready": why is None, "why": why, "max_lora_rank": needed if why is None else None}


# -- the card -------------------------------------------------------------------------------------------------------------


def _card(form: Form, facts: Mapping[str, Any], licence: str | None, own_head: bool) -> str:
    name, task = facts["base_name"], facts["task"]
    hub = name if "/" in name else None
    head = {
        "license": licence.lower() if licence else "other",
        "base_model": hub,
        "library_name": {"adapter": "peft", "onnx": "onnxruntime"}.get(form, "gguf" if form.startswith("gguf") else "transformers"),
        "pipeline_tag": "text-generation",
    }  # fmt: skip
    front = "".join(f"{key}: {json.dumps(value)}\n" for key, value in head.items() if value is not None)
    limits = KINDS[form]
    parts = [
        f"---\n{front}---\n",
        f"# A model tuned from {name}: {limits.what}\n",
        f"Task: {task['kind']}. Licence of the base: {licence or 'not stated (see NOTICE)'}.\n",
        "## Loading\n",
        _loading(form, name, facts.get("vllm")),
    ]
    if own_head:
        parts.append(
            "\n`head.safetensors` is the model's own head: only Luthier reads it, other tools see the model without it.\n"
        )
    if instruction := task.get("instruction"):
        role = task.get("instruction_role", "system")
        parts.append(
            f"\n## Asking\n\nIt was trained with this instruction as the {role} message, and expects it:\n\n"
            + "".join(f"    {one}\n" for one in instruction.splitlines())
        )
    parts.append(
        f"\n## Checked\n\nBefore it was packed, the same rows went through the trained model and this form: the same tokens, the same "
        f"likeliest answer in at least {limits.top_1:.0%} of places, a mean divergence of at most {limits.divergence:g} nats. What was found "
        "stands in `parity.json` of the package; `SHA256SUMS` names every file (`luthier verify FOLDER`, or `sha256sum -c`).\n\n"
        f"base {facts['base_digest']}\nmodel {facts['model_digest']}\n"
    )
    return "\n".join(parts)


def _loading(form: Form, base_name: str, vllm: Mapping[str, Any] | None) -> str:
    if form == "adapter":
        told = _code(
            "from peft import PeftModel\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
            f'base = AutoModelForCausalLM.from_pretrained("{_written(base_name)}")   # the base, wherever yours lies\n'
            'model = PeftModel.from_pretrained(base, ".")\ntokenizer = AutoTokenizer.from_pretrained(".")'
        )
        if vllm and vllm["ready"]:
            command = f"vllm serve BASE --enable-lora --max-lora-rank {vllm['max_lora_rank']} --lora-modules tuned=."
            return told + "\nIn vLLM, beside its base:\n\n" + _code(command, "sh")
        return told + (f"\nNot for vLLM: {vllm['why']}.\n" if vllm else "")
    if form == "onnx":
        return _code(
            "import numpy, onnxruntime\nfrom transformers import AutoTokenizer\n\n"
            'tokenizer = AutoTokenizer.from_pretrained(".")\nsession = onnxruntime.InferenceSession("model.onnx")\n'
            'ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="np")["input_ids"]\n'
            'logits, = session.run(None, {"input_ids": ids, "attention_mask": numpy.ones_like(ids)})'
        )
    if form.startswith("gguf"):
        return (
            _code("llama-server -m model.gguf --jinja", "sh")
            + "\nTokenizer and chat template are inside the file.\n"
        )
    needs = "   # needs: pip install compressed-tensors" if form in ("int8", "int4") else ""
    return (
        _code(
            f'from transformers import AutoModelForCausalLM, AutoTokenizer\n\nmodel = AutoModelForCausalLM.from_pretrained("."){needs}\n'
            'tokenizer = AutoTokenizer.from_pretrained(".")'
        )
        + "\nIn vLLM: `vllm serve .`\n"
    )


def _written(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def _code(text: str, language: str = "python") -> str:
    return f"```{language}\n{text}\n```\n"


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, sort_keys=True, indent=1) + "\n", encoding="utf-8")
