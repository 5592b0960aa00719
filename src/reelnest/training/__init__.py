"""Training.

In: an encoder, `prepared/`, the settings and a tracker. Out: the trained weights, their checkpoints and the loss of each step. Open
`loop.py` first, then `step.py` (an optimizer step) and `gradients/step_gradients.py` (batch, vectors, losses, gradients). Losses, batches,
gradients, checkpoints and the memory prediction are subpackages; `snapshot.py` saves the training state to a checkpoint.
"""
