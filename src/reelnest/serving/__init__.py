"""Searching with a trained model: an index of a corpus, and the page and JSON API over it."""
