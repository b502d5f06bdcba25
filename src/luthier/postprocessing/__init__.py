"""From a tuned model to what is served: what it may say, and the folders a server or another tool loads.

spec      what a person may wish: constrain, abstain_below, export
package   the stage: a folder for each form with one luthier.json
forms     the forms there are, what each takes and how far it may be from the trained model
parity    the gate: tokens, weights and answers of each form, in its own engine (reading, weight_check, llamacpp)
complete  generation settings, licence and card of each form;  sums  SHA256SUMS and its check
merging   the stage that makes one model of several

Not here: keeping to it at each request. Serving does that, from luthier.json.
"""
