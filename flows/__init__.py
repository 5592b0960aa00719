"""Prefect flows: which tasks run, and in which order.

In: a deployment's parameters. Out: a finished run. Flows contain no training logic; they call tasks. Open `pipeline.py` first.
"""
