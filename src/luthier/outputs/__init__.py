"""From what a model says to an answer: one way, walked alike by evaluation, which measures it, and by serving.

    model ─▶ text (held to a grammar, where one is asked) ─▶ steps, one after the other ─▶ answer, or why there is none
                     │ several samples: a vote                 json  schema  snap           │ not sure enough, or refused:
                     ▼                                         normalize  redact            ▼ another model is asked
              how sure (calibrated)                            banned  citations

    step         what a step is: a pure function of a text and a little context
    chain        steps in order, each one's effect kept
    steps/       one file for each step
    spec         what a person may wish, and the same bound to a task
    answering    samples become one answer: chain, vote, confidence, when to ask another model
    calibration  how far probabilities may be believed: temperature, isotonic
    other        the model that is asked where this one is not sure

Not here: making text (models/generate) and packing what is served (postprocessing).
"""
