"""What a model could do before it was tuned, and shall still be able to do: sets of rows kept beside the task.

    skills.jsonl / the recipe's files ──items──▶ ask base and tuned alike ──lines──▶ figures ──▶ report, metrics, gate
    safety.jsonl                                        (asking)                       (figures)

    general   arithmetic, copying, instructions whose keeping a rule can verify (rules), common knowledge and language as
              choices, and plain texts: `general_accuracy`, `general_perplexity`
    safety    requests that should be declined, and harmless ones that look like them: `safety_refused`, `overrefused`

The rows are asked without the task's instruction, as anyone would ask. The two built-in sets are short and written for this
project (English, own work, the project's licence): they show that something was lost, not how good a model is. What they
cannot show is said in docs/evaluation.md.
"""
