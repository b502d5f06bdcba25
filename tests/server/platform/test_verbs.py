"""App = Client: every verb of the table, asked of a project's App and of a server over a real port, tells the same and fails the same."""

import json
import shutil
from pathlib import Path

import pytest

from luthier import Client
from luthier.app import verbs
from luthier.app.site import Site
from luthier.core.artifact import key_of
from luthier.core.errors import LuthierError
from luthier.core.verbs import VERBS
from luthier.evaluation import predictions
from luthier.models.testing import tiny_model
from luthier.store.traffic import Exchange, Judgement

NOON = 1_700_000_000.0
RECIPE = """\
name: router
base: tiny
task: {kind: classify, instruction: "Route the message."}
data:
  sources: [{files: rows.jsonl, map: {user: text, label: queue}}]
  rules: {quality: [normalize, drop_empty, deduplicate]}
  split: {validation: 0.15, test: 0.25}
"""
MERGE = "models: [none@1, desk@2]\n"
QUEUES = ("billing", "delivery", "technical")


def furnish(app, folder):
    """Two releases of one name, whose answers differ, some traffic, and a recipe with its rows in `folder`."""
    folder.mkdir()
    (folder / "recipe.yaml").write_text(RECIPE)
    (folder / "merge.yaml").write_text(MERGE)
    rows = [{"text": f"Message {i}: the {QUEUES[i % 3]} again.", "queue": QUEUES[i % 3]} for i in range(60)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "judged.jsonl").write_text('{"id": "chatcmpl-1", "rating": 1}\n{"id": "nobody", "rating": 0}\n')
    store = app.store
    of = store.catalog.get(app.data.prepare(folder / "recipe.yaml")["dataset"])

    def made(kind, spec, fill, parents):
        digests = {role: one.digest for role, one in parents.items()}
        key = key_of(kind, spec, 1, digests)
        with store.working(key) as (out, _):
            fill(out)
            return store.commit(kind, key, spec, 1, digests, out, {"rows": 30})

    def report(wrong):
        def fill(out):
            lines = [
                {"id": f"test{i:04d}", "model": "tuned", "reference": QUEUES[i % 2], "prediction": QUEUES[(i + (i < wrong)) % 2],
                 "correct": i >= wrong, "probability": 0.75}
                for i in range(30)
            ]  # fmt: skip
            predictions.write(predictions.table(lines), out / "predictions.parquet")
            task = {"kind": "classify", "labels": list(QUEUES[:2])}
            (out / "report.json").write_text(
                json.dumps(
                    {
                        "task": task,
                        "metrics": ["accuracy"],
                        "systems": {},
                    }
                )
            )

        return fill

    tiny = tiny_model(folder / "tiny")
    base = made("model", {"base": "tiny"}, lambda out: shutil.copytree(tiny, out, dirs_exist_ok=True), {})
    for version, wrong in ((1, 9), (2, 3)):
        model = made("model", {"version": version}, lambda out: None, {"dataset": of, "base": base})
        told_ = made("report", {"wrong": wrong}, report(wrong), {"dataset": of, "model": model})
        done = made(
            "release",
            {"version": version},
            lambda out: None,
            {"dataset": of, "model": model, "report": told_},
        )
        store.catalog.name("desk", done.digest)
    (app.home / "reports").mkdir()
    (app.home / "reports" / "desk@2.html").write_text("<!doctype html><p>desk</p>")
    for i in range(3):
        store.traffic.keep(
            Exchange(
                f"chatcmpl-{i}", "desk", "desk@1", "p" * 64, "k", "ann", [{"role": "user", "content": f"{i}?"}],
                [{"text": "billing", "refusal": None}], 0.5, 0, NOON + i,
            )
        )  # fmt: skip
    store.traffic.judge([Judgement("chatcmpl-0", 0, 1.0, None, None, "ann", NOON)])


class Here:
    """App, with results made plain as the command line has them."""

    def __init__(self, app):
        self.app = app

    def __call__(self, name, /, *given, **named):
        method = getattr(getattr(self.app, VERBS[name].noun), VERBS[name].method)
        if (
            "by"
            in method.__code__.co_varnames[: method.__code__.co_argcount + method.__code__.co_kwonlyargcount]
        ):
            named["by"] = verbs.asked_by(self.app)
        return verbs._plain(VERBS[name], method(*given, **named))


