"""Asking a language model many questions that cost something.

    question.py   a question, and the answer that is kept
    purse.py      what it may cost: forecast before the first, counted at each
    endpoint.py   a server that speaks OpenAI's protocol, over the one way out (data/egress)
    local.py      a base model in this process

Both keep every answer as soon as it is there (store/answers), so that a killed run goes on from where it was.
"""
