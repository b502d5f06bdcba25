"""The HTTP door: OpenAI's protocols in front of engines.

    client ──▶ protocol (deadlines) ──▶ Envelope (ids, 500) ──▶ Guard (host, key, permission, rate) ──▶ openai (endpoints)
                                           │ watch: metrics, pulse, request_log, traces                   │
    bodies    wire (chat), completions, responses, embeddings; parts and tools are what they share        │
    engine ◀── run (a thread pulls) ◀── admission (slots, turns, a bounded queue) ◀── screen ◀── answering┘
    shapes    chat, completions, response_events

A route that is not in `routes.TABLE` does not exist; a request without a key gets 401 whatever it asks for, health
excepted. Not here: what engines do (serving), which names are served and what is recorded (app).
"""
