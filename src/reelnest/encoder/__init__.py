"""The encoder: a backbone with pooling, projection and adapters, and the folder that it is saved in.

In: entries (texts and videos) and the model's settings. Out: vectors whose prefixes are vectors too, and a saved model that other
libraries open as well. Open `encoder.py` first, then `saved.py`.
"""
