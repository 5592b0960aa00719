"""The code that a result depends on: the import closure of the module that computes it.

In: a module's name, and the sources of this package, which are parsed and never imported. Out: the files that the module imports, directly
or indirectly, and a digest of their contents. The digest decides whether a result is stale. It is used for the `deps` of `dvc.yaml`
(`commands/dvc_yaml.py`), the keys of checkpoints and of cached features, and the code hash of an evaluation.

Files outside the closure do not change the digest, so a new page or command makes no training stale. Modules inside the closure that
cannot change a result are excluded below, with reasons. The digest covers complete files, including comments.
"""

import ast
import functools
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

PACKAGE = Path(__file__).parent
DATA_SUFFIXES = (".j2", ".css", ".js", ".html")
"""Suffixes of files that a module reads from its own folder, such as page templates. They count as code."""

LEFT_OUT = {
    "reelnest.settings": "keys include the values of the relevant settings",
    "reelnest.errors": "error classes; no result contains them",
    "reelnest.messages": "parts of messages; no result contains them",
    "reelnest.registry": "a promotion makes nothing stale, and the report contains the compared values",
    "reelnest.atomic_files": "how files are written, not their content",
    "reelnest.launch": "starts and ends a stage's processes",
    "reelnest.stages.training_inputs": "rejects invalid training inputs",
    "reelnest.stages.workspace": "the names of a checkout's folders",
    "reelnest.progress": "shows that work goes on",
    "reelnest.code_closure": "lists code and computes no results",
}
"""Module or package → the reason why it is excluded from every closure."""
READ_BEFORE = {
    "reelnest.records.formats": "earlier stages read the records",
    "reelnest.records.json_lines": "earlier stages read the records",
    "reelnest.video.decoder": "earlier stages decode the videos; only a saved model decodes with it",
}
"""Excluded from stages that read `prepared/`, whose content is a dependency."""
RUNS_A_MODEL = {
    f"reelnest.backbones.{name}": "preprocessing uses the family's vision spec and runs no model"
    for name in ("attention", "flops", "packing", "patch_projection", "positions", "prompt", "segments", "tiny")
}
"""Excluded from preprocessing: modules that only run a model, so that a change there does not decode videos again."""
CHANGES_NO_WEIGHTS = {
    "reelnest.artifacts": "names the fields of a report",
    "reelnest.encoder.saved": "how a trained model is written and opened",
    "reelnest.encoder.saved_settings": "how a trained model is opened",
    "reelnest.profiling": "measures the steps",
    "reelnest.training.checkpoint.timer": "decides when a checkpoint is due",
    "reelnest.training.figures": "names the values for the trackers",
    "reelnest.training.host_memory": "returns freed memory",
    "reelnest.training.progress": "shows the progress of a training",
    "reelnest.training.tracker": "records the results of steps",
}
"""Excluded from the code that decides the weights of a training."""
DRAWS_FIGURES = {
    "reelnest.report": "shows the metrics of an evaluation and computes none",
    "reelnest.artifacts": "names the fields of a report",
    "reelnest.stages.evaluation_entries": "fills the fields of a report",
    "reelnest.stages.evaluation_files": "writes the metrics into files",
}
ONLY_MEASURES_ENGINES = {
    "reelnest.engines": "stores and searches vectors; with `evaluate.engines`, an evaluation measures how fast",
    "reelnest.profiling.engines": "measures search engines",
}
"""Excluded from the evaluation, so that a change to an engine does not evaluate again. `dvc repro -f evaluate` measures again."""
CHECKS_NOTHING = {
    "reelnest.report": "shows the results of the checks; validating large data again takes hours",
    "reelnest.backbones": "names the layout of the frames that are cached for preprocessing",
    "reelnest.store": "caches frames for preprocessing",
}
"""Excluded from the validation."""


@dataclass(frozen=True, eq=False)
class Code:
    """The code that computes one kind of result: the imports of `module`, without excluded modules and what only these import."""

    module: str
    left_out: Mapping[str, str]
    """Module or package → the reason."""


