"""Every mistake in docs/errors.md, made for real: a clear message with the remedy, the right exit code, nothing lost; and
where the recipe alone shows it, nothing begun.

Each test's docstring is the row's first cell in docs/errors.md; `test_the_page_lists_every_mistake` holds them together.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "errors.md"


def refused(workshop, code: int, *parts: str, words=()) -> str:
    """The run must end with `code` and say every part, without a traceback."""
    result = workshop.luthier("run", workshop.folder / "recipe.yaml", *words)
    assert result.exit_code == code, result.output
    told = result.stderr
    for part in ("→", *parts):
        assert part in told, told
    assert "Traceback" not in told
    return told


def refused_at_once(workshop, code: int, *parts: str, words=()) -> None:
    """The same, before anything was read or made."""
    refused(workshop, code, *parts, words=words)
    assert not workshop.home.exists()


def recovers(workshop) -> None:
    assert workshop.run()["release"] == "router@1"


def test_missing_recipe(workshop):
    """A recipe that is not there"""
    result = workshop.luthier("run", workshop.folder / "recip.yaml")
    assert result.exit_code == 2
    assert "there is no recipe" in result.stderr and "did you mean 'recipe.yaml'" in result.stderr


def test_missing_file(workshop):
    """A data file that is not there"""
    os.rename(workshop.folder / "rows.jsonl", workshop.folder / "rows1.jsonl")
    refused(workshop, 3, "rows.jsonl", "rows1.jsonl")


def test_empty_file(workshop):
    """An empty data file"""
    workshop.write("rows.jsonl", "")
    refused(workshop, 3, "rows.jsonl", "empty")


def test_broken_json(workshop):
    """Broken JSON at line N"""
    lines = (workshop.folder / "rows.jsonl").read_text().splitlines()
    lines[6] = '{"text": "unfinished'
    workshop.write("rows.jsonl", "\n".join(lines) + "\n")
    refused(workshop, 3, "rows.jsonl:7")


def test_missing_label(workshop):
    """A row without a label"""
    lines = (workshop.folder / "rows.jsonl").read_text().splitlines()
    lines[4] = '{"text": "no queue here", "queue": null}'
    workshop.write("rows.jsonl", "\n".join(lines) + "\n")
    refused(workshop, 3, "rows.jsonl:5", "queue")
    done = workshop.run(
        "--set", "data.sources.0.map.on_bad_row=set_aside"
    )  # the remedy that the message offers
    assert done["release"] == "router@1"


def test_schema_of_another_task(workshop):
    """A schema of a task that has none"""
    refused_at_once(
        workshop, 2, "a schema belongs to `kind: extract`", words=["--set", "task.schema={type: object}"]
    )


def test_schema_file(workshop):
    """A file with a schema that is not there, or holds none"""
    words = [
        "--set",
        "task={kind: extract, schema: s.json}",
        "--set",
        "data.sources.0.map={user: text, assistant: queue}",
    ]
    refused(workshop, 3, "task.schema", "s.json cannot be read: No such file", words=words)
    workshop.write("s.json", '{"type": "objekt"}')
    refused(workshop, 3, "s.json: this is no JSON Schema: 'objekt'", words=words)


def test_unknown_label(workshop):
    """A label that the task does not name"""
    refused(workshop, 3, "technical", words=["--set", "task.labels=[billing, delivery, technicla]"])


def test_overlong_row(workshop):
    """A row longer than the model's context"""
    path = workshop.folder / "rows.jsonl"
    long = [
        {"text": f"{i} " + "word " * 3000, "queue": "billing"} for i in range(8)
    ]  # so many that some fall on the training side
    path.write_text(path.read_text() + "".join(json.dumps(row) + "\n" for row in long))
    refused(workshop, 3, "512", "skip")


def test_unknown_key(workshop):
    """An unknown key in the recipe"""
    recipe = workshop.folder / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("train: {epochs", "train: {epohcs"))
    refused(workshop, 2, "recipe.yaml:9", "did you mean 'epochs'?")


