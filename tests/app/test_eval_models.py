"""Models that runs ask, with a real engine: a base as a recipe names it, opened in the project's own home."""

import pytest

from luthier.app.eval_models import EvalModels, opened, where
from luthier.app.evals import Evals
from luthier.app.project_models import Found, ProjectModels
from luthier.app.site import Site
from luthier.core.errors import SpecError
from luthier.evaluation.graders.asking import Sampling

TURNS = (("user", "hello"),)


@pytest.fixture
def site(tmp_path):
    site = Site.open({"LUTHIER_HOME": str(tmp_path / "site")})
    site.key = site.found()
    return site


def test_a_base_that_the_server_offers_answers_a_run(site, tiny_base):
    (site.top.home / "bases.yaml").write_text(f"tiny: {tiny_base}\n")
    caller = site.check(site.key)
    told = where(site, caller, "tiny")
    assert told == {"base": str(tiny_base)}
    models = EvalModels(lambda name: opened(site.app(caller), told))
    try:
        answers = [models.ask("tiny", TURNS, Sampling(5, temperature=1.0, seed=7)) for _ in range(2)]
        assert answers[0] == answers[1] and 0 < answers[0].tokens_out <= 5
        label = models.ask("tiny", TURNS, Sampling(temperature=0.0, labels=("yes", "no")))
        assert label.text in ("yes", "no")
    finally:
        models.close()


def test_a_model_of_another_project_is_not_opened_by_a_run(site, monkeypatch):
    caller = site.check(site.key)
    monkeypatch.setattr(ProjectModels, "find", lambda *_: Found("m", "proj_other", "m@1", 0.0, "x"))
    with pytest.raises(SpecError, match="another project's"):
        where(site, caller, "m")


def test_no_more_than_a_few_models_at_once():
    from luthier.serving.scripted_engine import ScriptedEngine

    models = EvalModels(lambda _: ScriptedEngine())
    for n in range(4):
        models.open(str(n))
    with pytest.raises(SpecError, match="more than 4 models"):
        models.open("5")


def test_evals_on_postgresql(postgres_url, tmp_path):
    from luthier.app.eval_spec import CustomConfig

    site = Site.open({"LUTHIER_HOME": str(tmp_path / "site"), "LUTHIER_DATABASE": postgres_url})
    caller = site.check(site.found())
    evals = Evals(site)
    config = CustomConfig(type="custom", item_schema={})
    check = {
        "type": "string_check",
        "name": "n",
        "input": "{{sample.output_text}}",
        "reference": "b",
        "operation": "eq",
    }
    made = evals.create(caller, name="a", config=config, criteria=[check], metadata={"a": "b"})

    from pydantic import TypeAdapter

    from luthier.app.eval_spec import RunSource

    rows = [{"item": {"n": n}, "sample": {"output_text": "b" if n % 2 else "a"}} for n in range(6)]
    source = {"type": "jsonl", "source": {"type": "file_content", "content": rows}}
    wish = TypeAdapter(RunSource).validate_python(source)
    run = evals.run(caller, made["id"], name=None, wish=wish, source=source, metadata=None)

    from luthier.app.context import Silent
    from luthier.app.jobs.eval_run import run as work

    class Attempt:
        job, app, watch = site.jobs.get(caller, run["id"]), site.app(caller), Silent()

        class stop:
            is_set = staticmethod(lambda: False)

        def tell(self, *_, **__):
            pass

    assert work(Attempt())["passed"] == 3
    items, more = evals.items(caller, made["id"], run["id"], after=None, limit=2, status="pass")
    assert ([one["datasource_item_id"] for one in items], more) == ([1, 3], True)
    told = evals.get_run(caller, made["id"], run["id"])
    assert told["result_counts"] == {"total": 6, "passed": 3, "failed": 3, "errored": 0}
    assert [one["id"] for one in evals.list(caller, after=None, limit=5)[0]] == [made["id"]]
