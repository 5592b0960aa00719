"""The five stages of a run: validate, preprocess, train, evaluate, register.

In: the files of a workspace and the settings. Out: the files of the next stage. A stage reads files, calls the library and writes files; it
computes nothing itself. Open `workspace.py` first for the folders, then the stage.
"""
