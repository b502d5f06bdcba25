"""argv → App; tables, progress, `--json`. No rule of the system lives here."""
