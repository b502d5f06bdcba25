"""Models for the tests of this floor: tiny ones from a seed, and the small real one, each written once a session."""

import pytest
import torch

from luthier.models import weights
from luthier.models.template import Template
from luthier.models.testing import real_model, tiny_model


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def tiny(tiny_folder):
    """A fresh model each time: adapters change it."""
    return weights.load(tiny_folder)


@pytest.fixture(scope="session")
def tiny_template(tiny_folder):
    return Template(weights.load_tokenizer(tiny_folder), 512)


@pytest.fixture(scope="session")
def real_folder(tmp_path_factory):
    return real_model(tmp_path_factory.mktemp("smollm2"))


@pytest.fixture(scope="session")
def real(real_folder):
    """Shared, fp32: do not change it."""
    return weights.load(real_folder)


@pytest.fixture(scope="session")
def real_template(real_folder):
    return Template(weights.load_tokenizer(real_folder), weights.describe(real_folder).context)


@pytest.fixture
def logits():
    """The plainest forward pass there is: one document, transformers' own attention mask."""

    def of(model, ids):
        with torch.no_grad():
            return model(input_ids=torch.tensor([list(ids)]), use_cache=False).logits[0].float()

    return of
