"""The command line, `reelnest …`: it parses and prints. `reelnest.stages` and `reelnest.commands` do the work."""

import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from reelnest.backbones.compatibility import load_compatible_params
from reelnest.cli_data import data, in_checkout
from reelnest.errors import ReelnestError
from reelnest.launch.command import launch, prepare_process
from reelnest.progress import Activity
from reelnest.settings import Params
from reelnest.stages.workspace import Workspace

cli = typer.Typer(
    name="reelnest",
    help="Fine-tunes a video-search model on pairs of searches and relevant videos. Run it in the folder that holds params.yaml.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
cli.add_typer(data, name="data")
LAUNCHER_OPTIONS = {"ignore_unknown_options": True, "allow_extra_args": True}


def app() -> None:
    """Runs the command line. A user's error is printed without a traceback and sets the exit status."""
    prepare_process()
    try:
        cli()
    except ReelnestError as error:
        print(f"reelnest: error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_status) from None


def _settings() -> tuple[Workspace, Params]:
    workspace = Workspace()
    return workspace, load_compatible_params(workspace.params)


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
    workspace, params = _settings()
    with Activity("validate"):
        from reelnest.stages import validate as stage

        stage.run(workspace, params)


@cli.command()
def preprocess() -> None:
    """Decodes each video once into prepared/ and assigns the splits."""
    workspace, params = _settings()
    with Activity("preprocess"):
        from reelnest.stages import preprocess as stage

        stage.run(workspace, params)


@cli.command(context_settings=LAUNCHER_OPTIONS)
def train(context: typer.Context) -> None:
    """Trains under `accelerate launch` and saves models/candidate/. Other options, such as --machine_rank 1, are passed to accelerate."""
    workspace, params = _settings()
    from reelnest.stages.training_inputs import check_training

    check_training(workspace, params)
    launch(params, workspace.params, "reelnest.stages.train", context.args)


@cli.command(context_settings=LAUNCHER_OPTIONS)
def evaluate(context: typer.Context) -> None:
    """Measures retrieval on the test split at each dim; writes reports/evaluation.json, .html and metrics_by_dim.csv."""
    workspace, params = _settings()
    from reelnest.stages.evaluation_inputs import check_evaluation

    check_evaluation(workspace, params)
    launch(params, workspace.params, "reelnest.stages.evaluate", context.args)


@cli.command()
def register(
    approved: Annotated[str | None, typer.Option(help="Approves a model that waits for approval: who, and why.")] = None,
    refused: Annotated[str | None, typer.Option(help="Refuses it: who, and why.")] = None,
) -> None:
    """Registers the trained model in MLflow as challenger, and promotes it to champion if it passes the gate."""
    if approved is not None and refused is not None:
        raise typer.BadParameter("use --approved or --refused, not both")
    workspace, params = _settings()
    with Activity("register"):
        from reelnest.registry.promotion.verdict import Approval
        from reelnest.stages import register as stage

        words = refused if approved is None else approved
        stage.run(workspace, params, None if words is None else Approval(refused is None, words))


@cli.command()
def models(
    as_json: Annotated[bool, typer.Option("--json", help="Prints JSON, with whole hashes and reasons.")] = False,
) -> None:
    """Lists the registered versions: their aliases and metrics, and why each was promoted or not."""
    _, params = _settings()
    from reelnest.commands import registry

    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    print(registry.as_json(params) if as_json else registry.table(params, width))


@cli.command()
def promote(
    version: Annotated[str, typer.Argument(help="The number or alias of a version.")] = "challenger",
) -> None:
    """Makes a version champion, even if the gate did not promote it."""
    _, params = _settings()
    from reelnest.commands import registry

    print(registry.promote(params, version))


@cli.command()
def rollback() -> None:
    """Makes the previous champion champion again."""
    _, params = _settings()
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
        str | None, typer.Option("--from", help="Lists the versions that come from this data hash, commit, run or flow run.")
    ] = None,
) -> None:
    """Shows where a version comes from (run, commit, data, settings, environment) and the commands that rebuild it."""
    workspace, params = _settings()
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
def index(
    model: Annotated[
        str, typer.Option(help="The folder of a saved model, or a registered one: models:/reelnest@champion.")
    ] = "models/candidate",
    data: Annotated[Path, typer.Option(help="The folder with videos.jsonl.")] = Path("data"),
    out: Annotated[Path, typer.Option(help="The folder of the index. An existing index is updated.")] = Path("index"),
    half: Annotated[bool, typer.Option("--half", help="Stores vectors as float16, in half the space.")] = False,
    graph: Annotated[
        bool | None,
        typer.Option(
            "--graph/--no-graph", help="Builds an approximate graph for the shortlists of funnels. The default is yes from 100,000 videos."
        ),
    ] = None,
) -> None:
    """Encodes the videos of a data folder for `search` and `serve`. Only videos that changed are encoded again."""
    workspace, params = _settings()
    with Activity("index"):
        from reelnest.commands import index as stage

        done = stage.run(workspace, params, model, data, out, storage="float16" if half else "float32", graph=graph)
    manifest = done.manifest
    # An alias moves, so the version that it named is shown; a folder as it was typed.
    name = manifest.model if manifest.model.startswith("models:/") else model
    print(f"{out}: {manifest.videos:,} videos at {manifest.width} dims ({done.encoded:,} encoded now) with the model {name}")
    if manifest.skipped:
        print(f"{manifest.skipped:,} videos were left out, see {out}/skipped.jsonl:")
        for record in done.skipped[:5]:
            print(f"  line {record.line}: {record.reason}: {record.detail}")


