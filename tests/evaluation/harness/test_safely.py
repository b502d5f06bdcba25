"""What tasks of a folder may not do, whatever they write: run code, read beside their folder, reach a network."""

import http.server
import threading

import pytest

from luthier.core.errors import SpecError

pytestmark = pytest.mark.harness
pytest.importorskip("lm_eval", reason="lm-eval is not installed (make setup-optional)")

from luthier.evaluation.harness.safely import fingerprint, safely  # noqa: E402

RAN = "raise RuntimeError('it ran')\n"


def loaded(folder, name):
    from lm_eval.tasks._yaml_loader import load_yaml

    fingerprint(folder)
    with safely(network=False, folder=folder):
        return load_yaml(folder / name)


@pytest.mark.parametrize(
    "files",
    [
        {"t.yaml": "task: t\nprocess_docs: !%66unction own.f\n"},
        {"t.yaml": "%TAG !e! !func\n---\ntask: t\nprocess_docs: !e!tion own.f\n"},
        {"t.yaml": "task: t\ninclude: common\n", "common": "process_docs: !function own.f\n"},
        {"t.yaml": "task: t\nprocess_docs: !%66unction os.getcwd\n"},
    ],
    ids=["escaped", "handle", "included", "installed elsewhere"],
)
def test_code_is_refused_however_it_is_written(tmp_path, files):
    (tmp_path / "own.py").write_text(RAN)
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(SpecError, match="would run code"):
        loaded(tmp_path, "t.yaml")


def test_what_a_task_includes_stands_in_its_folder(tmp_path):
    folder = tmp_path / "tasks"
    folder.mkdir()
    (tmp_path / "beside.yaml").write_text("doc_to_text: x\n")
    (folder / "inner.yaml").write_text("doc_to_text: y\n")
    (folder / "t.yaml").write_text("task: t\ninclude: ../beside.yaml\n")
    (folder / "u.yaml").write_text("task: u\ninclude: inner.yaml\n")
    with pytest.raises(SpecError, match="outside its folder"):
        loaded(folder, "t.yaml")
    assert loaded(folder, "u.yaml") == {"task": "u", "doc_to_text": "y"}


def test_tasks_of_the_package_keep_their_functions(tmp_path):
    from pathlib import Path

    import lm_eval.tasks

    there = Path(lm_eval.tasks.__file__).parent
    path = next(p for p in sorted(there.glob("hellaswag/*.yaml")) if "!function" in p.read_text())
    from lm_eval.tasks._yaml_loader import load_yaml

    with safely(network=False, folder=tmp_path):
        assert callable(load_yaml(path)["process_docs"])


def test_without_network_no_address_is_asked(tmp_path):
    import datasets

    asked = []

    class Server(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

        do_HEAD = do_GET

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/rows.jsonl"
        with safely(network=False):
            for files in (url, url.replace("rows", "*"), f"zip://rows.jsonl::{url}"):
                with pytest.raises(ConnectionError):
                    datasets.load_dataset(
                        "json", data_files={"test": files}, cache_dir=str(tmp_path / "cache")
                    )
        server.shutdown()
    assert asked == []


def test_rows_of_this_machine_are_read_without_network(tmp_path):
    import datasets

    (tmp_path / "rows.jsonl").write_text('{"a": 1}\n')
    with safely(network=False):
        found = datasets.load_dataset(
            "json", data_files={"test": str(tmp_path / "rows.jsonl")}, cache_dir=str(tmp_path / "cache")
        )
    assert found["test"]["a"] == [1]
