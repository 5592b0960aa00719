"""Search engines, which store and search the vectors of a corpus, one file per engine.

In: the encoded vectors of videos, and a query's vector. Out: the ids of the best videos with their cosines, and the videos themselves. Open
`engine.py` first: it defines the interface and the registry. `folder.py` is an engine over a folder of files.
"""
