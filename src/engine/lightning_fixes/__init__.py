"""Repairs of Lightning, torch and jsonargparse: what is wrong, where it is reported, and what is done about it.

For each, tests/engine/test_lightning_fixes.py has a test that fails on the day the repair can go. Where no issue is
named, none was found in November 2026.
"""
