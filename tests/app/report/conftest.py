"""The made-up facts, as a fixture."""

import importlib.util
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def sample():
    """The module sample_facts: classify(), stopped(), chat()."""
    path = Path(__file__).with_name("sample_facts.py")
    spec = importlib.util.spec_from_file_location("sample_facts", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
