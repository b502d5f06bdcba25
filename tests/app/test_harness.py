"""The harness both ways on a tiny model: our rows leave as its task, its task runs on our model, over HTTP too."""

import json
import os
import subprocess
import sys

import pytest
import yaml

from .conftest import RECIPE, Workshop, rows

WITHOUT = "lm-eval is not installed (make setup-optional)"


pytestmark = pytest.mark.harness


@pytest.fixture
def harness():
    return pytest.importorskip("lm_eval", reason=WITHOUT)


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_base):
    """One release that may say nothing but a label, and its test rows in the harness' form: (workshop, folder, what was told)."""
    folder = tmp_path_factory.mktemp("harness")
    (folder / "shop").mkdir()
    shop = Workshop(folder / "shop", folder / "home")
    (shop.folder / "tiny").symlink_to(tiny_base)
    shop.write("rows.jsonl", "".join(json.dumps(row) + "\n" for row in rows()))
    shop.write("recipe.yaml", RECIPE + "postprocess: {constrain: labels}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LUTHIER_HOME", str(shop.home))
        shop.run()
        result = shop.luthier(
            "data", "export", "router", shop.folder / "tasks", "--format", "lm-eval", "--json"
        )
    assert result.exit_code == 0, result.output
    return shop, shop.folder / "tasks", json.loads(result.stdout)


@pytest.fixture
def exported(made, monkeypatch):
    monkeypatch.setenv("LUTHIER_HOME", str(made[0].home))
    return made


def test_an_export_is_recorded_and_holds_the_test_rows_alone(exported):
    from luthier.app.app import App

    workshop, folder, told = exported
    assert told["tasks"] == ["router", "router_written"] and told["left_out"] == 0
    assert sorted(path.name for path in folder.iterdir()) == told["files"]
    rows = [json.loads(line) for line in (folder / "test.jsonl").read_text().splitlines()]
    store = App.open().store
    (dataset,) = store.catalog.all("dataset")
    facts = json.loads((store.folder(dataset) / "dataset.json").read_text())
    assert len(rows) == facts["counts"]["test"] == told["rows"]["test"] and told["rows"]["train"] == 0
    assert {row["system"] for row in rows} == {"Route the message."}
    config = yaml.safe_load((folder / "router.yaml").read_text())
    assert config["doc_to_choice"] == facts["task"]["labels"]
    (event,) = store.ledger.read(kind="exported", subject=dataset.digest)
    assert event.data["format"] == "lm-eval" and event.data["tasks"] == ["router", "router_written"]
    again = workshop.luthier("data", "export", "router", folder, "--format", "lm-eval")
    assert again.exit_code == 2 and "is already there" in again.output


def test_a_url_cannot_be_read_by_the_harness(exported):
    workshop, _, _ = exported
    result = workshop.luthier("data", "export", "router", "s3://bucket/tasks", "--format", "lm-eval")
    assert result.exit_code == 2 and "reads its rows from this machine" in result.output


