"""The encoder: a backbone with pooling, projection and adapters, and its saved form.

In: entries (texts and videos) and the model's settings. Out: vectors with usable prefixes, and a saved model that other libraries can
open. Open `encoder.py` first, then `saved.py`.
"""
