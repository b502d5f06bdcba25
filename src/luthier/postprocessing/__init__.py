"""From a tuned model to what is served: what it may say, and the folders a server or another tool loads.

spec      what a person may wish: constrain, abstain_below, export
package   the stage: adapter/ and merged/ folders with one luthier.json

Not here: keeping to it at each request. Serving does that, from luthier.json.
"""
