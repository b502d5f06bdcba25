"""A real release written out: its facts are those of its package, and nothing is overwritten."""

from __future__ import annotations

import json

import pytest

from luthier.app.app import App
from luthier.app.rendering import requirements, shipped_of
from luthier.core.errors import SpecError
from luthier.core.plugin import names

IMAGE = f"registry.example.com/serve@sha256:{'ab' * 32}"


@pytest.mark.parametrize("target", names("target"))
def test_a_release_is_rendered_for(ran, target):
    out = ran.folder / f"for-{target}"
    gpus = () if target == "sagemaker" else ("--gpus", "1")
    told = json.loads(
        ran.luthier("deploy", "render", "router", "--to", target, "--image", IMAGE, *gpus, "--out", out, "--json").stdout
    )  # fmt: skip
    assert told["ref"] == "router@1" and "README.md" in told["files"]
    assert sorted(path.name for path in out.iterdir()) == told["files"]
    whole = "".join(path.read_text() for path in out.iterdir())
    assert "router" in whole and str(ran.home) not in whole
    again = ran.luthier("deploy", "render", "router", "--to", target, "--image", IMAGE, *gpus, "--out", out)
    assert again.exit_code == 2 and "already there" in again.stderr


def test_an_option_that_would_be_ignored_is_refused(ran):
    told = ran.luthier(
        "deploy", "render", "router", "--to", "sagemaker", "--image", IMAGE, "--gpus", "1", "--out", ran.folder / "no"
    )  # fmt: skip
    assert told.exit_code == 2 and "--gpus would change nothing" in told.stderr


def test_the_facts_are_the_releases(ran):
    store = App.open({"LUTHIER_HOME": str(ran.home)}).store
    found = shipped_of(store, "router@1")
    release = store.catalog.get("router@1")
    assert (found.release_digest, found.package_digest) == (release.digest, release.parents["package"])
    assert found.vllm is not None and found.weights_bytes > 10_000
    assert any("labels" in one for one in found.held) and any("instruction" in one for one in found.held)
    with pytest.raises(SpecError, match="no released version"):
        shipped_of(store, release.parents["package"])


def test_a_release_without_a_package_runs_nowhere(tmp_path):
    store = App.open({"LUTHIER_HOME": str(tmp_path)}).store
    with store.working("a" * 64) as (out, _):
        (out / "release.json").write_text("{}")
        made = store.commit("release", "a" * 64, {}, 1, {}, out, {})
    store.catalog.name("router", made.digest)
    with pytest.raises(SpecError, match="router@1 was released without a package"):
        shipped_of(store, "router")


def test_requirements_are_what_is_installed():
    import fastapi

    found = dict(one.split("==") for one in requirements())
    assert next(iter(found)) == "luthier"
    assert found["fastapi"] == fastapi.__version__ and "torch" in found
    assert "pytest" not in found and "sqlalchemy" in found
