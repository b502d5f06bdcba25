"""The environment of a job's process: what is named here, and nothing else of the server's.

A recipe may write ${VAR}, and its author is not the server's operator. So a job sees no secret of the server, and of other variables those
that the operator names: LUTHIER_JOB_ENVIRON="AWS_*,TICKETS_URL". What its own records need (LUTHIER_DATABASE; PG* where that is
PostgreSQL) is there, but a recipe may not refer to it: which of the others it may, a policy says (governance/site_policy).

Not a wall: the process is the server's own system user, who may read the server's files (docs/jobs.md, What is not protected).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from fnmatch import fnmatchcase

from .launchers.launcher import Launch
from .launchers.processes import MARK

NEEDED = (
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "TMPDIR", "TZ", "LANG", "LC_*", "LD_LIBRARY_PATH", "LD_PRELOAD", "PYTHON*", "VIRTUAL_ENV",
    "SSL_CERT_*", "REQUESTS_CA_BUNDLE", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy", "HF_HOME",
    "HF_HUB_OFFLINE", "HF_ENDPOINT", "TRANSFORMERS_OFFLINE", "TOKENIZERS_PARALLELISM", "XDG_CACHE_HOME", "CUDA_*", "NVIDIA_*", "NCCL_*", "TORCH_*", "PYTORCH_*",
    "OMP_*", "MKL_*", "JAVA_HOME", "SPARK_HOME", "LUTHIER_HOME", "LUTHIER_DATABASE", "LUTHIER_BLOBS", "LUTHIER_JOB_*",
)  # fmt: skip


def environment_of(environ: Mapping[str, str], launch: Launch) -> dict[str, str]:
    names = [*NEEDED, *passed_on(environ)]
    if environ.get("LUTHIER_DATABASE", "").startswith("postgres"):
        names.append("PG*")
    found = {name: value for name, value in environ.items() if any(fnmatchcase(name, one) for one in names)}
    found.setdefault("OMP_NUM_THREADS", str(launch.cores))
    if path := found.get("PYTHONPATH"):  # it starts in a folder of its own
        found["PYTHONPATH"] = os.pathsep.join(os.path.abspath(one) for one in path.split(os.pathsep) if one)
    found["CUDA_VISIBLE_DEVICES"] = ",".join(launch.gpus)
    found[MARK] = launch.mark
    return found


def passed_on(environ: Mapping[str, str]) -> list[str]:
    """Patterns of what the operator passes on to jobs."""
    return [one.strip() for one in environ.get("LUTHIER_JOB_ENVIRON", "").split(",") if one.strip()]
