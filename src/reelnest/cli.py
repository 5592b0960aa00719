"""The command line, `reelnest …`: it parses and prints. `reelnest.stages` and `reelnest.commands` do the work."""

import math
import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

import reelnest
from reelnest.cli_data import data, in_checkout, project_settings
from reelnest.cli_search import search
from reelnest.errors import NothingTracked, ReelnestError, storage_problem
from reelnest.launch.command import launch, prepare_process
from reelnest.launch.deferred_import import deferred_import, permanent_imports
from reelnest.progress import Activity
from reelnest.records.formats import check_data_files
from reelnest.settings import Params
from reelnest.stages.workspace import Workspace

cli = typer.Typer(
    name="reelnest",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
cli.add_typer(data, name="data")
cli.add_typer(search)
LAUNCHER_OPTIONS = {"ignore_unknown_options": True, "allow_extra_args": True}
INTERRUPTED = 130
"""The status after Ctrl-C, 128 + SIGINT."""


def app() -> None:
    """Runs the command line. A user's error is printed without a traceback and sets the exit status."""
    prepare_process()
    try:
        status = cli(prog_name="reelnest", standalone_mode=False)
    except ReelnestError as error:
        print(f"reelnest: error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_status) from None
    except (OSError, RuntimeError) as error:
        text = storage_problem(error)
        if text is None:
            raise
        print(f"reelnest: error: {text}", file=sys.stderr)
        raise SystemExit(1) from None
    except typer.TyperException as error:
        print(usage_error(error), file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    if status == INTERRUPTED:
        print("reelnest: interrupted", file=sys.stderr)
    raise SystemExit(status)


def usage_error(error: typer.TyperException) -> str:
    """Returns the text for a wrong command line: one line with the mistake and what to type, or the help if there is no command."""
    text, context = error.format_message(), getattr(error, "ctx", None)
    if context is not None and text == context.get_help():
        return text
    end = "" if text.endswith((".", "?")) else "."
    command = "reelnest" if context is None else context.command_path  # an option without its value has no context
    return f"reelnest: error: {text}{end} Type `{command} --help` for help."


def _print_version(requested: bool) -> None:
    if requested:
        print(f"reelnest {reelnest.__version__}")
        raise typer.Exit


@cli.callback()
def common_options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Prints the version and exits.")
    ] = False,
) -> None:
    """Fine-tunes a video-search model on pairs of searches and relevant videos. Run it in the folder that holds params.yaml."""


def _tracked_settings(version: str | None = None) -> Params:
    """Returns the project's settings. Raises RegistryError, before MLflow is imported, if MLflow has nothing yet, or no such version."""
    _, params = project_settings()
    from reelnest.registry.known_versions import check_known, known_version

    if version is None:
        check_known(params)
    else:
        known_version(params, version, params.registration.name)
    return params


@cli.command()
def sample(
    folder: Annotated[Path, typer.Argument(help="The folder to write to.")] = Path("data"),
    seed: Annotated[int, typer.Option(help="The same seed gives the same bytes.")] = 0,
) -> None:
    """Generates the sample data: short videos of moving shapes, and searches for them."""
    from reelnest.sample.sample import write_sample

    print(write_sample(folder, seed))


@cli.command()
def validate() -> None:
    """Checks data/ with Great Expectations, quarantines bad records, and writes reports/validation.json and reports/data_docs/."""
    workspace, params = project_settings()
    check_data_files(workspace.data)  # before the stage is imported, which takes seconds
    with Activity("validate"):
        # Great Expectations imports both, and none of our expectations uses them.
        with permanent_imports(), deferred_import("scipy.stats"), deferred_import("altair"):
            from reelnest.stages import validate as stage

        stage.run(workspace, params)


@cli.command()
def preprocess() -> None:
    """Decodes each video once into prepared/ and assigns the splits."""
    workspace, params = project_settings()
    if params.launch.backend != "local" and params.launch.resources.preprocess is not None:
        on_one_process = params.launch.model_copy(update={"config": "cpu-1"})
        as_job = params.model_copy(update={"launch": on_one_process})
        launch(as_job, workspace.params, "reelnest.stages.preprocess", inputs=[workspace.data])
    with Activity("preprocess"):
        with permanent_imports():
            from reelnest.stages import preprocess as stage

        stage.run(workspace, params)


@cli.command(context_settings=LAUNCHER_OPTIONS)
def train(context: typer.Context) -> None:
    """Trains under `accelerate launch` and saves models/candidate/. Other options, such as --machine_rank 1, are passed to accelerate."""
    workspace, params = project_settings()
    from reelnest.stages.training_inputs import check_training

    check_training(workspace, params)
    launch(params, workspace.params, "reelnest.stages.train", context.args, [workspace.prepared])


@cli.command(context_settings=LAUNCHER_OPTIONS)
def evaluate(context: typer.Context) -> None:
    """Measures retrieval on the test split at each dim; writes reports/evaluation.json, .html and metrics_by_dim.csv."""
    workspace, params = project_settings()
    from reelnest.stages.evaluation_inputs import check_evaluation

    check_evaluation(workspace, params)
    launch(params, workspace.params, "reelnest.stages.evaluate", context.args, [workspace.prepared, workspace.candidate])


@cli.command()
def register(
    approved: Annotated[str | None, typer.Option(help="Approves a model that waits for approval: who, and why.")] = None,
    refused: Annotated[str | None, typer.Option(help="Refuses it: who, and why.")] = None,
) -> None:
    """Registers the trained model in MLflow as challenger, and promotes it to champion if it passes the gate."""
    if approved is not None and refused is not None:
        raise typer.BadParameter("use --approved or --refused, not both")
    words = refused if approved is None else approved
    if words is not None and not words.strip():
        raise typer.BadParameter("expected who decided, and why, such as 'Ada: good on the new clips'; found an empty text")
    workspace, params = project_settings()
    from reelnest.stages.evaluation_inputs import check_registration

    check_registration(workspace)
    with Activity("register"):
        from reelnest.registry.promotion.verdict import Approval
        from reelnest.stages import register as stage

        stage.run(workspace, params, None if words is None else Approval(refused is None, words))


@cli.command()
def models(
    as_json: Annotated[bool, typer.Option("--json", help="Prints JSON, with full hashes and reasons.")] = False,
) -> None:
    """Lists the registered versions: their aliases and metrics, and why each was promoted or not."""
    try:
        params = _tracked_settings()
    except NothingTracked as error:
        print("[]" if as_json else error)
        return
    from reelnest.commands import registry

    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    print(registry.as_json(params) if as_json else registry.table(params, width))


@cli.command()
def promote(
    version: Annotated[str, typer.Argument(help="models:/NAME@ALIAS, models:/NAME/VERSION, or an alias or number.")] = "challenger",
) -> None:
    """Makes a version champion, even if the gate did not promote it."""
    params = _tracked_settings(version)
    from reelnest.commands import registry

    print(registry.promote(params, version))


@cli.command()
def rollback() -> None:
    """Makes the previous champion champion again."""
    params = _tracked_settings()
    from reelnest.commands import registry

    print(registry.rollback(params))


@cli.command()
def runs() -> None:
    """Lists the saved runs of deployments: revision, settings, what ran, and the registered version."""
    from reelnest.commands.overwritten_runs import overwritten_runs
    from reelnest.commands.runs import saved_runs, table

    root = Workspace().root
    saved = saved_runs(root)
    print(table(saved))
    lost = overwritten_runs(root, saved)
    if lost:
        print("\nVersion 0.1 let several runs write these refs. Only the last run is saved:")
    for run in lost:
        print(f"{run.ref}: {run.text}")


@cli.command(context_settings=LAUNCHER_OPTIONS, add_help_option=False)
def run(context: typer.Context) -> None:
    """Starts a run of a deployment with other settings, such as --set train.epochs=2. Checks them first (--help lists the options)."""
    in_checkout("tasks.workspaces.start_run", context.args)


@cli.command(context_settings=LAUNCHER_OPTIONS, add_help_option=False)
def deploy(context: typer.Context) -> None:
    """Registers this checkout with a Prefect server: work pool, deployments, automations and notifications (--help lists the channels)."""
    in_checkout("tasks.services.deploy", context.args)


@cli.command()
def drift(
    revision: Annotated[str, typer.Option(help="The branch, tag or commit whose data is measured. Only committed files count.")] = "HEAD",
    quality_alone: Annotated[
        bool, typer.Option("--quality-alone", help="Measures only the champion's retrieval. The data that it was trained on is not needed.")
    ] = False,
) -> None:
    """Compares data with what the champion was trained on, and measures the champion on it. Writes reports/drift.json and .html."""
    in_checkout("tasks.workspaces.drift_run", ["--revision", revision, *(["--quality-alone"] if quality_alone else [])])


@cli.command()
def lineage(
    version: Annotated[str, typer.Argument(help="models:/NAME@ALIAS, models:/NAME/VERSION, or an alias or number.")] = "champion",
    check: Annotated[
        bool, typer.Option("--check", help="Compares this project's model with the version. The status is 1 if they differ.")
    ] = False,
    commands: Annotated[bool, typer.Option("--commands", help="Prints only the commands that rebuild it, as a shell script.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Prints JSON.")] = False,
    source: Annotated[
        str | None, typer.Option("--from", help="Lists the versions that come from this data hash, commit, run, flow run or model hash.")
    ] = None,
) -> None:
    """Shows where a version comes from (run, commit, data, settings, environment) and the commands that rebuild it."""
    from reelnest.registry.known_versions import check_source

    if sum((check, commands, as_json, source is not None)) > 1:
        raise typer.BadParameter("use only one of --check, --commands, --json and --from")
    if source is not None:
        check_source(source)
    workspace, params = Workspace(), _tracked_settings(version if source is None else None)
    from reelnest.commands import lineage as stage

    if source is not None:
        print(stage.versions(params, source))
    elif check:
        text, same = stage.check(workspace, params, version)
        print(text)
        raise typer.Exit(0 if same else 1)
    elif commands:
        print(stage.commands(params, version))
    else:
        print(stage.show(params, version, as_json=as_json))


@cli.command()
def export(
    folder: Annotated[Path, typer.Argument(help="The folder to write to. It must not exist.")],
    adapter: Annotated[
        bool, typer.Option("--adapter", help="Writes the LoRA adapters and the name of the base model instead of merged weights.")
    ] = False,
) -> None:
    """Writes the candidate with LoRA merged into the base model, or with --adapter the adapters alone."""
    workspace, params = project_settings()
    from reelnest.commands.export_inputs import check_export

    check_export(workspace, folder)
    from reelnest.commands import export as stage

    stage.run(workspace, params, folder, adapter=adapter)


@cli.command()
def memory(
    gpu_gb: Annotated[
        float | None, typer.Option(help="The memory of a card in GiB: prints what fits and which settings would have to change.")
    ] = None,
    text_tokens: Annotated[int, typer.Option(min=1, help="Tokens of a query, and of the text fields of a video.")] = 64,
) -> None:
    """Estimates the GPU memory of a training step by component. It needs no GPU and no weights."""
    if gpu_gb is not None and not 0 < gpu_gb < math.inf:
        raise typer.BadParameter(f"expected the memory of a card in GiB, such as 24; found {gpu_gb:g}", param_hint="--gpu-gb")
    workspace, params = project_settings()
    from reelnest.commands import memory as stage

    print(stage.run(workspace, params, gpu_gb=gpu_gb, text_tokens=text_tokens))


@cli.command()
def params() -> None:
    """Checks params.yaml and prints every setting, defaults included."""
    from reelnest.yaml_files import dump_yaml

    _, settings = project_settings()
    print(dump_yaml(settings.model_dump(mode="json", by_alias=True)), end="")
