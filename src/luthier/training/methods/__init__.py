"""Training methods: one file each, and its line in core/plugin.py. The protocol is training/method.py."""