IndexFolder = Annotated[Path, typer.Option("--index", help="A folder that `reelnest index` wrote.")]
IndexModel = Annotated[str | None, typer.Option("--model", help="The folder of the index's model, if it has moved.")]


@cli.command()
def search(
    words: Annotated[str, typer.Argument(help="The text to search for.")],
    index: IndexFolder = Path("index"),
    model: IndexModel = None,
    dim: Annotated[int | None, typer.Option(help="How many dimensions are compared. The default is all.")] = None,
    funnel: Annotated[
        bool, typer.Option("--funnel", help="Makes a shortlist with --dim (default: the smallest) and re-ranks it with all dimensions.")
    ] = False,
    count: Annotated[int, typer.Option("-k", help="The number of results.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="Prints JSON, as the server's API returns it.")] = False,
) -> None:
    """Searches an index for a text and prints a table of results."""
    workspace, params = _settings()
    from reelnest.commands import search as stage

    query = stage.Query(words, count, dim, funnel)
    print(stage.run(workspace, params, index, query, model=model, as_json=as_json))


@cli.command()
def serve(
    index: Annotated[list[Path], typer.Option("--index", help="A folder that `reelnest index` wrote. Can be given several times.")] = [  # noqa: B006
        Path("index")
    ],
    model: IndexModel = None,
    port: Annotated[int, typer.Option(help="The port to listen on; 0 picks a free one.")] = 8000,
    host: Annotated[
        str, typer.Option(help="The address to listen on. There is no log-in, so do not open it to untrusted networks.")
    ] = "127.0.0.1",
    allow_host: Annotated[list[str], typer.Option(help="Another host name that browsers may use for this server.")] = [],  # noqa: B006
) -> None:
    """Serves a search page and a JSON API over one or more indexes, at http://127.0.0.1:8000/."""
    workspace, params = _settings()
    from reelnest.commands import serve as stage

    def ready(address: str) -> None:
        print(f"{address} (Ctrl-C stops the server)", flush=True)

    stage.run(workspace, params, index, stage.Address(host, port, tuple(allow_host)), model=model, ready=ready)


@cli.command()
def export(
    folder: Annotated[Path, typer.Argument(help="The folder to write to. It must not exist.")],
    adapter: Annotated[
        bool, typer.Option("--adapter", help="Writes the LoRA adapters and the name of the base model instead of merged weights.")
    ] = False,
) -> None:
    """Writes the candidate with LoRA merged into the base model, or with --adapter the adapters alone."""
    workspace, params = _settings()
    from reelnest.commands import export as stage

    stage.run(workspace, params, folder, adapter=adapter)


@cli.command()
def memory(
    gpu_gb: Annotated[
        float | None, typer.Option(help="The memory of a card in GiB: prints what fits and which settings would have to change.")
    ] = None,
    text_tokens: Annotated[int, typer.Option(help="Tokens of a query, and of the text fields of a video.")] = 64,
) -> None:
    """Estimates the GPU memory of a training step by component. It needs no GPU and no weights."""
    workspace, params = _settings()
    from reelnest.commands import memory as stage

    print(stage.run(workspace, params, gpu_gb=gpu_gb, text_tokens=text_tokens))


@cli.command()
def params() -> None:
    """Checks params.yaml and prints every setting, defaults included."""
    from reelnest.yaml_files import dump_yaml

    _, settings = _settings()
    print(dump_yaml(settings.model_dump(mode="json", by_alias=True)), end="")
