"""An image that serves releases: a recipe to build it, what it starts with, and how to run it on one machine."""

from __future__ import annotations

from collections.abc import Mapping

from . import PORT, UID, Shipped, Where
from .pod import HOME, memory_bytes
from .written import label

ENTRY = f"""\
#!/bin/sh
# What the image starts. Arguments are those of `luthier serve`. Keys come from the file LUTHIER_KEY_FILE or, where files cannot
# be mounted, from LUTHIER_KEYS (one a line), which no process that is started later sees.
set -eu
umask 077
keys="${{LUTHIER_KEY_FILE:-}}"
if [ -z "$keys" ] && [ -n "${{LUTHIER_KEYS:-}}" ]; then
    keys=/tmp/keys
    printf '%s\\n' "$LUTHIER_KEYS" > "$keys"
fi
unset LUTHIER_KEYS
if [ -z "$keys" ]; then
    echo 'error: give API keys: LUTHIER_KEY_FILE (a mounted file) or LUTHIER_KEYS' >&2
    exit 2
fi
if [ $# -eq 0 ]; then
    set -- "${{LUTHIER_SERVE:?error: name what to serve, as an argument or in LUTHIER_SERVE}}"
fi
exec luthier serve "$@" --host 0.0.0.0 --port "${{LUTHIER_PORT:-{PORT}}}" --key-file "$keys"
"""


def render(shipped: Shipped, where: Where) -> Mapping[str, str]:
    return {
        "Containerfile": _recipe(shipped, where),
        "entrypoint.sh": ENTRY,
        "requirements.txt": "".join(f"{one}\n" for one in shipped.requirements),
        "run.sh": _run(shipped, where),
        "README.md": _readme(shipped),
    }


def _recipe(shipped: Shipped, where: Where) -> str:
    return f"""\
# Serves {shipped.ref} and whatever follows it. Written by `luthier deploy render`.
FROM {where.image} AS build
COPY requirements.txt wheels* /build/
RUN python -m venv /opt/luthier \\
 && /opt/luthier/bin/pip install --no-cache-dir --no-compile --find-links /build -r /build/requirements.txt

FROM {where.image}
COPY --from=build /opt/luthier /opt/luthier
COPY --chmod=0555 entrypoint.sh /usr/local/bin/entrypoint.sh
RUN mkdir -p {HOME} && chown {UID}:{UID} {HOME}
ENV PATH=/opt/luthier/bin:$PATH LUTHIER_HOME={HOME} HF_HUB_OFFLINE=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp
LABEL org.opencontainers.image.title="{shipped.name}" luthier.release="{shipped.release_digest}"
USER {UID}:{UID}
EXPOSE {PORT}
VOLUME {HOME}
STOPSIGNAL SIGTERM
HEALTHCHECK --start-period=10m --interval=10s --timeout=3s \\
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:{PORT}/healthz', timeout=2)"]
ENV LUTHIER_SERVE={shipped.name}
ENTRYPOINT ["/usr/local/bin/entrypoint.sh"]
CMD []
"""


def _run(shipped: Shipped, where: Where) -> str:
    memory_mb = round(memory_bytes(shipped, where) / 2**20)
    gpus = f"    --gpus {where.gpus} \\\n" if where.gpus else ""
    return f"""\
#!/bin/sh
# One machine: IMAGE is what was built, by its digest; STORE the home with the release; KEYS a file of API keys.
set -eu
exec "${{DOCKER:-docker}}" run --rm --name {label(shipped.name)} \\
    --read-only --tmpfs /tmp:rw,noexec,nosuid,size=64m \\
    --cap-drop ALL --security-opt no-new-privileges --pids-limit 512 --memory {memory_mb}m \\
{gpus}    --stop-timeout 40 --publish 127.0.0.1:{PORT}:{PORT} \\
    --volume "${{STORE:?}}":{HOME} --volume "${{KEYS:?}}":/run/secrets/keys:ro \\
    --env LUTHIER_KEY_FILE=/run/secrets/keys \\
    "${{IMAGE:?}}" "$@"
"""


def _readme(shipped: Shipped) -> str:
    return f"""\
# {shipped.ref} in a container

    docker build -f Containerfile -t luthier-serve .        # put the wheel of luthier {shipped.luthier} into ./wheels where no index has it
    IMAGE=luthier-serve@sha256:... STORE=~/.luthier KEYS=./keys sh run.sh

It runs as user {UID}, its file system is read-only but for the home and /tmp, it holds no right of the kernel's, and it listens beyond
loopback only because keys are given. STORE must belong to {UID}. It starts `luthier serve {shipped.name}`, or what LUTHIER_SERVE names, or its arguments if there are any: new versions are rolled out with
`luthier rollout`, without another image. `requirements.txt` has the exact versions of the installation that rendered it; one with a `+` (torch==2.6.0+cpu) is in an index of its own.

Checked: the scripts by the shell's own parser, the versions against that installation. Not checked: that the image builds (its
base is yours), and the hashes of what pip fetches (`pip download` and `--require-hashes` do that where an index is at hand).
"""
