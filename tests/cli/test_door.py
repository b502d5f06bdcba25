"""Options of `luthier serve` about the door: what cannot be is told before a model is loaded, and the rest does what it says."""

from __future__ import annotations

import json
import logging
from datetime import date

import pytest
from click.testing import CliRunner

from luthier.app.app import App
from luthier.cli.door import Door
from luthier.cli.main import main
from luthier.cli.serving import _keys
from luthier.core.errors import SpecError
from luthier.server.keys import PERMISSIONS, generate
from luthier.server.watch import Seen


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--rate", "often"), "no rate"),
        (("--guard", "nowhere.yaml"), "cannot be read"),
        (("--machine", "none-such"), "no price is known"),
        (("--traces", "file:///tmp/x"), "no address of a collector"),
        (("--log", "xml"), "xml"),
    ],
)
def test_what_cannot_be_is_told_before_a_model_is_loaded(tmp_path, monkeypatch, words, told):
    monkeypatch.setenv("LUTHIER_HOME", str(tmp_path))
    result = CliRunner().invoke(main, ["serve", "no-such-release", *words])
    assert result.exit_code != 0
    assert told in result.output + str(result.exception), result.output
    assert "Traceback" not in result.output


def test_the_price_of_a_machine(tmp_path):
    (tmp_path / "prices.yaml").write_text(
        "prices: [{machine: ours, value: 2.0, unit: hour, currency: EUR, source: us, retrieved: "
        f"{date.today()}}}]\n"
    )
    app = App.open({"LUTHIER_HOME": str(tmp_path)})
    assert Door(machine="ours").hourly(app) == (2.0, "EUR")
    assert Door().hourly(app) is None


def test_json_lines_end_with_the_server(capsys):
    before = list(logging.getLogger().handlers)
    with Door(log_form="json").observers() as (tell,):
        tell(Seen("req_1", "GET", "/healthz", 200, None, None, 0.0, 0.25))
        logging.getLogger("luthier.server").warning("something else")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["event"] for line in lines] == ["request", "log"]
    assert lines[0]["elapsed_s"] == 0.25
    assert logging.getLogger().handlers == before


def test_keys_of_a_file_may_do_less_than_everything(tmp_path):
    (first, _), (second, _) = generate(), generate()
    path = tmp_path / "keys"
    path.write_text(f"# ours\n{first}\n\n{second} metrics,status\n")
    ring, shown = _keys(path)
    assert shown is None
    assert ring.check(first).permissions == PERMISSIONS
    assert ring.check(second).permissions == {"metrics", "status"}
    path.write_text(f"{first} everything\n")
    with pytest.raises(SpecError, match="which there is not") as caught:
        _keys(path)
    assert first not in str(caught.value)
