"""EleutherAI's lm-evaluation-harness, both ways: a second measuring tool beside ours, with the field's own tasks.

    its tasks on our models    tasks ──lm_eval──▶ HarnessModel ──▶ models/likelihood ──▶ benchmark.json     stage, model
    our tasks in its form      dataset's test rows ──▶ NAME.yaml + test.jsonl                               tasks

The harness builds the prompts, compares and counts; the model, its chat template and the batching are ours.

What may not happen (`safely`): no network unless it is asked for, no code of a data set or of a task's folder, no metric
that is downloaded, and templates of tasks run in a sandbox. The tasks that the installed package brings are code of that
package, and trusted as such.

Nothing here is imported before it is asked for: the package `lm-eval` is an extra.
"""
