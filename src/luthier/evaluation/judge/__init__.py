"""A model that judges the answers of a chat task, and how far it may be believed.

    answers of all systems ─┬─▶ scores: each answer, by each criterion                  prompts, judging
                            ├─▶ pairs: the tuned model's against each other's, twice
                            ├─▶ probes: planted answers that tell the judge what to say   probes
                            └─▶ answers that people have judged                           human
                                  │
                                  ▼
                          judgements.parquet ──▶ metrics, win rates, trust              scores, agreement

What is judged was written by others, and may hold instructions to the judge. It stands between marks that nobody could know
beforehand, the judge is told that it is data, and how often it obeys planted instructions all the same is measured in every
evaluation: a judge that does is not to be trusted, and nothing that it says passes a gate. Every number follows from
judgements.parquet alone.
"""
