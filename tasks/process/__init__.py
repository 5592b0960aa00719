"""Processes: starts one, reads its output, and ends it with all its children.

In: a command and a folder. Out: its output, or an error with its last lines. Nothing is left running. Open `runner.py` first.
"""
