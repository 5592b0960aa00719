"""The command line, `reelnest data …`: it parses and prints."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from reelnest.backbones.compatibility import load_compatible_params
from reelnest.errors import RunError
from reelnest.settings import Params
from reelnest.stages.workspace import Workspace

data = typer.Typer(help="Adds, imports, exports, compares and pushes data.", no_args_is_help=True, rich_markup_mode=None)


def project_settings() -> tuple[Workspace, Params]:
    """Returns the project in the current folder and its settings. Raises ConfigError for wrong settings, or outside a project."""
    workspace = Workspace()
    return workspace, load_compatible_params(workspace.params)


def in_checkout(module: str, arguments: Sequence[str]) -> None:
    """Runs a module of the checkout (not of the library) in the current folder, and exits with its status."""
    if not Path(*module.split(".")).with_suffix(".py").is_file():
        raise RunError(f"{Path.cwd()} has no {module.split('.')[0]}/. Run this command in a checkout of the project.")
    done = subprocess.run([sys.executable, "-m", module, *arguments], check=False)
    # A process that a signal ended has a negative status; a shell shows 128 + the signal.
    raise SystemExit(done.returncode if done.returncode >= 0 else 128 - done.returncode)


@data.command("add")
def data_add(
    sources: Annotated[
        list[Path] | None,
        typer.Argument(help="Folders in this project's format, or .jsonl files. Without one, data/ is recorded as you edited it."),
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="A record of the source replaces one in data/ that differs from it.")] = False,
    commit: Annotated[bool, typer.Option("--commit", help="Commits data.dvc with the counts in the message.")] = False,
) -> None:
    """Adds records and videos to data/. They are merged, validated and recorded by DVC; if one step fails, nothing changes."""
    from reelnest.records.merging import record_files

    for source in sources or []:
        record_files(source)  # a wrong folder is reported at once, before git and DVC are asked about the data
    options = [*(["--replace"] if replace else []), *(["--commit"] if commit else [])]
    in_checkout("tasks.workspaces.data_versions", ["add", *options, "--", *map(str, sources or [])])


@data.command("import")
def data_import(
    layout: Annotated[str, typer.Argument(help="The layout of the source, such as `earlier`. An unknown name prints all layouts.")],
    source: Annotated[Path, typer.Argument(help="A file or folder in that layout.")],
    destination: Annotated[Path, typer.Argument(help="A new folder for the result, which `reelnest data add` merges into data/.")],
) -> None:
    """Converts data in another layout into videos.jsonl, pairs.jsonl and the video files. Rows that cannot be used are listed."""
    from reelnest.records.importing import SKIPPED_FILE, import_data

    imported = import_data(layout, source, destination)
    print(f"{destination}: {imported.videos:,} videos, {imported.pairs:,} pairs")
    if imported.reasons:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in imported.reasons.most_common())
        print(f"{imported.reasons.total():,} rows were left out, see {destination / SKIPPED_FILE} ({reasons}):")
        for row in imported.skipped[:5]:
            print(f"  {row.origin.file}, row {row.origin.row}: {row.reason}: {row.detail}")


@data.command("export")
def data_export(
    layout: Annotated[str, typer.Argument(help="The layout to write, such as `ms-swift`. An unknown name prints all layouts.")],
    destination: Annotated[Path, typer.Argument(help="A new folder for the result.")],
) -> None:
    """Converts data/ into another training library's layout. The videos stay where they are."""
    from reelnest.records.exporting import export_data

    workspace, params = project_settings()
    exported = export_data(layout, workspace.data, destination, params.data.validation_fraction, params.data.test_fraction)
    print(f"{destination}: {exported.pairs:,} pairs")
    for name, count in exported.lines.items():
        print(f"  {name}: {count:,} lines")
    if exported.skipped:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in exported.skipped.most_common())
        print(f"{exported.skipped.total():,} pairs were left out ({reasons})")


@data.command("diff")
def data_diff(
    before: Annotated[str, typer.Argument(help="A branch, a tag or a commit.")],
    after: Annotated[str | None, typer.Argument(help="Another one. The default is the data.dvc of this checkout.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Prints JSON with every id and pair.")] = False,
) -> None:
    """Shows which videos and pairs were added, removed or changed between two versions, and how text lengths and durations changed."""
    revisions = [before, *([after] if after else [])]
    in_checkout("tasks.workspaces.data_versions", ["diff", *(["--json"] if as_json else []), "--", *revisions])


@data.command("push")
def data_push(branch: Annotated[bool, typer.Option("--branch", help="Also pushes the git branch.")] = False) -> None:
    """Pushes the data and the run cache to DVC's remote, and emits the event that starts the deployment on new data."""
    in_checkout("tasks.workspaces.data_versions", ["push", *(["--branch"] if branch else [])])
