"""Exporters from `videos.jsonl` and `pairs.jsonl` to other training libraries' layouts, one file each.

In: pairs with their splits and the paths of their videos. Out: files of JSON lines, which refer to the videos where they are. Open
`exporter.py` first, which defines and registers exporters. `records/exporting.py` has the code that all exporters share.
"""
