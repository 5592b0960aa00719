"""Importers from other data layouts to `videos.jsonl` and `pairs.jsonl`, one file each.

In: a file or a folder in another layout. Out: a new folder in this project's format, and a list of skipped rows. Open `importer.py` first,
which defines and registers importers. `records/importing.py` has the code that all importers share, and `records/captioned_clips.py` that
of layouts of clips with captions.
"""
