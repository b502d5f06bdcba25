"""The steps of a chain, one a file. Each says at its top what it never does."""
