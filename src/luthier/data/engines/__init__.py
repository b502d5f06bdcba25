"""What runs the rules. An engine streams batches through map rules and implements the keyed primitives once."""
