"""What answers. An engine turns a conversation into text, chunk by chunk; it knows nothing of HTTP, keys or names.

    Request ──▶ Engine.generate ──▶ Chunk, Chunk, ..., last Chunk (finish, usage)

    engine               the protocol and its values
    abilities            what some engines can do beside: plain text, tools, vectors
    labels               an answer that is one of some labels
    package              what a model folder says about how to ask it
    backend              the seam below: token ids in, tokens out
    package_engine       what every engine shares: instruction, template, labels, chain, vote, abstention, fallback
    opening              what an engine is opened with
    transformers_engine  in-process generation with a KV cache: the plain engine, one answer at a time
    openvino_engine      several streams at once on a processor, the fastest (batching)
    llamacpp_engine      the same, many adapters over one base in one process (llamacpp_base, gguf_cache)
    vllm_engine          vLLM as a managed process (bound)
    upstream_engine      a server elsewhere (completions)
    scripted_engine      the fake: fixed answers, delays and failures, for tests
    session              a conversation that remembers, for a terminal

>>> from luthier.serving.engine import Message, Request
>>> from luthier.serving.scripted_engine import Reply, ScriptedEngine
>>> engine = ScriptedEngine(default=Reply("the billing queue"))
>>> engine.load()
>>> "".join(chunk.text for chunk in engine.generate(Request((Message("user", "Where does it go?"),))))
'the billing queue'
"""
