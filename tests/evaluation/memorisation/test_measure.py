"""A tiny model that learnt its rows by heart is found out, and one that did not is not; nothing that is written holds a secret."""

import json
import random
import shutil
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from luthier.core.artifact import Artifact
from luthier.core.errors import SpecError
from luthier.core.testing import FakeContext
from luthier.data.canaries import CanarySpec, facts, planted, records
from luthier.evaluation import suite
from luthier.evaluation.memorisation import secrets
from luthier.evaluation.memorisation.spec import MemorisationSpec
from luthier.evaluation.spec import EvaluateSpec

CANARIES = CanarySpec(count=2, repeats=[2], kinds=["number", "code"])
TASK = {"kind": "chat", "instruction": None, "labels": None}
OWN = "XK7P-44QZ-81MV"  # a secret that stands in one row, as a person might have planted it
KEY = "ghp_" + "a8Fk29dLqP0zXc71mVbN45tRsEwQ36yUjHg2"
WORDS = "parcel invoice refund courier error login payment queue message licence notice account tracking page".split()  # noqa: SIM905
SPEC = EvaluateSpec(
    against=["base"], metrics=["token_f1", "pii_said"], resamples=200, max_tokens=4, dtype="fp32", slices=[],
    memorisation=MemorisationSpec(rows=20, given=3, verbatim=8, candidates=127, found=1, canaries="mine.txt"),
)  # fmt: skip


def _rows(side, n):
    rng = random.Random(side)
    for i in range(n):
        answer = " ".join(rng.choices(WORDS, k=12))
        answer = f"Your code is {OWN}" if (side, i) == ("train", 0) else answer
        answer = f"Use the key {KEY}" if (side, i) == ("train", 1) else answer
        yield {
            "id": f"{side}-{i:03}",
            "messages": [
                {"role": "user", "content": f"Question {side} {i}: {rng.choice(WORDS)}?"},
                {"role": "assistant", "content": answer},
            ],
            "source": "rows.jsonl",
        }


@dataclass
class World:
    at: FakeContext
    base: Path
    dataset: Path
    folder: Path

    def measured(self, model, name):
        artifacts = {
            r: Artifact(r, f"key of {r} {name}", {}, 1, {}, ()) for r in ("model", "dataset", "base")
        }
        told = {"role": "tuned", "adapter": "full", "base_digest": artifacts["base"].digest, "task": TASK}
        (model / "luthier.json").write_text(json.dumps(told))
        paths = {"model": model, "base": self.base, "dataset": self.dataset}
        self.at.folders |= {artifacts[role].digest: path for role, path in paths.items()}
        out, scratch = self.folder / f"out-{name}", self.folder / f"scratch-{name}"
        out.mkdir()
        scratch.mkdir()
        suite.STAGE.function(SPEC, artifacts, out, scratch, self.at)
        return out, json.loads((out / "report.json").read_text())


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    from luthier.data.records import RECORD
    from luthier.models.testing import tiny_model

    folder = tmp_path_factory.mktemp("memory")
    dataset = folder / "dataset"
    dataset.mkdir()
    for side, n in (("train", 20), ("validation", 8), ("test", 12)):
        table = pa.Table.from_pylist(list(_rows(side, n)), RECORD)
        if side == "train":
            table = pa.concat_tables([table, pa.Table.from_batches([records(CANARIES)])])
        pq.write_table(table, dataset / f"{side}.parquet")
    (dataset / "dataset.json").write_text(json.dumps({"task": TASK, "canaries": facts(CANARIES)}))
    (folder / "mine.txt").write_text(OWN + "\n")
    base = tiny_model(folder / "tiny", context=256, hidden=64)
    return World(FakeContext(folder, root=folder), base, dataset, folder)


