"""How far new data is from what the champion was trained on.

In: figures of two versions of the data. Out: measures with their tests and sizes. Open `measures.py` first.
"""
