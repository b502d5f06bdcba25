"""Ways of saying a thing otherwise: small pure functions on one text, drawn from hashes. `rules/augment.py` uses them."""