def test_both_tools_measure_the_same(exported, harness):
    """The harness sums over a label's tokens alone, ours over these and the token that ends the turn. What it sums is what a
    plain pass of ours gives, row by row and label by label."""
    from luthier.app.app import App

    workshop, folder, _ = exported
    result = workshop.luthier("harness", "router", "--tasks", "router", "--include", folder, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    store = App.open().store
    report = json.loads((store.folder(next(iter(store.catalog.all("report")))) / "report.json").read_text())
    task = found["tasks"]["router"]
    assert task["rows"] == report["rows"] and found["chat"] and found["release"] == "router@1"
    artifact = store.catalog.get(found["benchmark"])
    assert artifact.kind == "benchmark" and set(artifact.parents) == {"model", "base"}
    answers = [
        json.loads(line) for line in (store.folder(artifact) / "answers.jsonl").read_text().splitlines()
    ]
    expected = plain_scores(store, folder)
    for one, values in zip(answers, expected, strict=True):
        assert [float(value) for value, _ in one["said"]] == pytest.approx(values, abs=1e-3)
    acc = sum(one["metrics"]["acc"] for one in answers) / len(answers)
    assert task["metrics"]["acc"]["value"] == pytest.approx(acc)
    again = json.loads(
        workshop.luthier("harness", "router", "--tasks", "router", "--include", folder, "--json").stdout
    )
    assert again["benchmark"] == found["benchmark"] and found["made"] and not again["made"]
    shown = workshop.luthier("show", found["benchmark"])
    assert shown.exit_code == 0 and "router acc" in shown.output
    listed = workshop.luthier("list", "benchmark", "--json")
    assert [one["digest"] for one in json.loads(listed.stdout)] == [found["benchmark"]]


def plain_scores(store, folder):
    """ln p of every label of every row, one at a time, without the end of the turn."""
    from luthier.models.forward import sequence_loss
    from luthier.models.template import Encoded, Template
    from luthier.models.weights import describe, load, load_tokenizer

    tuned = next(one for one in store.catalog.all("model") if "base" in one.parents)
    base = store.folder(store.catalog.get(tuned.parents["base"]))
    model = load(store.folder(tuned), base_folder=base)
    template = Template(load_tokenizer(base), describe(base).context)
    labels = yaml.safe_load((folder / "router.yaml").read_text())["doc_to_choice"]
    for line in (folder / "test.jsonl").read_text().splitlines():
        row = json.loads(line)
        prompt = template.prompt(
            [{"role": "system", "content": row["system"]}, {"role": "user", "content": row["user"]}]
        )
        told = []
        for label in labels:
            own = template.answer(label)[:-1]
            loss, _ = sequence_loss(
                model, [Encoded([*prompt, *own], [False] * len(prompt) + [True] * len(own))]
            )[0]
            told.append(-loss)
        yield told


TEXTS = {
    "task": "texts", "dataset_path": "json", "test_split": "test", "output_type": "loglikelihood_rolling",
    "doc_to_text": "", "doc_to_target": "text", "metric_list": [{"metric": "word_perplexity"}, {"metric": "bits_per_byte"}],
    "dataset_kwargs": {},
}  # fmt: skip


def test_whole_texts_longer_than_the_context(exported, harness, tmp_path):
    """bits per byte = -ln p / (bytes ln 2), by one window of the whole text where it fits."""
    import math

    from luthier.app.app import App
    from luthier.models.forward import sequence_loss
    from luthier.models.template import Encoded, Template
    from luthier.models.weights import describe, load, load_tokenizer

    workshop, tasks = exported[0], tmp_path / "own"
    tasks.mkdir()
    texts = ["the parcel has not arrived", "Please refund the second payment on my invoice. " * 3]
    (tasks / "rows.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    config = {**TEXTS, "dataset_kwargs": {"data_files": {"test": str(tasks / "rows.jsonl")}}}
    (tasks / "texts.yaml").write_text(json.dumps(config))
    result = workshop.luthier(
        "harness", "router", "--tasks", "texts", "--include", tasks, "--no-chat-template", "--json"
    )
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)["tasks"]["texts"]["metrics"]
    store = App.open().store
    tuned = next(one for one in store.catalog.all("model") if "base" in one.parents)
    base = store.folder(store.catalog.get(tuned.parents["base"]))
    model = load(store.folder(tuned), base_folder=base)
    template = Template(load_tokenizer(base), describe(base).context)
    bos = template.tokenizer.bos_token_id
    opening = template.tokenizer.eos_token_id if bos is None else bos
    total = 0.0
    for text in texts:
        ids = [opening, *template.tokenizer(text, add_special_tokens=False)["input_ids"]]
        total += sequence_loss(model, [Encoded(ids, [False] + [True] * (len(ids) - 1))])[0][0]
    expected = total / math.log(2) / sum(len(text.encode()) for text in texts)
    assert found["bits_per_byte"]["value"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("words", "told", "code"),
    [
        (("--tasks", "rooter"), "the harness has no task 'rooter'", 2),
        (("--tasks", ","), "--tasks names no task", 2),
        (("--tasks", "router", "--include", "nowhere"), "is not a folder", 2),
        (("--tasks", "arc_easy"), "not to be had", 3),
    ],
)
def test_what_cannot_be_run_is_said(exported, harness, words, told, code):
    result = exported[0].luthier("harness", "router", *words)
    assert told in result.output and "Traceback" not in result.output
    assert result.exit_code == code


def test_a_template_of_a_task_runs_in_a_sandbox(exported, harness, tmp_path):
    workshop, tasks = exported[0], tmp_path / "own"
    tasks.mkdir()
    (tasks / "rows.jsonl").write_text('{"text": "a"}\n')
    config = {
        **TEXTS, "doc_to_target": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "dataset_kwargs": {"data_files": {"test": str(tasks / "rows.jsonl")}},
    }  # fmt: skip
    (tasks / "texts.yaml").write_text(json.dumps(config))
    result = workshop.luthier("harness", "router", "--tasks", "texts", "--include", tasks)
    assert result.exit_code == 2 and "unsafe" in result.output, result.output


def test_without_the_package_the_extra_is_named(exported, monkeypatch):
    import importlib.metadata

    real = importlib.metadata.version

    def absent(name):
        if name == "lm-eval":
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    result = exported[0].luthier("harness", "router", "--tasks", "arc_easy")
    assert result.exit_code == 6 and "luthier[harness]" in result.output


def test_the_real_process_against_the_served_model(exported, harness, tmp_path):
    """lm_eval's own command line, over HTTP, with the model that `luthier serve` answers for. The served model may say nothing
    but a label, so its exact match is our accuracy."""
    from luthier.app.app import App
    from luthier.server.keys import KeyRing, generate
    from luthier.server.openai import create_app
    from luthier.server.serve import running
    from luthier.server.served import ServedModel

    folder = exported[1]
    app = App.open()
    report = json.loads(
        (app.store.folder(next(iter(app.store.catalog.all("report")))) / "report.json").read_text()
    )
    answerer = app.models.engine("router")
    model = ServedModel("router", answerer.engine, package_digest=answerer.digest, release=answerer.release)
    text, key = generate(frozenset({"chat", "models.read"}))
    out = tmp_path / "out"
    with running(create_app({"router": model}, KeyRing([key]), on_exchange=lambda _: None)) as url:
        done = subprocess.run(
            [
                sys.executable, "-m", "lm_eval", "--model", "local-chat-completions",
                "--model_args", f"model=router,base_url={url}/v1/chat/completions,num_concurrent=1,max_retries=1",
                "--tasks", "router_written", "--include_path", str(folder), "--apply_chat_template",
                "--output_path", str(out),
            ],
            env={
                **os.environ, "OPENAI_API_KEY": text, "HF_DATASETS_OFFLINE": "1", "HF_HUB_OFFLINE": "1",
                "HF_DATASETS_CACHE": str(tmp_path / "cache"), "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1",
            },
            capture_output=True, text=True, timeout=300,
        )  # fmt: skip
    answerer.engine.close()
    assert done.returncode == 0, done.stderr[-3000:]
    (path,) = out.rglob("results_*.json")
    found = json.loads(path.read_text())["results"]["router_written"]
    assert found["exact_match,none"] == pytest.approx(report["systems"]["tuned"]["metrics"]["accuracy"])
