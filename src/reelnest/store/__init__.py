"""The folder `prepared/`: the frame store and the tables of items and pairs.

In: decoded frames, good records and their splits. Out: memory-mapped rows, and an `Entry` for each item, which is what the encoder
reads. Also caches what frozen parts of a model computed. Open `prepared.py` first.
"""
