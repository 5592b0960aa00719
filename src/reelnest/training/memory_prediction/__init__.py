"""How much memory a training step takes, known without a GPU and without weights.

In: settings and the sizes of the largest video and text. Out: bytes by component of the step, and what would have to change to fit a card.
Runs the real training step on tensors without contents. Open `step_memory.py` first.
"""