TRAINING = Code("reelnest.stages.train", LEFT_OUT | READ_BEFORE | CHANGES_NO_WEIGHTS)
"""The code that decides the weights of a training, for the key of its checkpoints."""
FROZEN_FEATURES = Code("reelnest.training.frozen", LEFT_OUT | READ_BEFORE)
"""The code that decides the features of a frozen module."""
DECODING = Code("reelnest.video.decoder_process", LEFT_OUT)
"""The code that decides whether a video is good, and its properties."""
FIGURES = Code("reelnest.stages.evaluate", LEFT_OUT | READ_BEFORE | DRAWS_FIGURES)
"""The code that decides the metrics of an evaluation."""
_LEFT_OUT_OF_STAGE = {
    "validate": CHECKS_NOTHING,
    "preprocess": RUNS_A_MODEL,
    "train": READ_BEFORE,
    "evaluate": READ_BEFORE | ONLY_MEASURES_ENGINES,
}


@functools.cache
def stage_code(stage: str) -> Code:
    """Returns the code whose changes make DVC run a stage again."""
    return Code(f"reelnest.stages.{stage}", LEFT_OUT | _LEFT_OUT_OF_STAGE.get(stage, {}))


@functools.cache
def code_digest(code: Code, package: Path = PACKAGE) -> str:
    """Returns the SHA-256 over the names and contents of `code_files`, independent of the package's location."""
    digest = hashlib.sha256()
    for name in code_files(code, package):
        digest.update(f"{name}\0{hashlib.sha256((package / name).read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


@functools.cache
def code_files(code: Code, package: Path = PACKAGE) -> tuple[str, ...]:
    """Returns the files of the closure, relative to `package`, in alphabetical order.

    An `__init__.py` with only a docstring does not count. Raises ValueError if the module itself is missing.
    """
    if _source(code.module, package) is None:
        raise ValueError(f"{code.module} is not a module in {package}")
    waiting, seen = [code.module], set[PurePosixPath]()
    while waiting:
        module = waiting.pop()
        source = _source(module, package)
        if source is None or source in seen or any(_is_within(module, name) for name in code.left_out):
            continue
        seen.add(source)
        waiting += _imported(package / source, module, package)
    python = {source for source in seen if source.name != "__init__.py" or _has_code(package / source)}
    folders = {source.parent for source in python}
    data = {folder / path.name for folder in folders for path in (package / folder).iterdir() if path.suffix in DATA_SUFFIXES}
    return tuple(sorted(str(source) for source in python | data))


def _is_within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def _source(module: str, package: Path) -> PurePosixPath | None:
    """Returns the module's file; None if it is not in the package, or is the package itself, which only defines `reelnest.load`."""
    root, *names = module.split(".")
    if root != PACKAGE.name or not names:
        return None
    path = PurePosixPath(*names)
    return next((name for name in (path.with_name(f"{path.name}.py"), path / "__init__.py") if (package / name).is_file()), None)


def _imported(path: Path, module: str, package: Path) -> Iterator[str]:
    """Yields the modules that a file refers to: imports, strings (`python -m`), and its parent packages.

    A package that is searched for implementations counts as an import of all its modules. That is the case if code uses its `__path__`, or
    contains its name as a string (`implementations.py`).
    """
    parents = module.split(".")[:-1]
    yield from (".".join(parents[:end]) for end in range(2, len(parents) + 1))
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = node.module or ""
            if node.level:
                raise ValueError(f"{path}:{node.lineno}: a relative import; write the full name of the module")
            yield start
            yield from (f"{start}.{name.name}" for name in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith(f"{PACKAGE.name}."):
            yield node.value
            yield from _modules_in(node.value, package)
        elif isinstance(node, ast.Name) and node.id == "__path__":
            yield from _modules_in(module, package)
        elif isinstance(node, ast.Attribute) and node.attr == "__path__" and isinstance(node.value, ast.Name):
            yield from _modules_in(_full_name(node.value.id, path), package)


def _modules_in(name: str, package: Path) -> Iterator[str]:
    folder = package.joinpath(*name.split(".")[1:])
    yield from (f"{name}.{path.stem}" for path in sorted(folder.glob("*.py")) if path.name != "__init__.py")


def _full_name(name: str, path: Path) -> str:
    """Returns the full name of what a file imports as `name`."""
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            start = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return f"{start}{alias.name}"
    return name


def _has_code(path: Path) -> bool:
    return any(not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)) for node in _tree(path).body)


@functools.cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_bytes(), filename=str(path))
