"""Programs of their own, `python -m src <name>`: each a file (or a folder) here, imported only when called."""
