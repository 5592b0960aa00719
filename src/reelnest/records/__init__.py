"""The data's files: `videos.jsonl` and `pairs.jsonl`.

In: lines of JSON, and the folder that they name files in. Out: typed videos, pairs and behaviour tests, each with its split, and a
record with its reason for every bad line. Also merges and compares versions of the data. Open `formats.py` first.
"""
