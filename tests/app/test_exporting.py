"""`luthier export` in every form and `luthier verify`: a form that the release does not hold is made through the gate, once."""

import json

import pytest

from luthier.postprocessing import llamacpp

FORMS = ["merged", *(["gguf-q8"] if llamacpp.version() else [])]


def test_forms_of_a_release(workshop):
    done = workshop.run("--set", "postprocess.export=[adapter, int8]")
    assert done["release"] == "router@1"
    package = json.loads(workshop.luthier("show", done["digests"]["package"], "--json").stdout)
    assert package["summary"]["forms"] == ["adapter", "int8"] and package["summary"]["vllm"] is True
    out = workshop.folder / "eight"
    assert workshop.luthier("export", "router", out, "--form", "int8").exit_code == 0
    assert set(json.loads((out / "parity.json").read_text())) == {"adapter", "int8", "served"}

    for form in FORMS:
        target = workshop.folder / form
        told = workshop.luthier("export", "router", target, "--form", form, "--json")
        assert told.exit_code == 0, told.output
        files = json.loads(told.stdout)["files"]
        assert {
            "README.md",
            "NOTICE",
            "generation_config.json",
            "SHA256SUMS",
            "luthier.json",
            "parity.json",
        } <= set(files)
        assert json.loads((target / "parity.json").read_text())[form]["top_1"] > 0.9
        assert workshop.luthier("verify", target).exit_code == 0
    packages = json.loads(workshop.luthier("list", "package", "--json").stdout)
    assert len(packages) == 1 + len(FORMS)

    (workshop.folder / "merged" / "README.md").write_text("changed")
    (workshop.folder / "merged" / "more.txt").write_text("added")
    said = workshop.luthier("verify", workshop.folder / "merged")
    assert said.exit_code == 4 and "changed  README.md" in said.stdout and "surplus  more.txt" in said.stdout
    again = workshop.luthier("export", "router", workshop.folder / "again", "--form", "merged")
    assert again.exit_code == 0  # found, not made again
    assert len(json.loads(workshop.luthier("list", "package", "--json").stdout)) == 1 + len(FORMS)


def test_a_release_of_packed_weights_answers(workshop):
    workshop.run("--set", "postprocess.export=[int8]")
    asked = workshop.luthier("chat", "router", "--ask", "Message: the parcel again", "--json")
    assert asked.exit_code == 0 and any(
        label in asked.stdout for label in ("billing", "delivery", "technical")
    )


def test_another_form_keeps_whom_the_release_asks_where_it_is_not_sure(monkeypatch):
    from types import SimpleNamespace as Told

    from luthier.app import exporting

    parents = {role: role for role in ("model", "base", "dataset", "fallback", "fallback_base")}
    package = Told(kind="package", parents=parents, summary={"forms": ["adapter"]}, spec={})
    kept = {"model": Told(kind="model", parents={"base": "base"})}
    store = Told(catalog=Told(get=lambda one: kept.get(one, one)), folder=lambda _: None)
    monkeypatch.setattr(exporting, "Make", lambda at: lambda step, stage, spec, given: given)
    assert set(exporting._package_with(Told(store=store), package, "merged")) == set(parents)


@pytest.mark.parametrize("words", [["--form", "gguf-q9"], []])
def test_what_cannot_be_exported_is_told(workshop, words):
    done = workshop.luthier("export", "nothing", workshop.folder / "x", *words)
    assert done.exit_code in (2, 5) and "Traceback" not in done.stderr


def test_plan_tells_what_each_form_takes(workshop):
    words = ["--set", "postprocess.export=[adapter, merged, int8]", "--no-probe", "--json"]
    told = json.loads(workshop.luthier("plan", workshop.folder / "recipe.yaml", *words).stdout)
    assert list(told["package"]) == ["adapter", "merged", "int8"]
    assert told["package"]["int8"] < told["package"]["merged"]
    workshop.run("--set", "postprocess.export=[adapter, merged, int8]")
    package = json.loads(workshop.luthier("list", "package", "--json").stdout)[0]
    files = json.loads(workshop.luthier("show", package["digest"], "--json").stdout)["files"]
    sizes = {f["path"]: f["size_bytes"] for f in files}
    for form, name in (("adapter", "adapter_model"), ("merged", "model"), ("int8", "model")):
        assert 0 <= sizes[f"{form}/{name}.safetensors"] - told["package"][form] < 12_000, (
            form
        )  # a header of names
