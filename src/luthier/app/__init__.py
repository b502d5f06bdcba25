"""The one door. The command line, HTTP and the pages all call `App`; nothing below knows who calls.

app        the door itself: where things are kept, and the nouns
recipes, models, records, data, traffic, rollouts, monitoring, auditing
           the verbs of each noun, checked and recorded
recipe     what a person writes, whole
line       the line from rows to a release, and what of it is already there
context    what a stage may use of the world
planning   what would run, how long, how much memory and money
"""
