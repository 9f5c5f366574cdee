"""How files and options become one config: read, merged by one rule, and written so that it can be read again."""
