"""How good retrieval is.

In: an encoder and a split of `prepared/`, or vectors and the pairs that are relevant. Out: metrics with confidence intervals at each
dim and storage type, by slice, the behaviour tests, and the recommended configuration. Open `evaluation.py` first; it takes vectors.
`split_evaluation.py` makes these with an encoder.
"""
