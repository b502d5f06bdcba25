"""The process that llama.cpp runs in: reads one line of JSON, starts its server on a private socket, and lives as long as its standard
input stays open. Run by path (llamacpp.py); it imports nothing of ours."""

import json
import os
import shutil
import sys


def main() -> None:
    wish = json.loads(sys.stdin.readline())
    sys.path.append(wish["import_from"])
    import xllamacpp

    settings = xllamacpp.CommonParams()
    settings.model.path = wish["model"]
    settings.n_ctx, settings.n_parallel, settings.kv_unified = wish["tokens"], wish["streams"], True
    settings.warmup, settings.verbosity, settings.ui, settings.use_jinja = False, 0, False, True
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = wish["threads"]
    settings.cache_ram_mib = 0  # prompts are kept in their slots, and nowhere else
    settings.hostnames, settings.port, settings.api_keys = [wish["socket"]], 1, [wish["key"]]
    settings.endpoint_slots = False  # it would tell prompts
    adapters = []
    for path in wish["adapters"]:
        adapter = xllamacpp.CommonAdapterLoraInfo()
        adapter.path, adapter.scale = path, 0.0
        adapters.append(adapter)
    settings.lora_adapters = adapters
    server = xllamacpp.Server(settings)
    print("ready", flush=True)
    while sys.stdin.readline():
        pass
    del server
    shutil.rmtree(os.path.dirname(wish["socket"]), ignore_errors=True)  # whoever started us may be gone
    os._exit(0)  # the engine's threads end with it, whatever they are at


if __name__ == "__main__":
    main()
