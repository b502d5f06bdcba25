"""What the validation rows give: a temperature that undoes too much or too little confidence, and a threshold that keeps its
promise on rows that nobody has seen."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from luthier.evaluation import calibration, predictions, suite
from luthier.evaluation.calibration import STAGE, CalibrateSpec, tempered, threshold
from luthier.evaluation.probabilities import values
from luthier.evaluation.spec import EvaluateSpec
from luthier.evaluation.suite import MeasureSpec
from luthier.outputs.spec import AnsweringSpec


def _honest(generator, n, k=4):
    """Probabilities that mean what they say."""
    p = generator.dirichlet(np.full(k, 0.5), n)
    truth = (p.cumsum(1) < generator.random((n, 1))).sum(1).clip(max=k - 1)
    return truth, p


@pytest.mark.parametrize("heat", [0.4, 1.7, 3.0])
def test_a_distortion_is_undone(heat):
    truth, p = _honest(np.random.default_rng(0), 4000)
    distorted = tempered(p, 1 / heat)
    found = calibration.temperature(truth, distorted)
    assert found == pytest.approx(heat, rel=0.08)
    assert values(truth, tempered(distorted, found))["ece"] < 0.03


def test_a_temperature_never_makes_the_loss_of_its_own_rows_worse():
    truth, p = _honest(np.random.default_rng(1), 60)
    found = calibration.temperature(truth, p)
    assert values(truth, tempered(p, found))["log_loss"] <= values(truth, p)["log_loss"]


@given(
    st.lists(st.lists(st.floats(0, 1), min_size=3, max_size=3).filter(sum), min_size=1, max_size=5),
    st.floats(0.1, 10),
)
def test_answers_stay_and_the_inverse_brings_the_old_ones_back(weights, heat):
    p = np.array(weights) / np.array(weights).sum(1, keepdims=True)
    warm = tempered(p, heat)
    assert warm.sum(1) == pytest.approx(np.ones(len(p)))
    best = np.sort(p, axis=1)
    clear = best[:, -1] > best[:, -2] * (1 + 1e-9)
    assert (warm.argmax(1) == p.argmax(1))[clear].all()
    if p[p > 0].min() > 1e-20:
        assert tempered(warm, 1 / heat) == pytest.approx(p, abs=1e-6)


@pytest.mark.parametrize(("wrong", "n"), [(0, 40), (3, 200), (17, 60)])
def test_the_bound_is_that_of_clopper_and_pearson(wrong, n):
    expected = binomtest(wrong, n, alternative="less").proportion_ci(0.97, method="exact").high
    assert calibration.upper_bound(wrong, n, 0.97) == pytest.approx(expected)


def test_the_risk_is_kept_as_often_as_promised():
    """300 validation sets of 400 rows: the threshold's true risk may pass 5 % in one of ten."""
    generator = np.random.default_rng(2)
    truth, p = _honest(generator, 200_000)
    sure, right = p.max(1), p.argmax(1) == truth
    broken = 0
    for _ in range(300):
        rows = generator.integers(0, len(sure), 400)
        found = threshold(sure[rows], right[rows], 0.05, 0.9)
        if found is not None:
            broken += (~right[sure >= found.at]).mean() > 0.05
    assert broken <= 30 + 4 * np.sqrt(300 * 0.1 * 0.9)


def test_all_right_answers_all_and_hopeless_answers_none():
    sure = np.linspace(0.3, 1, 500)
    found = threshold(sure, np.ones(500, bool), 0.05, 0.9)
    assert (found.at, found.coverage, found.wrong) == (0.0, 1.0, 0)
    assert threshold(sure, np.zeros(500, bool), 0.05, 0.9) is None


def _run(world, tmp_path, spec, name, **more):
    inputs = {**world.inputs, **more}
    out, scratch = tmp_path / name, tmp_path / f"{name}-scratch"
    out.mkdir()
    scratch.mkdir()
    stage = STAGE if isinstance(spec, CalibrateSpec) else suite.STAGE
    stage.function(spec, inputs, out, scratch, world.at)
    return out


