"""What a training needs to go on after an interruption, and which weights are the best.

In: the state of a training. Out: files in `work/checkpoints/` under a key of settings, data and code, and the state again. Open
`checkpoints.py` first.
"""
