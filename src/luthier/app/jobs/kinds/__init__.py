"""What jobs do. A kind is a module here (or in a package from outside), and its line in the plugin table (kind `job`)."""
