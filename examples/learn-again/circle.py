"""Run the whole circle and write down what happened: requests, drift, labels, a new model, its rollout, and a bad one that is taken back.

    quiet      the four sections that release 1 knows are asked for
    new topic  half of the requests are of a fifth section; people judge answers; `luthier monitor step`, called as cron would,
               raises an alarm and, once enough is judged, trains anew; what passes the gate goes to a rollout
    canary     the new release answers a growing share, and is promoted
    planted    a model of shuffled sections, let through the gate by name, goes to a rollout and is taken back by the rule

At the end the new release and the one before are compared on test rows, which neither has learnt from: of the four old sections and of the new.

Everything is as in earnest: `luthier run`, `serve`, `monitor step`, `rollout` as processes, requests and feedback by OpenAI's own client.
Only the people are simulated: of every answer somebody says with probability JUDGED whether it was right, and if not what would have been.

Usage: python circle.py [--folder FOLDER] [--into FOLDER]     after `python make_data.py`; about ten minutes on two cores
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from measured import tested
from openai import OpenAI
from timeline import drawing

from luthier.app.app import App

HERE = Path(__file__).resolve().parent
NAME, NEW, BY = "learn-again", "fonts", "circle.py"
JUDGED = 0.8
QUIET, SHIFTED, CANARY, PLANTED = 30, 160, 150, 100
"""The most requests of each stretch."""
ENDED = ("promoted", "rolled_back", "rejected")
PAUSE_S = 1.0
"""Between two handfuls of requests, so that a rollout's seconds are not over before anybody was asked."""
STEP_S = 60.0
"""How often cron calls."""
WAIT_S = 1800.0
"""How long a rollout may take to follow."""


@dataclass
class Asked:
    """One request and what came of it. `judged`: whether somebody said so."""

    stretch: str
    topic: str
    answer: str
    release: str
    judged: bool
    time_s: float

    @property
    def right(self) -> bool:
        return self.answer == self.topic


