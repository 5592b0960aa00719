"""Starts and stops the processes that compute, under `accelerate launch`.

In: the settings and the name of a module with a `main()`. Out: an exit status, and an error in at most two lines. Open `command.py` first:
it makes the command line of `launcher.py`, the process that starts the ranks (`rank.py`).
"""
