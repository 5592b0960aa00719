"""Exact search and funnel search over vectors, and the types in which vectors are stored.

In: query and corpus vectors, dims, and a storage type. Out: the nearest rows of each query with their scores. Open `topk.py` first.
"""
