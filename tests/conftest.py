"""Nothing in the tests reaches a network, reads the user's home, or depends on the order they run in. Servers of object stores
and PostgreSQL are started here, on this machine, once, and each test gets a bucket or a database of its own."""

import os
import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Tiny models gain nothing from a second thread, and threads that wait for each other on a busy machine cost tenfold.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# How long an example takes says something of the machine, not of the law.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


# -- several processes at once (make test: pytest-xdist, --dist loadgroup) ---------------------------------------------------

WORKER_BYTES = (
    2 << 30
)  # what one process of tests may take: torch with tiny models, or Arrow with two child processes
SPARK_BYTES = 5 << 30  # what Spark's own processes take beside them; only one test at a time starts any


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """As many as there are cores that this process may use, and no more than fit into memory."""
    import psutil

    fitting = (psutil.virtual_memory().available - SPARK_BYTES) // WORKER_BYTES
    return max(1, min(len(os.sched_getaffinity(0)), fitting))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests of one file stay in one process, which makes what they share (a trained model, a server) once; all that start Spark
    stay in one process together, whichever files they are in, so that no two virtual machines compete for memory."""
    if not config.pluginmanager.hasplugin("xdist"):
        return
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            group = "spark" if item.get_closest_marker("spark") else item.nodeid.partition("::")[0]
            item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture(autouse=True)
def _own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("LUTHIER_HOME", str(tmp_path / "home"))
    for name in ("LUTHIER_DATABASE", "LUTHIER_BLOBS"):
        monkeypatch.delenv(name, raising=False)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def served(command: list[str], port: int) -> Iterator[None]:
    """A server of this command until the block ends; the block starts when the port answers."""
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(300):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert server.poll() is None, f"{command[0]} stopped by itself"
            time.sleep(0.1)
        yield
    finally:
        server.kill()
        server.wait()


@pytest.fixture(scope="session")
def s3_server():
    pytest.importorskip("s3fs", reason="s3fs is not installed (pip install 'luthier[s3]')")
    pytest.importorskip("moto", reason="moto is not installed (pip install 'moto[server]')")
    port = free_port()
    with served([sys.executable, "-m", "moto.server", "-p", str(port)], port):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
def bucket(s3_server, monkeypatch):
    """An s3fs with an empty bucket `company`, and the environment that leads to it."""
    import s3fs

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    s3fs.S3FileSystem.clear_instance_cache()
    fs = s3fs.S3FileSystem()
    fs.mkdir("company", region_name="eu-west-1")
    yield fs
    fs.rm("company", recursive=True)
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture(scope="session")
def node_modules():
    """Where Node finds the official client: beside this checkout, or where NODE_PATH says."""
    beside = Path(__file__).parents[1] / ".services" / "node_modules"
    places = [beside, *map(Path, filter(None, os.environ.get("NODE_PATH", "").split(os.pathsep)))]
    found = next((place for place in places if (place / "openai").is_dir()), None)
    if shutil.which("node") is None or found is None:
        pytest.skip("Node's openai is not installed (npm install --prefix .services openai)")
    return found


@pytest.fixture(scope="session")
def azure_server(tmp_path_factory):
    """Azurite, Microsoft's own server of the Blob protocol: its connection string."""
    pytest.importorskip("adlfs", reason="adlfs is not installed (pip install 'luthier[azure]')")
    beside = Path(__file__).parents[1] / ".services" / "node_modules" / ".bin" / "azurite"
    azurite = shutil.which("azurite") or (str(beside) if beside.exists() else None)
    if azurite is None:
        pytest.skip("Azurite is not installed (npm install --prefix .services azurite)")
    port, folder = free_port(), tmp_path_factory.mktemp("azurite")
    options = ["--silent", "--skipApiVersionCheck", "--disableTelemetry", "--location", str(folder)]
    ports = ["--blobPort", str(port), "--queuePort", str(free_port()), "--tablePort", str(free_port())]
    key = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="  # public: Azurite's own
    with served([azurite, *options, *ports], port):
        yield (
            f"DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;AccountKey={key};"
            f"BlobEndpoint=http://127.0.0.1:{port}/devstoreaccount1;"
        )


