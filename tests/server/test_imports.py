"""What the command line touches before anything is asked of a model stays light."""

from __future__ import annotations

import subprocess
import sys

import pytest

LIGHT = {
    "luthier.serving.session": ("torch", "transformers", "fastapi"),
    "luthier.serving.transformers_engine": ("torch", "transformers", "fastapi"),
    "luthier.serving.scripted_engine": ("torch", "transformers", "fastapi"),
    "luthier.server.keys": ("torch", "fastapi", "starlette", "uvicorn"),
    "luthier.server.serve": ("torch", "fastapi", "starlette", "uvicorn"),
    "luthier.server.openai": ("torch", "transformers", "uvicorn", "openai"),
}


@pytest.mark.parametrize("module", LIGHT)
def test_light(module):
    program = f"import sys, {module}; print(*(name for name in {LIGHT[module]!r} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize(
    ("module", "absent"), [("luthier.server.openai", "fastapi"), ("luthier.server.openai", "starlette")]
)
def test_without_the_extra_the_error_says_what_to_install(module, absent):
    program = (
        f"import sys; sys.modules[{absent!r}] = None\n"
        "from luthier.core.errors import MissingPart\n"
        f"try:\n    import {module}\nexcept MissingPart as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "pip install 'luthier[serve]'" in done.stdout
