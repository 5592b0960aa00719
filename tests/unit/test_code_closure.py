"""The import closures of checkpoints, cached features, stages and evaluations."""

import shutil
from modulefinder import ModuleFinder
from pathlib import Path

import pytest

from reelnest.code_closure import FIGURES, FROZEN_FEATURES, PACKAGE, TRAINING, Code, code_digest, code_files, stage_code

ALL = {"training": TRAINING, "frozen features": FROZEN_FEATURES, "figures": FIGURES} | {
    stage: stage_code(stage) for stage in ("validate", "preprocess", "train", "evaluate")
}


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("elsewhere") / "reelnest"
    shutil.copytree(PACKAGE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def changed_by(copy: Path, name: str) -> set[str]:
    """The closures whose digest changes when a line end is added to a file of the package."""
    before = {what: code_digest(code, copy) for what, code in ALL.items()}
    content = (copy / name).read_bytes()
    (copy / name).write_bytes(content + b"\n")
    code_digest.cache_clear()
    after = {what: code_digest(code, copy) for what, code in ALL.items()}
    (copy / name).write_bytes(content)
    code_digest.cache_clear()
    return {what for what in ALL if before[what] != after[what]}


def file_of(words: str) -> str:
    """The only file of the package that contains the words."""
    [path] = [path for path in PACKAGE.rglob("*.py") if words in path.read_text(encoding="utf-8")]
    return str(path.relative_to(PACKAGE))


def test_mean_and_std_decide_weights_features_and_figures(copy: Path) -> None:
    changed = changed_by(copy, file_of("0.48145466"))
    assert changed >= {"training", "frozen features", "figures", "train", "evaluate"}


def test_a_loss_makes_training_stale_but_not_features_and_decoded_videos(copy: Path) -> None:
    path = next(name for name in code_files(TRAINING) if name.startswith("training/losses/"))
    assert changed_by(copy, path) == {"training", "train"}


@pytest.mark.parametrize("path", ["report/evaluation_page.html.j2", "report/evaluation_page.py", "report/page.css"])
def test_a_page_makes_only_the_evaluate_stage_stale(path: str, copy: Path) -> None:
    assert changed_by(copy, path) == {"evaluate"}


@pytest.mark.parametrize("path", ["report/data_checks/validation_page.py", "report/data_checks/validation_page.html.j2"])
def test_the_page_of_the_data_checks_makes_nothing_stale(path: str, copy: Path) -> None:
    assert changed_by(copy, path) == set()


def test_saving_a_model_does_not_make_its_training_stale(copy: Path) -> None:
    assert changed_by(copy, "encoder/saved.py") == {"figures", "train", "evaluate"}


@pytest.mark.parametrize(
    "path",
    ["cli.py", "commands/search.py", "serving/app.py", "registry/tracking.py", "settings/train.py", "errors.py", "engines/qdrant.py"],
)
def test_code_that_computes_no_results_makes_nothing_stale(path: str, copy: Path) -> None:
    assert changed_by(copy, path) == set()


def test_the_digest_is_the_same_in_another_folder(copy: Path) -> None:
    for code in ALL.values():
        assert code_digest(code, copy) == code_digest(code)


@pytest.mark.parametrize(
    ("module", "registered"),
    [("reelnest.stages.train", ["reelnest.training.losses.nested_infonce"]), ("reelnest.stages.evaluate", [])],
)
def test_the_closure_has_imports_started_modules_and_registered_implementations(module: str, registered: list[str]) -> None:
    # `reelnest.load` imports the registry for the name of a registered model. No stage calls it, but evaluation looks versions up.
    excludes = ["reelnest.code_closure", "reelnest.registry.versions.fetched_model"]
    if module == "reelnest.stages.train":
        excludes.append("reelnest.registry.known_versions")
    finder = ModuleFinder(path=[str(PACKAGE.parent)], excludes=excludes)
    # Found by packages that search their folders.
    implementations = [
        f"reelnest.{folder.replace('/', '.')}.{path.stem}"
        for folder in ("video/decoders", "backbones/families", *(["engines"] if module == "reelnest.stages.evaluate" else []))
        for path in (PACKAGE / folder).glob("[!_]*.py")
    ]
    for started in (module, "reelnest.video.decoder_process", *implementations, *registered):
        finder.import_hook(started)
    paths = {Path(str(imported.__file__)) for name, imported in finder.modules.items() if name.startswith("reelnest.")}
    expected = {str(path.relative_to(PACKAGE)) for path in paths if path.name != "__init__.py"}
    closure = {name for name in code_files(Code(module, {"reelnest.code_closure": "it names modules"})) if name.endswith(".py")}
    assert {name for name in closure if not name.endswith("__init__.py")} == expected


@pytest.fixture
def package(tmp_path: Path) -> Path:
    files = {
        "a.py": "def run():\n    from reelnest.b import c\n",
        "b/__init__.py": '"""A docstring."""\n',
        "b/c.py": 'COMMAND = ["python", "-m", "reelnest.d"]\n',
        "d.py": "import json\n",
        "e.py": "",
        "kinds/__init__.py": "import pkgutil\n\nNAMES = [module.name for module in pkgutil.iter_modules(__path__)]\n",
        "kinds/first.py": "",
        "kinds/second.py": "",
        "f.py": "import reelnest.kinds\n",
        "g.py": "import pkgutil\n\nfrom reelnest import kinds as families\n\nNAMES = list(pkgutil.iter_modules(families.__path__))\n",
        "h.py": 'from reelnest.implementations import Implementations\n\nKINDS = Implementations("kind", "reelnest.kinds")\n',
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_imports_in_functions_and_started_modules_count(package: Path) -> None:
    assert code_files(Code("reelnest.a", {}), package) == ("a.py", "b/c.py", "d.py")


@pytest.mark.parametrize("file", ["f.py", "g.py", "h.py"])
def test_a_package_that_is_searched_counts_with_all_its_modules(file: str, package: Path) -> None:
    files = code_files(Code(f"reelnest.{file[0]}", {}), package)
    assert files == (file, "kinds/__init__.py", "kinds/first.py", "kinds/second.py")


def test_imports_of_only_an_excluded_module_are_excluded_too(package: Path) -> None:
    assert code_files(Code("reelnest.a", {"reelnest.b": "for this test"}), package) == ("a.py",)


def test_a_missing_module_is_an_error(package: Path) -> None:
    with pytest.raises(ValueError, match=r"reelnest\.z is not a module in"):
        code_files(Code("reelnest.z", {}), package)


@pytest.mark.parametrize("code", ALL.values(), ids=ALL)
def test_excluded_modules_exist(code: Code) -> None:
    for name in code.left_out:
        path = PACKAGE.joinpath(*name.split(".")[1:])
        assert path.is_dir() or path.with_suffix(".py").is_file(), name