def steps(folder, out):
    """(verb, arguments, named arguments), in an order in which each finds what it needs."""
    recipe, merge = folder / "recipe.yaml", folder / "merge.yaml"
    name = {"name": "desk", "reason": "looked at"}
    return [
        ("records.listing", (), {}),
        ("records.listing", ("report",), {}),
        ("records.listing", ("datasets",), {}),
        ("records.show", ("desk@1",), {"verify": True}),
        ("records.show", ("desk@9",), {}),
        ("records.lineage", ("desk",), {}),
        ("records.lineage", ("nothing",), {}),
        ("records.page", ("desk",), {}),
        ("records.page", ("other",), {}),
        ("records.pictures", ("other", out / "pictures"), {}),
        ("models.compare", ("desk@1", "desk@2"), {}),
        ("models.compare", ("desk@1", "desk@7"), {}),
        ("models.select", (("desk@1", "desk@2"),), {}),
        ("models.select", (("desk@1",),), {}),
        ("models.render", ("desk@1", "container", out / "rendered"), {"image": "python:3"}),
        ("models.export", ("nothing", out / "weights"), {}),
        ("models.harness", ("nothing", ["arc_easy"]), {}),
        ("recipes.plan", (recipe, ("train.method=none",)), {"probe": False}),
        ("recipes.profile", (recipe, ("train.method=none",)), {"steps": 1}),
        ("recipes.search", (recipe,), {}),
        ("recipes.advise", (recipe, ("train.epochs=-1",)), {"probe": False}),
        ("recipes.run", (recipe, ("evaluate.gate={nothing: 1}",)), {}),
        ("recipes.merge", (merge,), {}),
        ("data.prepare", (recipe,), {}),
        ("data.inspect", ("@dataset",), {"page": False}),
        ("data.inspect", ("none",), {}),
        ("data.advise", ("@dataset",), {}),
        ("data.diff", ("desk@1", "desk@2"), {}),
        ("data.explain", ("rows.jsonl:3",), {"dataset": "@dataset"}),
        ("data.search", ("@dataset", ["message", "delivery"]), {"limit": 3}),
        ("data.search", ("desk",), {"where": ["nothing=1"]}),
        ("data.export", ("@dataset", out / "rows"), {"format": "jsonl"}),
        ("data.forget", (["origin=rows.jsonl:3"],), {"reason": "asked for"}),
        ("data.forgotten", (), {}),
        ("traffic.names", (), {}),
        ("traffic.listing", ("desk", 2), {}),
        ("traffic.listing", ("nobody",), {}),
        ("traffic.show", ("chatcmpl-0",), {}),
        ("traffic.show", ("chatcmpl-9",), {}),
        ("traffic.feedback", (folder / "judged.jsonl",), {}),
        ("traffic.remove", (), {}),
        ("traffic.remove", (), {"ids": ["chatcmpl-2"], "why": "asked for"}),
        ("rollouts.plan_of", ("desk@2",), {}),
        ("rollouts.start", ("desk@2",), {"reason": "trained on June"}),
        ("rollouts.start", ("desk@1",), {"reason": "again", "plan": {"nothing": 1}}),
        ("rollouts.pause", (), name),
        ("rollouts.resume", (), name),
        ("rollouts.approve", (), name),
        ("rollouts.promote", (), name),
        ("rollouts.roll_back", (), name),
        ("rollouts.status", ("desk",), {}),
        ("rollouts.history", ("desk",), {}),
        ("rollouts.listing", (), {}),
        ("monitor.show", ("desk",), {}),
        ("monitor.report", ("desk",), {"since": "1 day"}),
        ("monitor.baseline", ("desk",), {"since": "2 days", "because": "a good week"}),
        ("monitor.approve", (), name),
        ("monitor.decline", (), name),
        ("audit.newest", (), {"action": "rollout."}),
        ("audit.verify", (), {}),
        ("audit.erase", (), {"person": "nobody", "because": "asked for"}),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def walked(tmp_path_factory, at_a_port, allow):
    """What each door tells at each step, or how it fails; two projects that hold the same."""
    place = tmp_path_factory.mktemp("doors")
    site = Site.open({"LUTHIER_HOME": str(place / "site"), "HOME": str(place)})
    text = site.found()
    allow(site, bases=["known", "tiny"])
    found = {}
    with at_a_port(site) as (url, _):
        for door in ("App", "Client"):
            caller = site.check(text)
            if door == "Client":  # a project of its own, with the same in it
                site2 = Site.open({"LUTHIER_HOME": str(place / "site2"), "HOME": str(place)})
                text2 = site2.found()
                allow(site2, bases=["known", "tiny"])
                with at_a_port(site2) as (url, _), Client(url, text2) as client:
                    caller = site2.check(text2)
                    furnish(site2.app(caller), place / door)
                    found[door] = list(walk(client.call, place / door, place / f"{door}-out"))
                continue
            app = site.app(caller)
            furnish(app, place / door)
            found[door] = list(walk(Here(app), place / door, place / f"{door}-out"))
    found["folders"] = {door: place / f"{door}-out" for door in ("App", "Client")}
    return found


def walk(ask, folder, out):
    out.mkdir()
    dataset = ""
    for verb, given, named in steps(folder, out):
        given = [dataset if one == "@dataset" else one for one in given]
        named = {name: dataset if one == "@dataset" else one for name, one in named.items()}
        try:
            found = ask(verb, *given, **named)
            dataset = found["dataset"] if verb == "data.prepare" else dataset
            yield verb, found
        except LuthierError as error:
            yield verb, (type(error).__name__, error.message, error.remedy)


VOLATILE = ("_s", "seconds", "time_us", "sha256", "head", "previous", "key", "actor", "created", "user")


def scrubbed(verb, value, folders):
    """Without times, hashes that depend on them, and where this machine keeps things."""
    if isinstance(value, dict):
        return {
            name: (one is not None) if name in (*verb.files, *verb.here) else scrubbed(verb, one, folders)
            for name, one in value.items()
            if not any(name.endswith(end) for end in VOLATILE)
        }
    if isinstance(value, list | tuple):
        return [scrubbed(verb, one, folders) for one in value]
    if isinstance(value, str):
        for door, folder in folders.items():
            value = value.replace(str(folder), "OUT").replace(str(folder.parent / door), "FOLDER")
    return value


NAMES = [f"{i:02d} {verb}" for i, (verb, _, _) in enumerate(steps(Path(), Path()))]


class TestBothDoors:
    @pytest.mark.parametrize("which", range(len(NAMES)), ids=NAMES)
    def test_a_verb_tells_the_same(self, walked, which):
        (verb, here), (_, afar) = walked["App"][which], walked["Client"][which]
        known = VERBS[verb]
        if verb == "records.show" and isinstance(here, dict):
            assert afar["folder"] is None and afar["damaged"] == []
            here, afar = ({k: v for k, v in one.items() if k not in known.here} for one in (here, afar))
        assert scrubbed(known, here, walked["folders"]) == scrubbed(known, afar, walked["folders"])

    def test_every_verb_is_asked(self, walked):
        assert {verb for verb, _ in walked["App"]} == set(VERBS)

    def test_most_steps_succeed(self, walked):
        succeeded = {verb for verb, found in walked["Client"] if not isinstance(found, tuple)}
        assert len(succeeded) >= 30, sorted(set(VERBS) - succeeded)

    def test_files_arrive_as_they_were_written(self, walked):
        here, afar = (walked["folders"][door] for door in ("App", "Client"))
        for folder in ("rows", "rendered"):
            if (here / folder).exists():
                names = sorted(
                    p.relative_to(here / folder) for p in (here / folder).rglob("*") if p.is_file()
                )
                assert names == sorted(
                    p.relative_to(afar / folder) for p in (afar / folder).rglob("*") if p.is_file()
                )
                assert all(
                    (here / folder / one).stat().st_size == (afar / folder / one).stat().st_size
                    for one in names
                )


@pytest.mark.slow  # two trainings of a tiny model
def test_a_run_at_a_server_makes_what_a_run_here_makes(tmp_path, at_a_port, allow):
    train = "train: {epochs: 1, batch: {rows: 8, micro_tokens: 512}, dtype: fp32, adapter: {kind: lora, rank: 4}}\nevaluate: {resamples: 200}\n"
    site = Site.open({"LUTHIER_HOME": str(tmp_path / "site"), "HOME": str(tmp_path)})
    text, found = site.found(), {}
    allow(site, bases=["known", "tiny"])
    app = site.app_of("proj_here", site.top.actor)
    furnish(app, tmp_path / "shop")
    recipe = tmp_path / "shop" / "recipe.yaml"
    recipe.write_text(RECIPE + train)
    found["App"] = Here(app)("recipes.run", recipe)
    Here(app)("models.export", "router", tmp_path / "App", form="adapter")
    with at_a_port(site) as (url, _), Client(url, text) as client:
        found["Client"] = client.recipes.run(recipe)
        client.models.export("router", tmp_path / "Client", form="adapter")
        report = client.download(found["Client"]["report_path"], tmp_path / "report.html")
        assert "<html" in report.read_text()
        assert client.records.show("router")["report"]["sha256"] == found["Client"]["report_path"]["sha256"]
        again = client.recipes.run(recipe)
    assert again["made"] == [] and again["release"] == "router@1"
    for key in ("release", "metrics", "comparisons", "lines"):
        assert found["App"][key] == found["Client"][key], key
    weights = [(tmp_path / door / "adapter_model.safetensors").read_bytes() for door in ("App", "Client")]
    assert weights[0] == weights[1]