@dataclass
class Circle:
    folder: Path
    home: Path
    draw: random.Random
    began_s: float = field(default_factory=time.monotonic)
    stepped_s: float = 0.0
    asked: list[Asked] = field(default_factory=list)
    steps: list[dict[str, Any]] = field(default_factory=list)
    line: int = 0
    """The last step of a rollout that was written down."""

    # -- what it is made of -----------------------------------------------------------------------------------------

    def luthier(self, *words: Any) -> dict[str, Any]:
        """A command's result as JSON. What it prints on the way goes to the log beside the home."""
        with (self.home / "circle.log").open("a", encoding="utf-8") as log:
            told = [str(word) for word in words]
            print(f"\n== luthier {' '.join(told)}", file=log, flush=True)
            done = subprocess.run(
                [sys.executable, "-m", "luthier", *told, "--json"], cwd=self.folder, stdout=subprocess.PIPE, stderr=log,
                text=True, env=self.environment,
            )  # fmt: skip
            print(done.stdout, file=log)
        if done.returncode:
            sys.exit(
                f"luthier {' '.join(told)} ended with {done.returncode}; {self.home}/circle.log says why"
            )
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    @cached_property
    def app(self) -> App:
        return App.open(self.environment)

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "LUTHIER_HOME": str(self.home)}

    def say(self, what: str, **detail: Any) -> None:
        at_s = round(time.monotonic() - self.began_s, 1)
        self.steps.append({"at_s": at_s, "after_request": len(self.asked), "what": what, **detail})
        shown = " ".join(str(value) for value in detail.values() if isinstance(value, str))
        print(f"{at_s:7.0f} s  {len(self.asked):4} requests  {what}  {shown[:160]}", flush=True)

    def rows(self, name: str) -> list[dict[str, str]]:
        with (self.folder / f"{name}.jsonl").open(encoding="utf-8") as lines:
            return [json.loads(line) for line in lines]

    @contextmanager
    def serving(self, *words: str) -> Iterator[OpenAI]:
        with (self.home / "serve.log").open("a", encoding="utf-8") as log:
            server = subprocess.Popen(
                [sys.executable, "-m", "luthier", "serve", *words, "--port", "0", "--json"],
                stdout=subprocess.PIPE, stderr=log, text=True, env=self.environment,
            )  # fmt: skip
            try:
                assert server.stdout is not None
                told = server.stdout.readline()
                if "base_url" not in told:
                    sys.exit(f"{words[0]} could not be served; {log.name} says why")
                door = json.loads(told)
                with OpenAI(base_url=door["base_url"], api_key=door["api_key"], timeout=120) as client:
                    yield client
            finally:
                server.terminate()
                server.wait(timeout=60)

    # -- what happens -----------------------------------------------------------------------------------------------

    def ask(self, client: OpenAI, stretch: str, row: dict[str, str]) -> None:
        """One request, and what somebody says of its answer."""
        told = client.chat.completions.with_raw_response.create(
            model=NAME, messages=[{"role": "user", "content": row["text"]}]
        )
        made = told.parse()
        answer = made.choices[0].message.content or ""
        release, judged = told.headers["x-luthier-release"], self.draw.random() < JUDGED
        one = Asked(stretch, row["section"], answer, release, judged, time.time())
        if one.judged:
            said = {"rating": 1} if one.right else {"rating": -1, "correction": one.topic}
            client.post("/feedback", body={"id": made.id, **said}, cast_to=object)
        self.asked.append(one)

    def stretch(
        self, client: OpenAI, name: str, rows: list[dict[str, str]], most: int, over: Callable[[], bool], every: int = 10
    ) -> bool:  # fmt: skip
        """Ask until it is over, at most so often; cron calls meanwhile. Returns whether it is over."""
        for n in range(most):
            self.ask(client, name, rows.pop())
            if (n + 1) % every:
                continue
            time.sleep(PAUSE_S)
            if time.monotonic() - self.stepped_s >= STEP_S:
                self.step()
            if over():
                return True
        return False

    def step(self) -> dict[str, Any]:
        """`luthier monitor step`, as cron calls it; what it says that is new is written down."""
        self.stepped_s = time.monotonic()
        began_s = time.monotonic()
        found = self.luthier("monitor", "step", NAME, "--recipe", "recipe.yaml")
        for look in found["looks"]:
            if look["alarms"]:
                by_then = sum(one.time_s < look["until_s"] for one in self.asked)
                told = [
                    {key: one[key] for key in ("group", "views", "requests", "tested")}
                    for one in look["alarms"]
                ]
                groups = ", ".join(one["group"] for one in told)
                self.say(
                    "alarm", groups=groups, release=look["release"], window_ended_after=by_then, told=told
                )
        for one in found["ended"]:
            self.say("episode ended", episode=one)
        if found["failed"]:
            self.say("step failed", why=str(found["failed"]))
        new = found["retrain"]
        if new is not None and new["state"] != "waiting":
            seconds = round(time.monotonic() - began_s)
            self.say(
                f"retrain: {new['state']}",
                why=new["why"],
                release=new["release"],
                parts=new["parts"],
                seconds=seconds,
            )
        return found

    def trained_anew(self) -> bool:
        return any(step["what"].startswith("retrain") for step in self.steps)

    def rollout(self) -> str:
        """Its state; steps of it that are new are written down. A drift alarm pauses it: somebody looks and lets it go on, since
        the shift is known."""
        lines = self.app.rollouts.history(NAME)
        for one in lines[self.line :]:
            self.say(
                f"rollout: {one.told()}",
                action=one.action,
                candidate=one.candidate,
                by=one.by,
                reason=one.reason,
            )
        self.line = len(lines)
        if lines[-1].state == "paused":
            self.app.rollouts.resume(
                NAME, by=BY, reason="the shift is known, and is what the new model is for"
            )
            return self.rollout()
        return lines[-1].state


