"""Checkpoints to resume a training, and the selection of the best weights.

In: the state of a training. Out: files in `work/checkpoints/` under a key of settings, data and code, and the restored state. Open
`checkpoints.py` first.
"""
