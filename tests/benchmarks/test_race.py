"""The race's arithmetic: medians, ratios, differences of losses, whose turn it is. Running it is `make bench-training`."""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import pytest

RACE = Path(__file__).parents[2] / "benchmarks" / "race"


@pytest.fixture(scope="module", autouse=True)
def on_path():
    """The race's files are scripts that import each other by name."""
    sys.path.insert(0, str(RACE))
    yield
    sys.path.remove(str(RACE))
    for name in [name for name, module in sys.modules.items() if _of_race(module)]:
        del sys.modules[name]


def _of_race(module: object) -> bool:
    return str(getattr(module, "__file__", "")).startswith(str(RACE))


def made(contestant: str, turn: int, step_s: float, losses: list[float], peak_bytes: int = 1_000_000_000):
    """Three steps of 100, 200 and 300 tokens; the first ends after 10 s, the others take `step_s` each."""
    from runs import Run

    ended = [10.0, 10.0 + step_s, 10.0 + 2 * step_s]
    return Run("chats", contestant, turn, ended, losses, [100, 200, 300], [10, 20, 30], peak_bytes, 0.0)


def test_speed_leaves_the_first_step_out():
    # 200 + 300 tokens in 2 · 5 s
    assert made("luthier", 1, 5.0, [3.0, 2.0, 1.0]).tokens_per_s == 50.0


def test_medians_over_rounds_and_ratios_in_the_table():
    from results import lines, markdown

    # TRL: 25, 20 and 10 tokens/s, median 20. Ours: 100, 50 and 125, median 100: five times as fast.
    runs = [
        made("trl-default", k, s, [3.0, 2.0, 1.0], 4_000_000_000) for k, s in enumerate((10.0, 12.5, 25.0), 1)
    ]
    runs += [made("luthier", k, s, [3.0, 2.0, 1.0]) for k, s in enumerate((2.5, 5.0, 2.0), 1)]
    found = lines(runs, "chats")
    assert found["trl-default"].tokens_per_s == 20.0
    assert (found["luthier"].least_tokens_per_s, found["luthier"].most_tokens_per_s) == (50.0, 125.0)
    told = {"processor": "X", "threads": 2, "torch": "2", "tracks": {"chats": "chats"}}
    text = markdown(runs, {"chats": 3}, told)
    assert "| TRL, default | 20 (10 – 25) | 5.00× | 4,000 | 25% |" in text


def test_losses_that_differ_are_told():
    """Each number format is held against TRL in the same."""
    from results import broken

    reference = made("trl-fp32", 0, 5.0, [3.0, 2.0, 1.0])
    close = made("luthier-fp32", 0, 5.0, [3.0, 2.0001, 1.0])  # 5e-5 away at step 2
    theirs = made("trl-default", 1, 5.0, [3.0, 2.0, 1.02])  # further from fp32 than 1e-2, and nobody's fault
    near = made("luthier", 1, 5.0, [3.0, 2.0, 1.025])  # 4.9e-3 from theirs
    apart = made("luthier", 1, 5.0, [3.0, 2.0, 1.0506])  # 3e-2 from theirs at step 3
    assert broken([reference, close, theirs, near]) == []
    (told,) = broken([reference, close, theirs, apart])
    assert told == "chats: losses of luthier are 3.0e-02 from those of trl-default, over 0.01"


def test_a_failed_run_counts_for_nothing_and_is_named():
    from results import lines, markdown

    bad = replace(made("llamafactory", 1, 5.0, []), failed="exit status 1 after 0 of 3 steps: no memory")
    runs = [bad, made("luthier", 1, 5.0, [3.0, 2.0, 1.0])]
    assert "llamafactory" not in lines(runs, "chats")
    told = {"processor": "X", "threads": 2, "torch": "2", "tracks": {"chats": "chats"}}
    assert "LLaMA-Factory, default, round 1: exit status 1" in markdown(runs, {"chats": 3}, told)


def test_contestants_take_turns():
    from race import programme

    told = [(k, one.name) for k, _, one in programme(2, ["chats"], ["trl-default", "luthier"], exact=False)]
    assert told == [(1, "trl-default"), (1, "luthier"), (2, "trl-default"), (2, "luthier")]


def test_other_tokens_than_the_track_says_are_found(tmp_path):
    from runs import other_tokens

    # One row a step: 3 tokens of which the last is learnt, then 2 tokens; a first token is never learnt.
    (tmp_path / "rows.json").write_text(
        '[[{"ids": [5, 6, 7], "supervised": [false, false, true]}],'
        ' [{"ids": [5, 6], "supervised": [true, true]}]]'
    )
    one = made("luthier", 1, 5.0, [1.0, 1.0])
    right = replace(one, tokens=[3, 2], supervised=[1, 1])
    assert other_tokens(right, tmp_path) is None
    assert "learnt [1, 2]; the track has [3, 2] and [1, 1]" in other_tokens(
        replace(right, supervised=[1, 2]), tmp_path
    )


def test_the_chart_is_whole_and_its_bars_keep_their_proportion():
    from chart import svg
    from results import lines

    runs = [made("trl-default", 1, 10.0, [1.0] * 3), made("luthier", 1, 2.5, [1.0] * 3)]
    picture = ElementTree.fromstring(svg({"chats": lines(runs, "chats")}, {"chats": "a <b>"}))
    bars = [float(r.get("width")) for r in picture.iter("{http://www.w3.org/2000/svg}rect")][1:]
    assert bars[1] / bars[0] == pytest.approx(4.0, rel=1e-3)


def test_a_peer_that_does_not_install_says_why(tmp_path, monkeypatch):
    import peers

    monkeypatch.setattr(peers.sys, "executable", "/bin/false")
    with pytest.raises(peers.NotInstalled, match=r"-m venv --clear .* failed"):
        peers.environment("trl", "torch==0", tmp_path)


def test_the_memory_and_the_steps_of_a_process_are_seen_from_outside(tmp_path):
    """A contestant that does nothing but tell two steps."""
    from contestants import Contestant
    from runs import fresh, run

    script = tmp_path / "script.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(RACE)!r})\n"
        "from watch import Lines\n"
        "lines = Lines()\n"
        "held = bytearray(300_000_000)\n"
        "held[::4096] = b'x' * len(held[::4096])\n"
        "lines.step(1, 2.0, 10, 3)\nlines.step(2, 1.0, 20, 4)\n"
    )
    track = fresh(tmp_path / "track")
    one = run(
        Contestant("x", "x", None, str(script), {}, ""),
        Path(sys.executable),
        track,
        2,
        fresh(tmp_path / "home"),
        1,
    )
    assert one.failed is None
    assert (one.losses, one.tokens, one.supervised) == ([2.0, 1.0], [10, 20], [3, 4])
    assert 0 < one.ended_s[0] <= one.ended_s[1]
    assert one.peak_bytes > 300_000_000
