"""Rules: one file each, one line each in the plugin table. `rule.py` says what a rule is."""
