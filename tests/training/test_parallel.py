"""Two processes are one, up to the rounding of sums: the same losses, gradients and weights; what they leave behind
loads in one."""

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from luthier.core.errors import Interrupted, ModelError, SpecError
from luthier.models.testing import tiny_model
from luthier.training import launch
from luthier.training.parallel import Alone, deal, joined
from luthier.training.spec import TrainSpec

SMALL = {
    "epochs": 1,
    "dtype": "fp32",
    "learning_rate": 0.01,
    "batch": {"rows": 8, "micro_tokens": 150},
    "checkpoint_every": 1,
    "validate_every": 3,
}
FULL = {**SMALL, "adapter": {"kind": "full"}, "learning_rate": 0.001}
DDP, FSDP = ({"parallel": {"kind": kind, "processes": 2}} for kind in ("ddp", "fsdp"))
FEW = {"max_steps": 2, "validate_every": 2}
DPO = {**SMALL, **FEW, "method": "dpo"}
DISTILL = {**SMALL, **FEW, "method": {"distill": {"teacher": "x"}}}
DISTILL_FULL = {**FULL, **FEW, "method": {"distill": {"teacher": "x"}}}
CASES = [
    {"name": "ddp", "spec": {**SMALL, **DDP}},
    {"name": "fsdp", "spec": {**FULL, **FSDP, "keep": "average"}},
    {"name": "stopped", "spec": {**FULL, **FSDP}, "stop_after_checks": 3},
]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory, write, make_record):
    """The small dataset with a rejected answer in every row."""
    rows = [make_record(i, rejected=f"other {i}") for i in range(24)]
    return write(tmp_path_factory.mktemp("pairs") / "data", train=rows[:20], validation=rows[20:])


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("teacher") / "tiny", hidden=32, heads=4, kv_heads=2, seed=7)


