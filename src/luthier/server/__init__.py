"""The HTTP door: OpenAI's chat protocol in front of engines.

    client ──▶ protocol (deadlines) ──▶ Envelope (ids, 500) ──▶ Guard (host, key, permission) ──▶ openai (endpoints)
                                                                        │ routes: the one table            │
    engine ◀── Run (a thread pulls, the loop sends) ◀── Admission (slots, a bounded queue) ◀───────────────┘

A route that is not in `routes.TABLE` does not exist; a request without a key gets 401 whatever it asks for, health
excepted. Not here: what engines do (serving), which names are served and what is recorded (app).
"""
