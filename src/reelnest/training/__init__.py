"""Training.

In: an encoder, `prepared/`, the settings and a tracker. Out: the trained weights, their checkpoints and the loss of each step. Here are
the loop and what one step does; losses, batches, checkpoints and the memory prediction have packages of their own. Open `loop.py` first.
"""
