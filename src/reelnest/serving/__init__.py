"""Searching with a trained model: an index of a corpus, and the page and JSON API over it.

In: a saved model, a folder with `videos.jsonl`, and queries. Out: an index folder, and results. Open `indexing.py` for the index,
`app.py` for the server.
"""
