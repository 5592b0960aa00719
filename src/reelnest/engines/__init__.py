"""Where the vectors of a corpus are stored and searched, one file an engine.

In: the vectors of videos, which the encoder gave, and a query's vector. Out: the ids of the best videos with their cosines, and the videos
themselves. Open `engine.py` first: what every engine does, and how one is registered; `folder.py` is the first: a folder of files.
"""
