"""Exact and funnel search in vectors, and the types that vectors are stored in.

In: query and corpus vectors, dims, and a storage type. Out: the nearest rows of each query with their scores. Open `topk.py` first.
"""
