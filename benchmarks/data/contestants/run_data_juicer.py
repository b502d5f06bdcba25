"""Data-Juicer in the race, as its `dj-process` runs a list of operators over a file."""

from __future__ import annotations

import json
import sys
from pathlib import Path

WORKS = {
    "clean": [
        {"clean_html_mapper": {}},
        {"whitespace_normalization_mapper": {}},
        {"text_length_filter": {"min_len": 50, "max_len": 20_000}},
    ],
    "exact": [{"document_deduplicator": {"lowercase": True, "ignore_non_character": True}}],
    "near": [
        {
            "document_minhash_deduplicator": {
                "tokenization": "space",
                "window_size": 3,
                "lowercase": True,
                "ignore_pattern": r"\p{P}",
                "num_permutations": 128,
                "num_bands": 16,
                "num_rows_per_band": 8,
            }
        }
    ],
    "personal": [{"pii_redaction_mapper": {}}],
}


def main() -> None:
    import yaml

    job = json.loads(Path(sys.argv[1]).read_text())
    scratch = Path(job["scratch"])
    scratch.mkdir(parents=True)
    recipe = {
        "project_name": "race",
        "dataset_path": job["texts"],
        "export_path": str(Path(job["out"]) / "kept.parquet"),
        "work_dir": str(scratch / "work"),
        "np": job["processes"],
        "text_keys": "text",
        "open_tracer": False,
        "use_cache": False,
        "process": WORKS[job["work"]],
    }
    path = scratch / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    sys.argv = ["dj-process", "--config", str(path)]
    from data_juicer.config import init_configs
    from data_juicer.core import DefaultExecutor

    DefaultExecutor(init_configs()).run()


if __name__ == "__main__":
    main()
