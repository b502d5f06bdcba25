"""The shared words. Everything above is written in these five nouns and nothing here knows who uses them.

    Spec      a frozen, typed wish; what a person writes                         core.spec
    Stage     a function (spec, inputs, context) -> Artifact                     core.stage
    Artifact  an immutable result named by its digest, with its parents          core.artifact
    Event     one append-only fact                                               core.event
    Plugin    a named part, built-in or from an entry point                      core.plugin

>>> from luthier.core.artifact import digest_of
>>> digest_of({"b": 1, "a": 2}) == digest_of({"a": 2, "b": 1})
True

Imports: the standard library, pydantic, and the YAML reader (loaded only when a recipe is read).
"""