@pytest.fixture
def container(azure_server, monkeypatch):
    """(an adlfs, the name of an empty container), and the environment that leads there."""
    import adlfs

    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", azure_server)
    adlfs.AzureBlobFileSystem.clear_instance_cache()
    fs, name = adlfs.AzureBlobFileSystem(connection_string=azure_server), f"c{uuid.uuid4().hex[:10]}"
    fs.mkdir(name)
    yield fs, name
    adlfs.AzureBlobFileSystem.clear_instance_cache()


def _server_programs() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if found:
        return found[-1].parent
    return Path(shutil.which("initdb")).parent if shutil.which("initdb") else None


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory):
    programs = _server_programs()
    if programs is None:
        pytest.skip("PostgreSQL's server programs are not installed (Debian: apt-get install postgresql)")
    folder = Path("/tmp") / f"luthier-pg-{uuid.uuid4().hex[:8]}"  # a short path: sockets allow 107 bytes
    folder.mkdir()
    as_user = []
    if os.geteuid() == 0:  # initdb refuses root
        shutil.chown(folder, "postgres", "postgres")
        as_user = ["runuser", "-u", "postgres", "--"]
    run = lambda *command: subprocess.run([*as_user, *map(str, command)], check=True, capture_output=True)  # noqa: E731
    run(programs / "initdb", "-D", folder / "data", "-U", "luthier", "-A", "trust", "--no-sync")
    run(programs / "pg_ctl", "-D", folder / "data", "-w", "-l", folder / "log",
        "-o", f"-c listen_addresses='' -c unix_socket_directories={folder} -c fsync=off", "start")  # fmt: skip
    yield folder, run
    run(programs / "pg_ctl", "-D", folder / "data", "-m", "immediate", "stop")
    shutil.rmtree(folder)


@pytest.fixture
def postgres_url(postgres_server):
    folder, run = postgres_server
    name = f"t{uuid.uuid4().hex[:12]}"
    run("psql", "-h", folder, "-U", "luthier", "-d", "postgres", "-c", f"create database {name}")
    return f"postgresql://luthier@/{name}?host={folder}"


# -- Spark --------------------------------------------------------------------------------------------------------------------


class OneSpark:
    """A session of `local[2]` that is there already when an engine comes: it works in it, and leaves it as it was. Started where a
    test wants it, once for as many tests in a row as do."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._session, self._module = folder, None, ""

    def enter(self, module: str) -> None:
        self._module = module
        if self._session is not None:
            return
        from pyspark.sql import SparkSession

        from luthier.data.engines import spark_start

        quick = (
            "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"  # compiling well takes longer than what the tests run
        )
        options = {
            **spark_start._here("local[2]"),
            spark_start.JAVA: f"{spark_start._logged(self._folder / 'spark.log')} {quick}",
            "spark.ui.enabled": "false",
            "spark.ui.showConsoleProgress": "false",
            "spark.sql.shuffle.partitions": "2",
        }
        builder = SparkSession.builder.master("local[2]")
        for name, value in options.items():
            builder = builder.config(name, value)
        with spark_start.workers_python(sys.executable):
            self._session = builder.getOrCreate()

    def leave_to(self, module: str, *, starts_its_own: bool) -> None:
        """End it, unless a test of the same file comes that has nothing to do with Spark."""
        if starts_its_own or module != self._module:
            self.leave()

    def leave(self) -> None:
        if self._session is None:
            return
        from luthier.data.engines import spark

        found, self._session = self._session, None
        assert found.range(1).count() == 1
        found.stop()
        spark._end_java()


@pytest.fixture(scope="session")
def one_spark(tmp_path_factory):
    found = OneSpark(tmp_path_factory.mktemp("spark"))
    yield found
    found.leave()


@pytest.fixture
def spark_here(one_spark, request):
    one_spark.enter(request.node.nodeid.partition("::")[0])


@pytest.fixture(autouse=True)
def _no_spark_of_others(request, one_spark):
    if "spark_here" not in request.fixturenames:
        starts = request.node.get_closest_marker("spark") is not None
        one_spark.leave_to(request.node.nodeid.partition("::")[0], starts_its_own=starts)
