"""Texts as vectors, for rules that ask how alike rows are. `embedder.py` says what an embedder is; each is one file and one
line in the plugin table."""
