"""Where attempts run. A launcher is a module, and its line in the plugin table (kind `launcher`).

launcher     the port
local        processes of this host
processes    what the system knows of them
"""
