"""Reads files and options, merges them to one config by one rule, and writes it so that it can be read again."""