@pytest.fixture(scope="module")
def two(tmp_path_factory, base, dataset, pairs, teacher):
    """The folder of all cases, run by two processes."""
    cases = [
        *CASES,
        {"name": "dpo", "spec": {**DPO, **DDP}},
        {"name": "distill", "spec": {**DISTILL, **DDP}},
        {"name": "distill-full", "spec": {**DISTILL_FULL, **FSDP}},
    ]
    for case in cases[len(CASES) :]:
        case["others"] = {"dataset": str(pairs), "teacher": str(teacher)}
    folder = tmp_path_factory.mktemp("two")
    driver = Path(__file__).with_name("processes.py")
    told = subprocess.run(
        [sys.executable, str(driver), str(base), str(dataset), str(folder), json.dumps(cases)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert told.returncode == 0, told.stderr[-3000:]
    return folder


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def same(one, other, file):
    """History and weights, up to rounding."""
    from safetensors.torch import load_file

    for a, b in zip(one["steps"], other["steps"], strict=True):
        assert (a["tokens"], a["supervised"], a["learning_rate"]) == (
            b["tokens"],
            b["supervised"],
            b["learning_rate"],
        )
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)
        assert a["gradient_norm"] == pytest.approx(b["gradient_norm"], rel=1e-4)
    for a, b in zip(one["validation"], other["validation"], strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)
    first, second = (load_file(path) for path in file)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.allclose(tensor, second[name], rtol=1e-3, atol=1e-4), name


@pytest.mark.parametrize(
    ("name", "spec", "file"),
    [
        ("ddp", SMALL, "adapter_model.safetensors"),
        ("fsdp", {**FULL, "keep": "average"}, "model.safetensors"),
    ],
)
def test_two_processes_are_one(two, work, name, spec, file):
    work.run(**spec)
    there = two / name / "out"
    history = json.loads((there / "history.json").read_text())
    same(history, work.history(), (there / file, work.out / file))
    assert history["kept"]["steps"] == work.history()["kept"]["steps"]
    files = {path.name: path.read_bytes() for path in sorted(there.iterdir())}
    assert list(files) == list(work.files())
    if "config.json" in files:  # no class of a sharded module has got into it
        assert files["config.json"] == work.files()["config.json"]
    told = json.loads((two / name / "events.json").read_text())
    assert next(one for one in told if one["kind"] == "training")["processes"] == 2
    assert len([one for one in told if one["kind"] == "step"]) == len(history["steps"])


@pytest.mark.parametrize(
    ("name", "spec"), [("dpo", DPO), ("distill", DISTILL), ("distill-full", DISTILL_FULL)]
)
def test_two_processes_are_one_with_a_reference_and_with_a_teacher(
    two, base, pairs, teacher, tmp_path, work_on, name, spec
):
    one = work_on(tmp_path / name, base, pairs)
    one.others["teacher"] = teacher
    one.run(**spec)
    there = two / name / "out"
    file = "model.safetensors" if name == "distill-full" else "adapter_model.safetensors"
    same(json.loads((there / "history.json").read_text()), one.history(), (there / file, one.out / file))
    # One process has computed the reference, and the other has found it.
    prepared = [
        sorted(path.name.rpartition("-")[2] for path in scratch.glob("reference-*"))
        for scratch in (two / name / "scratch", one.folder / "scratch")
    ]
    assert prepared[0] == prepared[1] and len(prepared[0]) == (4 if name == "dpo" else 0)


def test_a_stop_in_one_process_stops_all_and_one_process_goes_on(two, work, work_in, tmp_path):
    """The sharded state was gathered into a checkpoint that any number of processes loads."""
    from luthier.core.artifact import Artifact
    from luthier.core.testing import FakeContext
    from luthier.training.train import _train

    ended = [(two / "stopped" / f"ended-{rank}").read_text() for rank in (0, 1)]
    assert ended == ["training stopped after step 3 of 6; its state is kept."] * 2
    assert not list((two / "stopped" / "out").iterdir())
    spec = TrainSpec.model_validate(CASES[2]["spec"])
    inputs = {role: Artifact(role, role, {}, 1, {}, ()) for role in ("base", "dataset")}
    folders = {inputs["base"].digest: work.base, inputs["dataset"].digest: work.dataset}
    at, out = FakeContext(tmp_path, folders=folders), tmp_path / "out"
    out.mkdir()
    with joined(spec) as world:
        assert isinstance(world, Alone)
        _train(spec, inputs, out, two / "stopped" / "scratch", at, world)
    told = {event.kind: event.data for event in at.events}
    assert told["resumed"]["step"] == 3 and "processes was 2 and is 1" in told["not_exact"]["reason"]
    work.run(**FULL)
    history = json.loads((out / "history.json").read_text())
    same(history, work.history(), (out / "model.safetensors", work.out / "model.safetensors"))


@pytest.mark.slow
def test_torchrun_starts_them_and_a_stop_loses_nothing(work):
    work.stop_after_checks = 20
    with pytest.raises(Interrupted, match="stopped"):
        work.run(**SMALL, **DDP)
    work.stop_after_checks = None
    summary = work.run(**SMALL, **DDP)
    assert summary["steps"] == len(work.history()["steps"]) == 6
    assert work.told("training")[0]["processes"] == 2 and work.told("step")
    assert "adapter_model.safetensors" in work.files()


def test_what_cannot_be_sharded_is_refused_first(work):
    with pytest.raises(
        SpecError, match=r"fsdp, which shards a whole fp32 model, and train.adapter.kind is lora"
    ):
        work.run(**FSDP)
    with pytest.raises(SpecError, match="the method regress puts a module of its own on the model"):
        work.run(**FSDP, method="regress", adapter={"kind": "full"})


LOG = """\
rank 0 loads
W1124 19:50:02.057 6641 torch/distributed/elastic/multiprocessing/api.py:1028] Sending process 6648 closing signal SIGTERM
{said}E1124 19:50:02.061 6641 torch/distributed/elastic/multiprocessing/api.py:1002] failed (exitcode: {code}) local_rank: 0
Traceback (most recent call last):
  File "torch/distributed/run.py", line 1032, in <module>
torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
"""


@pytest.mark.parametrize(
    ("code", "said", "message", "remedy"),
    [
        (-9, "", "was killed (SIGKILL) and said:\nrank 0 loads", "lower train.parallel.processes or train.batch.micro_tokens"),
        (-11, "", "was killed (SIGSEGV) and said:\nrank 0 loads", "The whole of what the processes said is in"),
        (1, "ValueError: odd\n", "ended with exit status 1 and said:\nrank 0 loads\nValueError: odd", "workers.log"),
    ],
)  # fmt: skip
def test_a_process_that_ends_without_a_word_of_ours_is_told(tmp_path, code, said, message, remedy):
    log = tmp_path / launch.LOG
    log.write_text(LOG.format(code=code, said=said))
    died = launch._died(1, log)
    assert died.message == f"a process of this training run {message}"
    assert remedy in died.remedy and "goes on from the last checkpoint" in died.remedy


@pytest.mark.slow
def test_a_process_that_the_system_kills_ends_the_run_with_a_remedy(work):
    with ThreadPoolExecutor(1) as hand:
        hand.submit(kill_a_worker)
        with pytest.raises(ModelError, match=r"was killed \(SIGKILL\)") as told:
            work.run(**SMALL, **DDP)
    assert "memory" in told.value.remedy


def kill_a_worker():
    for _ in range(600):
        for child in psutil.Process().children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                words = child.cmdline()
                if "luthier.training.worker" in words and "torch.distributed.run" not in words:
                    child.kill()
                    return
        time.sleep(0.1)


def test_processes_wait_long_for_one_that_prepares(monkeypatch):
    asked = {}

    def init(backend, **given):
        asked.update(given, backend=backend)
        raise RuntimeError("enough")

    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "test")
    monkeypatch.setattr(torch.distributed, "init_process_group", init)
    with pytest.raises(RuntimeError, match="enough"), joined(TrainSpec(device="cpu")):
        pass
    assert asked["backend"] == "gloo" and asked["timeout"] >= timedelta(hours=6)


@given(st.lists(st.integers(1, 1000), max_size=40), st.integers(1, 6))
def test_micro_batches_are_dealt_once_and_evenly(tokens, size):
    dealt = deal(tokens, size)
    assert sorted(k for own in dealt for k in own) == list(range(len(tokens)))
    loads = [sum(tokens[k] for k in own) for own in dealt]
    # The last one a process got went to the least loaded, so no load is above the least by more than one micro-batch.
    assert max(loads) - min(loads) <= max(tokens, default=0)


def test_alone_nothing_is_changed():
    world, p = Alone(), torch.nn.Parameter(torch.zeros(2))
    assert world.gather({"a": 1.5}) == [{"a": 1.5}] and world.total(2.5) == 2.5
    assert world.deal([5, 3]).parts == (0, 1) and world.budget([], 7) == 7
    with torch.no_grad():
        world.put(p, torch.ones(2))
    assert p.tolist() == [1.0, 1.0] and world.whole({"p": p})["p"] is p