@pytest.mark.parametrize("kind", ["classify"], indirect=True)
def test_what_is_learnt_is_what_is_measured(world, tmp_path, monkeypatch):
    monkeypatch.setattr(calibration, "FEWEST", 12)
    learnt = _run(world, tmp_path, CalibrateSpec(risk=0.9, confidence=0.6), "learnt")
    found = json.loads((learnt / "calibration.json").read_text())
    assert found["rows"] == 12
    assert found["after"]["log_loss"] <= found["before"]["log_loss"]
    from luthier.core.artifact import Artifact

    artifact = Artifact("calibration", "key of calibration", {}, 1, {}, ())
    world.at.folders[artifact.digest] = learnt
    spec = EvaluateSpec(against=["base"], resamples=200)
    with_it = _run(world, tmp_path, spec, "with", calibration=artifact)
    plain = _run(world, tmp_path, spec, "plain")
    warm, raw = (
        predictions.by_system(predictions.read(out / "predictions.parquet")) for out in (with_it, plain)
    )
    expected = tempered(raw["tuned"].probability_NK, found["temperature"])
    assert warm["tuned"].probability_NK == pytest.approx(expected)
    assert warm["tuned"].predictions == raw["tuned"].predictions
    assert warm["base"].probability_NK == pytest.approx(raw["base"].probability_NK)
    told = json.loads((with_it / "report.json").read_text())
    before = json.loads((plain / "report.json").read_text())["systems"]["tuned"]["metrics"]
    assert told["calibration"]["before"]["log_loss"] == pytest.approx(before["log_loss"])
    assert told["calibration"]["after"]["log_loss"] == told["systems"]["tuned"]["metrics"]["log_loss"]
    assert told["abstention"]["curve"][0]["coverage"] == 1.0


@pytest.mark.parametrize("kind", ["classify"], indirect=True)
def test_few_rows_teach_nothing_and_that_is_said(world, tmp_path):
    found = json.loads(
        (_run(world, tmp_path, CalibrateSpec(risk=0.1), "few") / "calibration.json").read_text()
    )
    assert found["temperature"] == 1.0
    assert found["threshold"] is None
    assert "12 validation rows are too few" in found["why"]


@pytest.mark.parametrize("kind", ["chat"], indirect=True)
def test_of_plain_texts_nothing_is_learnt(world, tmp_path, monkeypatch):
    """They are asked nothing, however many there are."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from luthier.data.records import RECORD

    monkeypatch.setattr(calibration, "FEWEST_ISOTONIC", 12)
    path = world.folders["dataset"] / "validation.parquet"
    rows = [{"id": f"v{n:02}", "text": f"text {n}"} for n in range(20)]
    pq.write_table(pa.Table.from_pylist(rows, RECORD), path)
    wish = CalibrateSpec(temperature=False, isotonic=True, answering=AnsweringSpec(), max_tokens=8, risk=0.1)
    found = json.loads((_run(world, tmp_path, wish, "none") / "calibration.json").read_text())
    assert found["why"] == "0 validation rows were answered, too few to learn from; 12 are needed"
    assert (found["isotonic"], found["threshold"], found["temperature"]) == (None, None, 1.0)


@pytest.mark.parametrize("kind", ["classify", "chat"], indirect=True)
def test_an_isotonic_line_is_learnt_measured_and_shown(world, tmp_path, monkeypatch):
    monkeypatch.setattr(calibration, "FEWEST_ISOTONIC", 12)
    kind = json.loads((world.folders["dataset"] / "dataset.json").read_text())["task"]["kind"]
    answering = AnsweringSpec(constrain="labels" if kind == "classify" else None)
    wish = CalibrateSpec(temperature=False, isotonic=True, answering=answering, max_tokens=8)
    learnt = _run(world, tmp_path, wish, "learnt")
    found = json.loads((learnt / "calibration.json").read_text())
    at, value = found["isotonic"]
    assert at == sorted(at) and value == sorted(value)
    assert 1 / 14 - 1e-6 <= min(value) <= max(value) <= 13 / 14 + 1e-6
    assert found["after"]["ece"] <= found["before"]["ece"]
    from luthier.core.artifact import Artifact

    artifact = Artifact("calibration", "key of calibration", {}, 1, {}, ())
    world.at.folders[artifact.digest] = learnt
    spec = MeasureSpec(against=["base"], resamples=200, max_tokens=8, answering=answering)
    out = _run(world, tmp_path, spec, "with", calibration=artifact)
    lines = [
        one for one in predictions.read(out / "predictions.parquet").to_pylist() if one["model"] == "tuned"
    ]
    for line in lines:
        told = float(np.interp(line["raw_probability"], at, value))
        least = 1 / 3 if kind == "classify" else 0.0  # the winner of three has a third at least
        assert line["probability"] == pytest.approx(max(told, least), abs=1e-3)
    told = json.loads((out / "report.json").read_text())
    assert told["calibration"]["kind"] == "isotonic"
    assert set(told["calibration"]["after"]) == {"log_loss", "brier", "ece"}
    assert told["abstention"]["curve"][0]["coverage"] == 1.0
    if kind == "classify":
        plain = _run(world, tmp_path, EvaluateSpec(against=[], resamples=200), "plain")
        raw = json.loads((plain / "report.json").read_text())["systems"]["tuned"]["metrics"]
        assert told["calibration"]["before"]["log_loss"] == pytest.approx(raw["log_loss"], abs=1e-4)
