"""The data's files: `videos.jsonl` and `pairs.jsonl`.

In: lines of JSON, and the data folder. Out: typed videos, pairs with their splits and behaviour tests, and a BadRecord with its reason for
every bad line. Also merges and compares versions of the data. Open `formats.py` first.
"""
