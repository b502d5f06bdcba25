"""Of two transactions of a server's home none waits for the other while that waits for it."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from luthier.app.jobs.observing import observer_of
from luthier.app.spending import MACHINE
from luthier.store.attempts import Change, Choice
from luthier.store.audit import Act

WISH = {"base": "smollm2-135m-instruct", "files": {"train": "file-abc", "test": None}, "train": {"epochs": 1}}


@pytest.mark.parametrize("site", ["postgres"], indirect=True)
def test_a_job_ends_with_its_tokens_while_another_is_promised_some(site, admin, trainer, upload):
    """Both go from the budget to the trail. Who enters has the budget and waits until the other must have come as far as it gets."""
    site.environ[MACHINE] = "without a price"  # so that the end of its time touches no budget
    upload("file-abc", 3_000)
    site.budgets.add(admin, "project", "tokens", 1e9)
    job, lease = running(site, trainer)
    promised, over = threading.Event(), threading.Event()

    def also(connection):
        promised.set()
        assert not over.wait(0.3)

    def end():
        assert promised.wait(10)
        act = Act("server", "job.succeeded", job.id)
        change = Change("succeeded", None, "succeeded", "Done", result={"trained_tokens": 7}, act=act)
        ours, now = observer_of(site), time.time()
        try:
            return site.store.attempts.end(
                lease, job.id, 1, lambda *_: change, now_s=now, metered=ours.metered, ended=ours.ended, ran_until_s=now
            )  # fmt: skip
        finally:
            over.set()

    with ThreadPoolExecutor(2) as threads:
        ending, entering = (
            threads.submit(end),
            threads.submit(lambda: site.jobs.submit(trainer, "fine_tune", WISH, also=also)),
        )
        assert (ending.result(30).state, entering.result(30).state) == ("succeeded", "queued")
    assert site.budgets.usage(admin, [], unit="tokens") == [{"unit": "tokens", "amount": 7}]


def running(site, caller):
    job, now = site.jobs.submit(caller, "fine_tune", WISH), time.time()
    [(_, attempt, lease)] = site.store.attempts.start(
        lambda queue: Choice({job.id: {"host": "here", "gpus": [], "cores": 1}}),
        owner="one", launcher="scripted", now_s=now, lease_s=60.0, also=lambda *_: None,
    )  # fmt: skip
    site.store.attempts.began(job.id, attempt.fence, {}, now - 5)
    return job, lease
