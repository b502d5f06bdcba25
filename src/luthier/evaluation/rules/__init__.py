"""Rules of data that need a language model. They stand on this floor because data and models do not know each other; the plug-in
table names them, so a recipe finds them as any other rule, and nothing here is loaded before one is asked for."""
