"""`luthier server`: fine-tuning behind OpenAI's API, for teams. Each module is a part: its routes, and the object that answers them.

    site.Ring        whose key is that (over app.site)
    asked.Asked      what every endpoint has: the caller, his project's App, the body read strictly, errors in OpenAI's envelope
    make.parts       all parts, in order; make.create_platform: the ASGI app

A part is one new file and its line in `make.PARTS`. Routes name their permission (governance/access); the guard asks for it before the
part is reached, and the part sees no project but the caller's.
"""
