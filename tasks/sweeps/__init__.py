"""Sweeps: trials of settings.

In: a search space and a number of trials. Out: runs with their metrics, and the best of them. Open `sweep.py` first.
"""
