"""Other layouts of data, one file each, turned into `videos.jsonl` and `pairs.jsonl`.

In: a file or a folder in another layout. Out: a new folder in this project's format with its videos, and a list of the rows that could not
be used. Open `importer.py` first: what an importer is, and how one is registered; `importing.py` does what all importers share.
"""
