"""What runs, in which order, on which schedule.

In: a deployment's parameters. Out: a finished run. Flows hold no logic of training: they call tasks. Open `pipeline.py` first.
"""
