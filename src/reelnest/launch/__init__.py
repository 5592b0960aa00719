"""Starts the processes that compute, under `accelerate launch`, and ends them.

In: the settings and the name of a module with a `main()`. Out: an exit status, and what went wrong in at most two lines. Open `command.py`
first: it makes the command line. `launcher.py` is the process that this starts, `rank.py` each of the processes that accelerate starts.
"""
