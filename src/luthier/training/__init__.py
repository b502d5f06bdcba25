"""Batches become a model. The loop knows when to do what; what is learnt and what moves are parts it is given.

    rows      records     ->  token ids with a loss mask, cached; what does not fit is named row by row
    batches   rows        ->  the order of an epoch, optimizer steps, micro-batches without padding
    methods   micro-batch ->  a summed loss                                   (one file per technique)
    optim     gradients   ->  new weights, under a schedule
    loop      all of it, step by step, with validation and early stopping
    checkpoint            ->  a transaction on disk; the newest one that verifies is gone on from
    plan      spec + row lengths -> steps, tokens, memory, time, before anything is spent
    train     the stage: (base, dataset) -> model

What a step does follows from (seed, step) and the order of rows from (seed, epoch, record id), so no state of a
random generator is ever stored, and a run that was killed ends in the same bytes as one that was not.

Only `spec` and `plan` are free of torch; import the others lazily.
"""
