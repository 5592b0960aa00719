"""The git checkout: its commit and its uncommitted changes."""

import subprocess
from pathlib import Path

import pytest

from reelnest.registry.lineage.checkout import read_checkout


def git(folder: Path, *arguments: str, stdin: bytes | None = None) -> str:
    command = ["git", "-C", str(folder), "-c", "user.name=t", "-c", "user.email=t@t", *arguments]
    return subprocess.run(command, input=stdin, check=True, capture_output=True).stdout.decode().strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    (folder / "src").mkdir(parents=True)
    (folder / "src" / "loss.py").write_text("margin = 0\n")
    (folder / "params.yaml").write_text("epochs: 1\n")
    (folder / ".gitignore").write_text("*.log\n")
    git(tmp_path, "init", "--quiet", str(folder))
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message", "first")
    return folder


def test_uncommitted_changes_can_be_applied_to_the_commit(repository: Path, tmp_path: Path) -> None:
    (repository / "params.yaml").write_text("epochs: 2\n")
    (repository / "src" / "new loss.py").write_text("margin = 1\n")
    (repository / "src" / "table.bin").write_bytes(bytes(range(256)))
    (repository / "src" / "loss.py").unlink()
    before = git(repository, "status", "--porcelain")
    checkout = read_checkout(repository)
    assert checkout is not None
    assert checkout.name == f"{git(repository, 'rev-parse', 'HEAD')}-dirty"
    assert git(repository, "status", "--porcelain") == before
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "--quiet", checkout.repository, str(clone))
    git(clone, "apply", stdin=checkout.changes)
    assert (clone / "params.yaml").read_text() == "epochs: 2\n"
    assert {file.name: file.read_bytes() for file in (clone / "src").iterdir()} == {
        "new loss.py": b"margin = 1\n",
        "table.bin": bytes(range(256)),
    }


def test_notes_ignored_files_and_outputs_of_a_run_leave_a_checkout_clean(repository: Path) -> None:
    (repository / "dvc.lock").write_text("stages: {}\n")
    (repository / "notes.txt").write_text("to do\n")
    (repository / "src" / "run.log").write_text("done\n")
    checkout = read_checkout(repository)
    assert checkout is not None
    assert (checkout.changes, checkout.name) == (b"", git(repository, "rev-parse", "HEAD"))


def test_the_origin_is_cloned_if_it_has_the_commit_without_its_password(repository: Path, tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet", "--bare", "origin.git")
    git(repository, "remote", "add", "origin", str(tmp_path / "origin.git"))
    unpublished = read_checkout(repository)
    assert unpublished is not None
    assert (unpublished.is_published, unpublished.repository) == (False, str(repository / ".git"))
    git(repository, "push", "--quiet", "origin", "HEAD")
    git(repository, "remote", "set-url", "origin", "https://someone:secret@example.org/team/search.git")
    published = read_checkout(repository)
    assert published is not None
    assert (published.is_published, published.repository) == (True, "https://example.org/team/search.git")


def test_a_project_in_a_subfolder_has_its_folder(repository: Path) -> None:
    checkout = read_checkout(repository / "src")
    assert checkout is not None
    assert checkout.folder == "src"


def test_without_a_repository_or_a_commit_the_reason_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert read_checkout(tmp_path) is None
    assert "not in a git repository" in caplog.text
    git(tmp_path, "init", "--quiet")
    assert read_checkout(tmp_path) is None
