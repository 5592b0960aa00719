"""The reports that the stages hand on, as versioned models: one file an artifact.

In: what a stage measured, or a file in `reports/`. Out: the file, or the typed content of one. A file of another version, or a broken one,
is an ArtifactError that says which command writes it anew. Each file has one writer, its stage; whoever else needs it reads it here.
Open `artifact.py` first.
"""
