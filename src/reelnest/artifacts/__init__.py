"""The reports of the stages, as versioned models, one module per file.

In: the measurements of a stage, or a file in `reports/`. Out: the file, or its typed content. An invalid file, or one of another version,
raises an ArtifactError that names the command to run. Only its stage writes a file; all other code reads it with these models. Open
`artifact.py` first.
"""