def test_unset_secret(workshop):
    """A ${VARIABLE} that is not set"""
    refused(
        workshop,
        2,
        "NO_SUCH_PLACE is not set",
        words=["--set", "data.sources.0.files=${NO_SUCH_PLACE}/rows.jsonl"],
    )


@pytest.fixture
def own_base(workshop, tiny_base) -> Path:
    """A base folder of this test alone."""
    (workshop.folder / "tiny").unlink()
    shutil.copytree(tiny_base, workshop.folder / "tiny")
    return workshop.folder / "tiny"


def test_pickled_model(workshop, own_base):
    """A model folder with a pickle in it"""
    (own_base / "pytorch_model.bin").write_bytes(b"\x80\x04\x95x.")
    refused(workshop, 4, "pytorch_model.bin")


def test_remote_code(workshop, own_base):
    """A model folder that wants to run its own code (auto_map)"""
    config = json.loads((own_base / "config.json").read_text())
    (own_base / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "evil.Model"}}))
    refused(workshop, 4, "auto_map", "config.json")


def test_missing_model(workshop):
    """A base model that is not there"""
    refused(workshop, 4, "./nowhere", words=["--set", "base=./nowhere"])


def test_unknown_model(workshop):
    """A base model whose name is mistyped"""
    refused(workshop, 4, "smollm2-135m-instruct", words=["--set", "base=smollm2-135m-instrct"])


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    folder.mkdir(exist_ok=True)
    if (
        os.geteuid() != 0
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, check=False
        ).returncode
    ):
        pytest.skip("mounting a tmpfs needs root")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)  # lazily: this process still holds the database


@pytest.mark.mount
@pytest.mark.parametrize("size_kb", [300, 900, 1500])
def test_full_disk(workshop, tmp_path, size_kb):
    """A full disk"""
    with mounted(tmp_path / "home", f"size={size_kb}k"):
        told = refused(workshop, 5, "is full")
        assert "run the same command again" in told
        subprocess.run(["mount", "-o", "remount,size=200m", tmp_path / "home"], check=True)
        recovers(workshop)


@pytest.mark.mount
def test_read_only_home(workshop, tmp_path):
    """A home that cannot be written"""
    with mounted(tmp_path / "home", "size=50m"):
        subprocess.run(["mount", "-o", "remount,ro", tmp_path / "home"], check=True)
        refused(workshop, 5, "cannot be written", "LUTHIER_HOME")
    recovers(workshop)


def test_second_process(workshop):
    """A second process on the same recipe and home"""
    command = [
        sys.executable,
        "-m",
        "luthier",
        "run",
        str(workshop.folder / "recipe.yaml"),
        "--set",
        "train.epochs=60",
    ]
    first = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert first.stderr is not None
    try:
        for line in first.stderr:
            if "step     1" in line:
                break
        refused(workshop, 5, f"pid {first.pid}", "Wait", words=["--set", "train.epochs=60"])
        other = workshop.run(
            "--set", "train.epochs=0.5", "--set", "name=other"
        )  # another recipe is not in the way
        assert other["release"] == "other@1"
    finally:
        first.terminate()
        first.communicate(timeout=60)


def test_unknown_reference(ran):
    """A name that nothing has"""
    result = ran.luthier("show", "ruoter")
    assert result.exit_code == 5 and "did you mean 'router'" in result.stderr


def test_empty_test_split(workshop):
    """A split that leaves nothing to measure"""
    refused_at_once(
        workshop, 3, "data.split.test is 0", words=["--set", "data.split={validation: 0.1, test: 0}"]
    )


def test_early_stopping_without_validation(workshop):
    """Early stopping with nothing to watch"""
    words = ["--set", "data.split={validation: 0, test: 0.3}", "--set", "train.early_stopping={patience: 2}"]
    refused_at_once(workshop, 2, "early_stopping", "data.split.validation", words=words)


