import subprocess
import sys

import pytest

from luthier.core.errors import SpecError
from luthier.core.spec import parse, read_yaml
from luthier.training.plan import refuse_impossible
from luthier.training.spec import TrainSpec


def test_the_shortest_spec_says_everything():
    spec = TrainSpec()
    assert (spec.method.name, spec.adapter.kind, spec.adapter.rank) == ("sft", "lora", 16)
    assert spec.peak_learning_rate == 2e-4
    assert TrainSpec.model_validate({"adapter": {"kind": "full"}}).peak_learning_rate == 2e-5
    assert TrainSpec.model_validate(spec.plain()) == spec
    assert (
        spec.ranked,
        TrainSpec(keep="average").ranked,
        TrainSpec(keep="average", average_of=5).ranked,
    ) == (1, 3, 5)
    spent = TrainSpec.model_validate({"stop_at": {"time": "30 min", "tokens": "2M"}}).stop_at
    assert (spent.time, spent.tokens) == (1800.0, 2_000_000)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("epoch: 3", "recipe:1: epoch: there is no key 'epoch' here; did you mean 'epochs'?"),
        ("method: sftt", "recipe:1: method: there is no method called 'sftt'; did you mean 'sft'?"),
        ("epochs: 0", "recipe:1: epochs: Input should be greater than 0 (it is '0')"),
        ("batch: {rows: 0}", "batch.rows: Input should be greater than or equal to 1"),
        ("dtype: fp16", "Input should be 'auto', 'fp32' or 'bf16'"),
        ("warmup: 110%", "is not between 0 and 1; write 0.1 or '10%'"),
        ("adapter: {kind: lora, rankk: 8}", "there is no key 'rankk' here; did you mean 'rank'?"),
        (
            "early_stopping: {patience: 0}",
            "early_stopping.patience: Input should be greater than or equal to 1",
        ),
        ("stop_at: {time: soon}", "'soon' is not a duration; write for example '30 min' or '1 h'"),
        ("stop_at: {tokens: 2.5}", "2.5 is not a whole number"),
        ("stop_at: {tokens: 2X}", "'2X' is not a number; write for example 300 or '2M' (units: k, m, b)"),
        ("divergence: {factor: 1}", "divergence.factor: Input should be greater than 1"),
        ("keep: all", "Input should be 'best', 'last' or 'average'"),
        (
            "parallel: {processes: 2}",
            "parallel: processes: 2 without a kind; add kind: ddp (or fsdp), or remove it",
        ),
        (
            "average_of: 3",
            "average_of is read with keep: average alone, and keep is best; remove one or the other",
        ),
        (
            "method:\n  distill: {teacher: x, level: sequence, labels: 0.5}",
            "recipe:2: method.distill: `labels` is read at level: token alone; remove it, or set level: token",
        ),
        ("parallel: {kind: dp}", "Input should be 'none', 'ddp' or 'fsdp'"),
    ],
)
def test_a_wrong_key_or_value_is_told_with_its_line(text, says):
    with pytest.raises(SpecError) as told:
        parse(TrainSpec, read_yaml(text))
    assert says in str(told.value)


def test_what_cannot_be_is_refused_before_any_work():
    with pytest.raises(SpecError, match=r"train.longest is 4,096, and the model's context is 512"):
        refuse_impossible(TrainSpec(longest=4096), 512)
    refuse_impossible(TrainSpec(longest=512), 512)


def test_importing_the_stage_and_the_plan_loads_no_torch():
    code = (
        "import sys, luthier.training.spec, luthier.training.plan, luthier.training.train;"
        "print([m for m in ('torch', 'transformers', 'peft', 'pyarrow') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
