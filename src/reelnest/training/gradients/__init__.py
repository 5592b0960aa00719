"""From the batches of a step to gradients.

In: batches, and the model as accelerate prepared it. Out: gradients in its parameters, and the losses. Open `step_gradients.py` first;
`gradient_cache.py` has the two ways from a batch to its vectors and back, `adaptive_batch_size.py` what is done when memory does not
suffice.
"""