def run(circle: Circle) -> dict[str, Any]:
    """The circle. Returns the record."""
    old = [row for row in circle.rows("requests") if row["section"] != NEW]
    new = [row for row in circle.rows("requests") if row["section"] == NEW]

    def mixed(most: int) -> list[dict[str, str]]:
        """Half of the new topic."""
        some = [(new if n % 2 else old).pop() for n in range(most)]
        circle.draw.shuffle(some)
        return some

    made = circle.luthier("run", "recipe.yaml")
    circle.say("released", release=made["release"])
    with circle.serving(NAME, "--capture", "100%") as client:
        circle.say("serving")
        circle.stretch(client, "quiet", old, QUIET, lambda: False)
        circle.say("the new topic begins")
        began = len(circle.asked)
        pool = mixed(SHIFTED)
        if not circle.stretch(client, "new topic", pool, SHIFTED, circle.trained_anew):
            waited(lambda: bool(circle.step()) and circle.trained_anew(), "a new run")
        new.extend(row for row in pool if row["section"] == NEW)
        old.extend(row for row in pool if row["section"] != NEW)
        if not any(step["what"] == "retrain: handed over" for step in circle.steps):
            return record(circle, began, None, None)
        circle.rollout()
        pool = mixed(CANARY)
        circle.stretch(client, "canary", pool, CANARY, lambda: circle.rollout() in ENDED, every=5)
        new.extend(row for row in pool if row["section"] == NEW)
        old.extend(row for row in pool if row["section"] != NEW)
        if circle.rollout() != "promoted":
            return record(circle, began, None, f"{NAME}@2")
        bad = circle.luthier(
            "run", "bad.yaml", "--waive", "macro_f1", "--by", BY,
            "--because", "Planted: its sections are shuffled, to see whether the rollout takes it back.",
        )  # fmt: skip
        circle.say("planted", release=bad["release"])
        circle.app.rollouts.start(bad["release"], by=BY, reason="planted, to see it taken back")
        planted = len(circle.asked)
        circle.rollout()
        circle.stretch(client, "planted", mixed(PLANTED), PLANTED, lambda: circle.rollout() in ENDED, every=5)
        circle.stretch(client, "end", mixed(10), 10, lambda: False)
        circle.rollout()
    return record(circle, began, planted, f"{NAME}@2")


def waited(there: Callable[[], bool], what: str) -> None:
    ended_s = time.monotonic() + WAIT_S
    while not there():
        if time.monotonic() > ended_s:
            sys.exit(f"{what} did not come within {WAIT_S:.0f} s")
        time.sleep(10)


def record(circle: Circle, began: int, planted: int | None, anew: str | None) -> dict[str, Any]:
    """What is kept: steps, requests, and how the release that was trained anew and the one before do on test rows."""
    asked = circle.asked
    return {
        "name": NAME, "new": NEW, "judged": JUDGED, "new_topic_after": began, "planted_after": planted,
        "seconds": round(time.monotonic() - circle.began_s), "steps": circle.steps,
        "requests": {
            "stretch": [one.stretch for one in asked],
            "topic": [one.topic for one in asked],
            "release": "".join(one.release.rpartition("@")[2] for one in asked),
            "right": "".join(str(int(one.right)) for one in asked),
            "judged": "".join(str(int(one.judged)) for one in asked),
        },
        "tested": None if anew is None else tested(circle.app, anew, NEW),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description="Run the circle and write down what happened.")
    parser.add_argument("--folder", type=Path, default=HERE, help="where rows and recipe.yaml are")
    parser.add_argument(
        "--into", type=Path, default=HERE / "run", help="a folder for the home and the record"
    )
    wish = parser.parse_args()
    home = wish.into / "home"
    if (wish.into / "record.json").exists():
        sys.exit(f"{wish.into} has a record already.\n  → name another folder: --into FOLDER")
    home.mkdir(parents=True, exist_ok=True)  # a model that is there already is not trained again
    folder = wish.folder.resolve()
    told = run(Circle(folder, home.resolve(), random.Random(7)))  # noqa: S311
    (wish.into / "record.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    (wish.into / "timeline.svg").write_text(drawing(told), encoding="utf-8")
    print(f"{wish.into}/record.json and timeline.svg: {told['seconds'] / 60:.0f} minutes")


if __name__ == "__main__":
    main()
