"""Predicts the memory of a training step, without a GPU and without weights.

In: settings and the sizes of the largest video and text. Out: bytes by component, and the settings changes that fit a card. Runs the real
training step on tensors without contents. Open `step_memory.py` first.
"""