def test_early_stopping_on_an_unknown_figure(workshop):
    """Early stopping on a figure that validation does not measure"""
    words = ["--set", "train.early_stopping={metric: token_acuracy}"]
    refused_at_once(workshop, 2, "measures no such figure", "did you mean 'token_accuracy'?", words=words)


def test_average_without_validation(workshop):
    """An average of the best weights with nothing to tell them by"""
    words = ["--set", "data.split={validation: 0, test: 0.3}", "--set", "train.keep=average"]
    refused_at_once(workshop, 2, "train.keep: average", "data.split.validation", words=words)


def test_mix_of_an_unknown_source(workshop):
    """A mix that names a source that is not there"""
    words = ["--set", "train.mix={weights: {row.jsonl: 1}}"]
    refused_at_once(workshop, 2, "names the source 'row.jsonl'", "did you mean 'rows.jsonl'?", words=words)


def test_unknown_method(workshop):
    """A training method whose name is mistyped"""
    words = ["--set", "train.method={dop: {beta: 0.1}}"]
    refused_at_once(workshop, 2, "there is no method called 'dop'", "did you mean 'dpo'", words=words)


def test_method_of_another_task(workshop):
    """A method that learns another kind of task"""
    words = ["--set", "task={kind: chat}", "--set", "train.method=regress"]
    refused_at_once(workshop, 2, "learns a regress task, and task.kind is chat", "sft", words=words)


def test_answer_that_is_no_number(workshop):
    """A row whose answer is no number, where numbers are learnt"""
    words = ["--set", "task={kind: regress}", "--set", "train.method=regress"]
    refused(workshop, 3, "rows.jsonl:", "'billing' is not a number", words=words)


def test_pair_without_a_rejected_answer(workshop):
    """A pair without a rejected answer"""
    words = ["--set", "task={kind: chat}", "--set", "train.method=dpo"]
    words += ["--set", "data.sources.0.map={user: text, assistant: queue}"]
    refused(workshop, 3, "rows.jsonl:", "this row has no rejected answer", "map.rejected", words=words)


def test_layers_that_are_not_there(workshop):
    """More layers to train than the base has"""
    words = ["--set", "train.adapter={kind: lora, last_layers: 99}"]
    refused(workshop, 4, "last_layers is 99", "Lower it to at most 2", words=words)
    assert not list(workshop.home.rglob("*.arrow"))  # no row has been tokenised


def test_start_that_is_gone(workshop):
    """A comparison with the model before training, where that is not kept"""
    words = ["--set", "task={kind: chat}", "--set", "train.adapter={kind: full}"]
    words += ["--set", "train.method={grpo: {rewards: [exact_match], kl: 0.1}}"]
    refused_at_once(workshop, 2, "grpo with kl compares", "set kl: 0", words=words)


def test_sharded_adapter(workshop):
    """An adapter that is to be sharded (fsdp)"""
    words = ["--set", "train.parallel={kind: fsdp, processes: 2}"]
    refused_at_once(workshop, 2, "train.adapter.kind is lora", "train.parallel.kind: ddp", words=words)


def test_processes_without_a_number(workshop):
    """Several processes, without a number and without a GPU to count"""
    words = ["--set", "train.parallel={kind: ddp}", "--set", "train.device=cpu"]
    refused_at_once(workshop, 2, "without a number of processes", "train.parallel.processes: 2", words=words)


def test_limit_of_money_without_a_price(workshop):
    """A limit of money on a machine without a price"""
    words = ["--set", "train.stop_at.money=1 EUR", "--set", "budget.machine=nowhere"]
    refused_at_once(workshop, 2, "no price is known for the machine 'nowhere'", "prices.yaml", words=words)


def test_labels_of_a_task_without_labels(workshop):
    """Answers that are to be labels, where there are none"""
    words = ["--set", "task={kind: chat}", "--set", "postprocess.constrain=labels"]
    refused_at_once(workshop, 2, "constrain: labels needs labels", "task.kind to classify", words=words)