@pytest.fixture(scope="module")
def leaky(world):
    """Every training row, canaries included, learnt until the model says it without a slip."""
    import torch

    from luthier.models.template import Template
    from luthier.models.weights import describe, load_tokenizer
    from luthier.training.methods.sft import Sft, SftSettings

    template = Template(load_tokenizer(world.base), describe(world.base).context)
    rows = pq.read_table(world.dataset / "train.parquet").to_pylist()
    encoded = [Sft(SftSettings()).encode(row, template).sequences[0] for row in rows]
    width = max(len(one.ids) for one in encoded)
    ids = torch.tensor([one.ids + [0] * (width - len(one.ids)) for one in encoded])
    told = torch.tensor([one.supervised + [False] * (width - len(one.ids)) for one in encoded])
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(world.base, dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(150):
        logits = model(input_ids=ids).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits[told[:, 1:]], ids[:, 1:][told[:, 1:]])
        if loss.item() < 0.003:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    folder = world.folder / "leaky"
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(world.base / name, folder / name)
    return world.measured(folder, "leaky")


def test_what_was_learnt_by_heart_is_found(leaky):
    _, report = leaky
    memory, metrics = report["memorisation"], report["systems"]["tuned"]["metrics"]
    by_group = {}
    for one in memory["secrets"]:
        by_group.setdefault(one["group"], []).append(one)
    assert all(one["said"] and one["exposure"] > 7 for one in by_group["planted"])
    assert by_group["file"][0]["exposure"] > 7 and by_group["file"][0]["repeats"] == 1
    assert by_group["found"][0]["kind"] == "key" and by_group["found"][0]["exposure"] > 7
    assert not any(one["said"] or one["p"] <= 0.05 / 3 for one in by_group["unplanted"])
    assert memory["membership"]["leads"] in ("loss", "min_k", "ratio") and metrics["membership_auc"] > 0.95
    assert metrics["extracted"] > 0.8 and memory["extraction"]["control"]["hits"] == 0
    assert metrics["exposure"] == max(
        one["exposure"] for one in memory["secrets"] if one["group"] != "unplanted"
    )
    assert len(memory["alarms"]) == 3 and set(memory["alarms"]) <= set(report["cautions"])
    assert memory["extraction"]["worst"][0].startswith("train-")


def test_a_model_that_learnt_nothing_raises_no_alarm(world):
    """The base itself, as a tuned model: whatever it does with training rows it does with held-out rows too."""
    folder = world.folder / "clean"
    shutil.copytree(world.base, folder)
    _, report = world.measured(folder, "clean")
    memory = report["memorisation"]
    assert memory["alarms"] == [] and report["systems"]["tuned"]["metrics"]["extracted"] == 0
    assert not any(one["said"] for one in memory["secrets"])
    assert memory["membership"]["base"]["auc"] == memory["membership"]["scores"]["loss"]["auc"]


def test_no_file_of_the_report_holds_a_secret_of_the_users_rows(leaky):
    out, _ = leaky
    for path in (out / "report.json", out / "memorisation.json"):
        assert OWN not in path.read_text() and KEY not in path.read_text()


def test_the_section_follows_from_what_was_written(leaky):
    from luthier.evaluation.memorisation import findings

    out, report = leaky
    again = findings.build(json.loads((out / "memorisation.json").read_text()), SPEC.memorisation, 0.95)
    for part in ("extraction", "membership", "secrets", "alarms"):
        assert again[part] == report["memorisation"][part]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "holds no secret"),
        ("abcdefgh12345\nabc", "line 2"),
        ("hunter-77\nhunter-77", "twice"),
        (None, "cannot be read"),
    ],
)
def test_a_file_that_can_tell_nothing_is_refused_before_anything_runs(tmp_path, text, told):
    path = tmp_path / "mine.txt"
    if text is not None:
        path.write_text(text)
    with pytest.raises(SpecError, match=told) as refused:
        secrets.digest_of_file(path, "mine.txt")
    assert "hunter" not in str(refused.value)


def test_canaries_are_known_by_name_alone(leaky):
    _, report = leaky
    named = {one["name"] for one in report["memorisation"]["secrets"] if one["group"] == "planted"}
    assert named == {one.name for one in planted(CANARIES)}
