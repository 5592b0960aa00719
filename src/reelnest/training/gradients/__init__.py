"""Computes the gradients of a step's batches.

In: batches and the model that accelerate prepared. Out: gradients in its parameters, and the losses. Open `step_gradients.py` first.
`gradient_cache.py` has the forward and backward passes of a batch; `adaptive_batch_size.py` handles a lack of memory.
"""
