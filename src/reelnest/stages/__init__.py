"""One module a stage: it reads files, calls the library and writes files."""
