"""The vision-language models that an encoder is built on.

In: a name or a folder in Hugging Face format, and packed rows of tokens and patches. Out: the loaded model, with attention and
positions that need no padding. Open `loading.py` first.
"""
