"""Is the tuned model better, by how much, and how sure is that?

    test split ──▶ tasks/*    each system answers each row          suite
                     │
                     ▼
            predictions.parquet   one line per row and system       predictions
                     │
                     ▼
        metrics, paired bootstrap, examples: pure arithmetic        metrics, compare, report
                     │
                     ▼
                report.json ──▶ policy decides                      governance.policy

Systems: `tuned` (the model in question), `base` (the same weights before), `base_3shot` (base with three
examples in the prompt), `tfidf` (word counts and logistic regression), and whom a recipe names: the release in use, other
models, models behind a server (systems, others, external). A judge may grade free answers (judge). Every number of report.json can be
computed again from predictions.parquet alone:

    metrics.from_predictions(table, task)     compare.from_predictions(table, task, ...)

Not here: what is good enough. That is a wish of the recipe (`evaluate.gate`) judged by governance.
"""