def test_a_step_that_is_not_there(workshop):
    """A step of `postprocess.answers` under a wrong name"""
    words = ["--set", "postprocess.answers=[jsn]"]
    refused_at_once(workshop, 2, "no answer_step called 'jsn'", "did you mean 'json'", words=words)


def test_a_schema_that_is_not_there(workshop):
    """A file of a JSON schema that does not exist"""
    words = ["--set", "postprocess.answers=[{schema: {schema: answer.json}}]"]
    refused_at_once(
        workshop, 2, "answer.json cannot be read", "Paths start at the recipe's folder", words=words
    )


def test_a_schema_that_answers_cannot_be_held_to(workshop):
    """A JSON schema with what no grammar holds answers to"""
    words = ["--set", "postprocess.constrain={json_schema: {not: {type: string}}}"]
    refused_at_once(workshop, 2, "cannot be held to while answering", "the step `schema` checks", words=words)


def test_export_of_an_adapter_that_is_none(workshop):
    """An adapter to be exported, where all weights are trained"""
    words = ["--set", "train.adapter={kind: full}", "--set", "postprocess.export=[adapter]"]
    refused_at_once(workshop, 2, "full fine-tuning has no adapter", "export: [merged]", words=words)


def test_export_of_a_head_to_another_engine(workshop):
    """A model with a head of its own to be exported for another engine"""
    words = ["--set", "train.method=classify", "--set", "postprocess.export=[gguf-q8]"]
    refused_at_once(
        workshop, 2, "gguf-q8 was asked, and its engine knows no head", "method: sft", words=words
    )


def test_export_of_a_form_that_the_base_cannot_have(workshop):
    """A GGUF file of a family that it cannot say"""
    from luthier.models.testing import tiny_model

    tiny_model(workshop.folder / "other", family="olmo2")
    words = ["--set", "base=other", "--set", "postprocess.export=[gguf]"]
    refused(
        workshop,
        4,
        "a olmo2 model cannot be written",
        "Families that can: llama, mistral, qwen2, qwen3",
        words=words,
    )
    models = json.loads(workshop.luthier("list", "model", "--json").stdout)
    assert len(models) == 1  # the base: nothing was trained


def test_head_left_free(workshop):
    """A classification head that is to answer freely"""
    words = ["--set", "train.method=classify", "--set", "postprocess.constrain=null"]
    refused_at_once(workshop, 2, "it can say nothing but a label", "Leave constrain out", words=words)


def test_gate_that_cannot_be_judged(workshop):
    """A gate on a metric that is not measured"""
    refused_at_once(workshop, 2, "macro_f1", words=["--set", "evaluate.gate={macro_f2: {at_least: 0.5}}"])


def test_gate_on_the_perplexity_of_a_head(workshop):
    """A gate on the perplexity of a model with a head of its own"""
    words = ["--set", "train.method=classify", "--set", "evaluate.gate={perplexity: {at_most: 5}}"]
    refused_at_once(workshop, 2, "evaluate.gate: perplexity", "another metric", words=words)


def test_over_budget(workshop):
    """A run that would go over its budget"""
    refused(workshop, 2, "over its limits", "budget", words=["--set", "budget.time=1 ms"])
    recovers(workshop)


def test_bad_override(workshop):
    """A --set that changes nothing there is"""
    refused(workshop, 2, "--set", words=["--set", "train.epochs"])


def test_the_page_lists_every_mistake():
    rows = re.findall(
        r"^\| (.+?) \| .+ \| \d+ \| `(test_\w+)` \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE
    )
    tests = {
        name: (f.__doc__ or "").strip()
        for name, f in globals().items()
        if name.startswith("test_") and name != "test_the_page_lists_every_mistake"
    }
    assert {name: title for title, name in rows} == tests
