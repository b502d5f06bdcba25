"""What may go on, and what must be said about it.

policy   a gate over a report: verdicts with numbers, and the error that stops the line
card     a model card in Markdown, from plain facts
"""
