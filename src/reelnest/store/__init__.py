"""The folder `prepared/`: the frame store and the tables of items and pairs.

In: decoded frames, good records and their splits. Out: memory-mapped rows, and an `Entry` for each item, which the encoder reads. Also
caches the features that frozen modules of a model compute. Open `prepared.py` first.
"""
