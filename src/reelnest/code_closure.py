"""Which code a result depends on: the import closure of the module that makes it.

In: a module's name, and the sources of this package, which are read and never imported. Out: the files that the module imports, directly or
through others, and one digest of their contents. All that asks "was this made by other code?" asks here: the `deps` of `dvc.yaml`
(`commands/dvc_yaml.py`), the key of a training's checkpoints, the key of cached features, and the code hash of an evaluation.

A file outside the closure changes nothing, so a new page or a new command throws no training away. What is inside but changes no result
is left out below, each with its reason. The digest is of whole files: a comment in a module of the closure counts, a comment elsewhere
does not.
"""

import ast
import functools
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

PACKAGE = Path(__file__).parent
DATA_SUFFIXES = (".j2", ".css", ".js", ".html")
"""Files that a module reads from its own folder, such as the templates of a page: they count as code."""

LEFT_OUT = {
    "reelnest.settings": "the values of the settings are named one by one where it matters which they are",
    "reelnest.errors": "the classes of errors: no result has one in it",
    "reelnest.registry": "a promotion makes nothing stale, and what was compared is written into the report",
    "reelnest.atomic_files": "how a file is written, not what is in it",
    "reelnest.launch": "how a stage's processes are started and ended",
    "reelnest.stages.training_inputs": "refuses what cannot be trained on",
    "reelnest.stages.workspace": "the names of a checkout's folders",
    "reelnest.code_closure": "names code and computes nothing",
}
"""Module or package → why it is left out of every closure."""
READ_BEFORE = {
    "reelnest.records.formats": "records are read by the stages before",
    "reelnest.records.json_lines": "records are read by the stages before",
    "reelnest.video.decoder": "videos are decoded by the stages before; a saved model opens others with it",
}
"""Left out of what reads `prepared/`, whose content is a dependency of its own."""
RUNS_A_MODEL = {
    f"reelnest.backbones.{name}": "preprocessing asks a model family how it cuts frames, and runs no model"
    for name in ("attention", "flops", "packing", "patch_projection", "positions", "prompt", "segments", "tiny")
}
"""Left out of preprocessing: parts of the families that only compute, so that a change there decodes no video again."""
CHANGES_NO_WEIGHTS = {
    "reelnest.artifacts": "names the fields of a report",
    "reelnest.encoder.saved": "how a trained model is written and opened",
    "reelnest.encoder.saved_settings": "how a trained model is opened",
    "reelnest.profiling": "measures the steps",
    "reelnest.training.checkpoint.timer": "says when a checkpoint is due",
    "reelnest.training.figures": "names what the trackers get",
    "reelnest.training.host_memory": "gives freed memory back",
    "reelnest.training.progress": "shows how far a training is",
    "reelnest.training.tracker": "records what a step gave",
}
"""Left out of the numerics of a training."""
DRAWS_FIGURES = {
    "reelnest.report": "draws the metrics of an evaluation and makes none",
    "reelnest.artifacts": "names the fields of a report",
    "reelnest.stages.evaluation_entries": "fills the fields of a report",
    "reelnest.stages.evaluation_files": "writes the metrics into files",
}

DRAWS_CHECKS = {"reelnest.report": "draws the page of the checks; to validate large data again for it would take hours"}
"""Left out of the validation."""


@dataclass(frozen=True, eq=False)
class Code:
    """The code that makes one kind of result: what `module` imports, without some modules or packages and what only these import."""

    module: str
    left_out: Mapping[str, str]
    """Module or package → the reason."""


TRAINING = Code("reelnest.stages.train", LEFT_OUT | READ_BEFORE | CHANGES_NO_WEIGHTS)
"""What decides the weights that come out of a training: the key of its checkpoints."""
FROZEN_FEATURES = Code("reelnest.training.frozen", LEFT_OUT | READ_BEFORE)
"""What decides the rows that a frozen part of the model gives."""
FIGURES = Code("reelnest.stages.evaluate", LEFT_OUT | READ_BEFORE | DRAWS_FIGURES)
"""What decides the figures of an evaluation."""
_LEFT_OUT_OF_STAGE = {"validate": DRAWS_CHECKS, "preprocess": RUNS_A_MODEL, "train": READ_BEFORE, "evaluate": READ_BEFORE}


@functools.cache
def stage_code(stage: str) -> Code:
    """What DVC runs a stage again for."""
    return Code(f"reelnest.stages.{stage}", LEFT_OUT | _LEFT_OUT_OF_STAGE.get(stage, {}))


@functools.cache
def code_digest(code: Code, package: Path = PACKAGE) -> str:
    """SHA-256 over the names and contents of `code_files`: the same wherever the package is."""
    digest = hashlib.sha256()
    for name in code_files(code, package):
        digest.update(f"{name}\0{hashlib.sha256((package / name).read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


@functools.cache
def code_files(code: Code, package: Path = PACKAGE) -> tuple[str, ...]:
    """The files of the closure, relative to `package`, in alphabetical order.

    An `__init__.py` that holds a docstring alone is no code. Raises ValueError where the module itself is missing.
    """
    if _source(code.module, package) is None:
        raise ValueError(f"{code.module} is no module below {package}")
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
    """The module's file; None where it is no module of the package, or the package itself, which only names what `reelnest.load` is."""
    root, *parts = module.split(".")
    if root != PACKAGE.name or not parts:
        return None
    path = PurePosixPath(*parts)
    return next((name for name in (path.with_name(f"{path.name}.py"), path / "__init__.py") if (package / name).is_file()), None)


def _imported(path: Path, module: str, package: Path) -> Iterator[str]:
    """The modules that a file names: by an import, as a string (`python -m`), or as the packages around it.

    A package that is looked through for implementations counts as an import of all modules in it: where code takes its `__path__`, or names
    it as a string (`implementations.py`).
    """
    parents = module.split(".")[:-1]
    yield from (".".join(parents[:end]) for end in range(2, len(parents) + 1))
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = node.module or ""
            if node.level:
                raise ValueError(f"{path}:{node.lineno}: a relative import; write the whole name of the module")
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
    """What a file imports under this name."""
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
