"""What a model has learnt by heart, and how sure that is.

    spec.py         what may be wished                          rows.py        training rows, and held-out rows as the control
    statistics.py   rank to exposure, AUC, intervals            secrets.py     planted, the user's own, found in the rows
    measure.py      what the models say of them                 findings.py    figures and alarms, by arithmetic alone

Three questions, each with something that was not learnt beside it: does it go on verbatim where a training row begins
(extraction); are secrets likelier to it than others of their kind (exposure); can training rows be told from held-out rows
by how likely they are (membership inference)?

Sources: Carlini et al. 2019, The Secret Sharer (exposure); Carlini et al. 2021 and 2023, Extracting Training Data and
Quantifying Memorization (discoverable memorisation); Carlini et al. 2022, Membership Inference Attacks From First
Principles (the share found at few false alarms; a reference model beside); Shi et al. 2024, Detecting Pretraining Data
(Min-K%).
"""
