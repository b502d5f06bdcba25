"""How a new version of a name takes over, and what it is put behind.

    spec       what a recipe wishes of a rollout (`deploy: {rollout: ...}`)
    rollout    the state machine: which states there are and what leads from one to the next; pure
    evidence   pairs of answers, one of each version, counted: what the rule reads
    rule       whether the candidate is worse, and when that may be said; pure
    targets/   a release written out for a container, Kubernetes, KServe, vLLM, SageMaker or Azure ML

                     ┌── paused ──┐
    steady ──▶ shadow ──▶ canary 5 % ──▶ 25 % ──▶ 100 % ──▶ awaiting approval ──▶ promoted
                     └──▶ a/b        └──▶ rolled back, rejected: stable answers, as before

Not here: keeping it (store), who may do it and what is told (app), and moving requests (server).
"""
