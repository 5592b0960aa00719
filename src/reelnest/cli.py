"""`reelnest …`: parses, calls, prints. What the commands do is in `reelnest.stages` and `reelnest.commands`."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from reelnest.errors import ReelnestError, RunError
from reelnest.launch.command import launch, prepare_process
from reelnest.settings import Params, load_params
from reelnest.stages.workspace import Workspace

cli = typer.Typer(
    name="reelnest",
    help="Turns pairs of what people searched and what they wanted into a video-search model. Run it in the folder that holds params.yaml.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
data = typer.Typer(help="Versions of the data: add to it, see what changed, hand it on.", no_args_is_help=True, rich_markup_mode=None)
cli.add_typer(data, name="data")
LAUNCHER_OPTIONS = {"ignore_unknown_options": True, "allow_extra_args": True}


def app() -> None:
    """The console script: a user's error is printed without a traceback, and its exit status is kept."""
    prepare_process()
    try:
        cli()
    except ReelnestError as error:
        print(f"reelnest: error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_status) from None


def _settings() -> tuple[Workspace, Params]:
    workspace = Workspace()
    return workspace, load_params(workspace.params)


def _in_checkout(module: str, arguments: Sequence[str]) -> None:
    """Runs a module of the checkout, which the library does not know, in the current folder. Exits with its status."""
    if not Path(*module.split(".")).with_suffix(".py").is_file():
        raise RunError(f"{Path.cwd()}: there is no {module.split('.')[0]}/ here. Run it in a checkout of the project.")
    done = subprocess.run([sys.executable, "-m", module, *arguments], check=False)
    # Of a signal's negative number, what a shell makes of it.
    raise SystemExit(done.returncode if done.returncode >= 0 else 128 - done.returncode)


@data.command("add")
def data_add(
    sources: Annotated[
        list[Path] | None, typer.Argument(help="Folders in the data's format, or .jsonl files; none: record data/ as you edited it.")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="A source's record takes the place of one that it contradicts.")] = False,
    commit: Annotated[bool, typer.Option("--commit", help="Commits data.dvc, with the counts as its message.")] = False,
) -> None:
    """Adds records and videos to data/, all or nothing: merged, checked as `validate` does, put in place, recorded by DVC."""
    options = [*(["--replace"] if replace else []), *(["--commit"] if commit else [])]
    _in_checkout("tasks.workspaces.data_versions", ["add", *options, "--", *map(str, sources or [])])


@data.command("import")
def data_import(
    layout: Annotated[str, typer.Argument(help="The layout of the source, such as `earlier`; an unknown name lists all of them.")],
    source: Annotated[Path, typer.Argument(help="A file or folder in that layout.")],
    destination: Annotated[Path, typer.Argument(help="A new folder for the result, which `reelnest data add` merges into data/.")],
) -> None:
    """Converts data in another layout into videos.jsonl, pairs.jsonl and the video files. Rows that cannot be used are listed."""
    from reelnest.records.importers.importing import SKIPPED_FILE, import_data

    imported = import_data(layout, source, destination)
    print(f"{destination}: {imported.videos:,} videos, {imported.pairs:,} pairs")
    if imported.skipped:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in imported.reasons.most_common())
        print(f"{len(imported.skipped):,} rows were left out, see {destination / SKIPPED_FILE} ({reasons}):")
        for row in imported.skipped[:5]:
            print(f"  {row.origin.file}, row {row.origin.row}: {row.reason}: {row.detail}")


@data.command("diff")
def data_diff(
    before: Annotated[str, typer.Argument(help="A branch, a tag or a commit.")],
    after: Annotated[str | None, typer.Argument(help="Another; the checkout's own data.dvc, where left out.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The same for programs, with every id and pair.")] = False,
) -> None:
    """Shows which videos and pairs came, went and changed between two versions of the data, and how text lengths and durations moved."""
    revisions = [before, *([after] if after else [])]
    _in_checkout("tasks.workspaces.data_versions", ["diff", *(["--json"] if as_json else []), "--", *revisions])


@data.command("push")
def data_push(branch: Annotated[bool, typer.Option("--branch", help="Pushes the git branch too.")] = False) -> None:
    """Hands the data and the run cache to DVC's remote, and tells Prefect, so that the deployment on new data starts."""
    _in_checkout("tasks.workspaces.data_versions", ["push", *(["--branch"] if branch else [])])


@cli.command()
def sample(
    folder: Annotated[Path, typer.Argument(help="Where the sample goes.")] = Path("data"),
    seed: Annotated[int, typer.Option(help="The same seed gives the same bytes.")] = 0,
) -> None:
    """Makes the sample data: short videos of moving shapes, and searches for them."""
    from reelnest.sample.sample import write_sample

    print(write_sample(folder, seed))


@cli.command()
def validate() -> None:
    """Checks data/ (Great Expectations), quarantines bad records, writes reports/validation.json and reports/data_docs/."""
    workspace, params = _settings()
    from reelnest.stages import validate as stage

    stage.run(workspace, params)


@cli.command()
def preprocess() -> None:
    """Decodes each video once into prepared/ and settles the splits."""
    workspace, params = _settings()
    from reelnest.stages import preprocess as stage

    stage.run(workspace, params)


@cli.command(context_settings=LAUNCHER_OPTIONS)
def train(context: typer.Context) -> None:
    """Trains under `accelerate launch` and saves models/candidate/. Further options go to accelerate, such as --machine_rank 1."""
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
    approved: Annotated[str | None, typer.Option(help="Who approves a model that waits for it, and why.")] = None,
    refused: Annotated[str | None, typer.Option(help="Who refuses it, and why.")] = None,
) -> None:
    """Makes the trained model a version in MLflow's registry: challenger, and champion where it is the better one."""
    if approved is not None and refused is not None:
        raise typer.BadParameter("give --approved or --refused, not both")
    workspace, params = _settings()
    from reelnest.registry.promotion.decision import Answer
    from reelnest.stages import register as stage

    words = refused if approved is None else approved
    stage.run(workspace, params, None if words is None else Answer(refused is None, words))


@cli.command()
def models() -> None:
    """Lists the versions of the registered model: which is champion, what each measured, and why it was promoted or not."""
    _, params = _settings()
    from reelnest.commands import registry

    print(registry.table(params))


@cli.command()
def promote(
    version: Annotated[str, typer.Argument(help="A version's number or alias.")] = "challenger",
) -> None:
    """Makes a version champion, whatever the gate said of it."""
    _, params = _settings()
    from reelnest.commands import registry

    print(registry.promote(params, version))


@cli.command()
def rollback() -> None:
    """Gives the alias `champion` back to the version that had it before."""
    _, params = _settings()
    from reelnest.commands import registry

    print(registry.rollback(params))


@cli.command()
def runs() -> None:
    """Lists the deployments' runs that are kept: at which revision, with which settings, what ran, which version came of it."""
    from reelnest.commands import runs as kept
    from reelnest.commands.overwritten_runs import overwritten_runs

    root = Workspace().root
    found = kept.kept_runs(root)
    print(kept.table(found))
    lost = overwritten_runs(root, found)
    if lost:
        print("\nSeveral runs wrote these refs, which version 0.1 allowed. Only the last one is kept:")
    for one in lost:
        print(f"{one.ref}: {one.text}")


@cli.command(context_settings=LAUNCHER_OPTIONS, add_help_option=False)
def deploy(context: typer.Context) -> None:
    """Makes a Prefect server know this checkout: work pool, deployments, automations, and whom to tell (--help lists the channels)."""
    _in_checkout("tasks.services.deploy", context.args)


@cli.command()
def drift(
    revision: Annotated[str, typer.Option(help="Whose data: a branch, a tag or a commit; what is committed counts.")] = "HEAD",
    quality_alone: Annotated[
        bool, typer.Option("--quality-alone", help="The champion's retrieval only: its own data need not be there any more.")
    ] = False,
) -> None:
    """Measures how far data is from what the champion was trained on, and the champion on it; writes reports/drift.json and .html."""
    _in_checkout("tasks.drift", ["--revision", revision, *(["--quality-alone"] if quality_alone else [])])


@cli.command()
def lineage(
    version: Annotated[str, typer.Argument(help="models:/NAME@ALIAS, models:/NAME/VERSION, or an alias or number.")] = "champion",
    check: Annotated[bool, typer.Option("--check", help="Compares what was made here with it; status 1 where not the same.")] = False,
    commands: Annotated[bool, typer.Option("--commands", help="The commands that make it again, alone, as a shell script.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The same for programs.")] = False,
    source: Annotated[str | None, typer.Option("--from", help="Lists the versions from this data hash, commit, run or flow run.")] = None,
) -> None:
    """Shows where a version comes from (run, commit, data, settings, environment), and the commands that make it again."""
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
        str, typer.Option(help="A saved model's folder, or one of the registry: models:/reelnest@champion.")
    ] = "models/candidate",
    data: Annotated[Path, typer.Option(help="The folder with videos.jsonl.")] = Path("data"),
    out: Annotated[Path, typer.Option(help="Where the index goes; one that is there is brought up to date.")] = Path("index"),
    half: Annotated[bool, typer.Option("--half", help="Keep vectors as float16: half the space.")] = False,
    graph: Annotated[
        bool | None, typer.Option("--graph/--no-graph", help="A graph for the shortlists of funnels; by itself from 100,000 videos on.")
    ] = None,
) -> None:
    """Encodes every video of a data folder once, for `search` and `serve`. What did not change is not encoded again."""
    workspace, params = _settings()
    from reelnest.commands import index as stage

    done = stage.run(workspace, params, model, data, out, storage="float16" if half else "float32", graph=graph)
    made = done.manifest
    print(f"{out}: {made.videos:,} videos at {made.width} dims, {done.encoded:,} encoded now, by {made.model}")
    if made.skipped:
        print(f"{made.skipped:,} videos were left out, see {out}/skipped.jsonl:")
        for record in done.skipped[:5]:
            print(f"  line {record.line}: {record.reason}: {record.detail}")


IndexFolder = Annotated[Path, typer.Option("--index", help="A folder that `reelnest index` wrote.")]
IndexModel = Annotated[str | None, typer.Option("--model", help="Where the index's model is now; the place where it was, where left out.")]


@cli.command()
def search(
    words: Annotated[str, typer.Argument(help="What to look for.")],
    index: IndexFolder = Path("index"),
    model: IndexModel = None,
    dim: Annotated[int | None, typer.Option(help="Numbers of each vector that are compared; all where left out.")] = None,
    funnel: Annotated[bool, typer.Option("--funnel", help="A shortlist at --dim (or the smallest), ordered anew by all dims.")] = False,
    count: Annotated[int, typer.Option("-k", help="Answers.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="As the server's API tells it.")] = False,
) -> None:
    """Searches an index with words, and prints a table."""
    workspace, params = _settings()
    from reelnest.commands import search as stage

    print(stage.run(workspace, params, words, index, model=model, dim=dim, funnel=funnel, k=count, as_json=as_json))


@cli.command()
def serve(
    index: Annotated[list[Path], typer.Option("--index", help="A folder that `reelnest index` wrote; may be given several times.")] = [  # noqa: B006
        Path("index")
    ],
    model: IndexModel = None,
    port: Annotated[int, typer.Option(help="0: a free one.")] = 8000,
    host: Annotated[
        str, typer.Option(help="An address of this machine. There is no log-in: think before you open it to others.")
    ] = "127.0.0.1",
    allow_host: Annotated[list[str], typer.Option(help="A further name by which browsers may ask for this server.")] = [],  # noqa: B006
) -> None:
    """A page to search with, and its JSON API, over one index or several: http://127.0.0.1:8000/."""
    workspace, params = _settings()
    from reelnest.commands import serve as stage

    def ready(address: str) -> None:
        print(f"{address} (Ctrl-C ends it)", flush=True)

    stage.run(workspace, params, index, model=model, host=host, port=port, allow_hosts=allow_host, ready=ready)


@cli.command()
def export(
    folder: Annotated[Path, typer.Argument(help="Where the model goes; must not be there.")],
    adapter: Annotated[bool, typer.Option("--adapter", help="The LoRA adapters and the base's name, not merged weights.")] = False,
) -> None:
    """Writes the candidate in the other form: LoRA merged into the base, or, with --adapter, the adapters alone."""
    workspace, params = _settings()
    from reelnest.commands import export as stage

    stage.run(workspace, params, folder, adapter=adapter)


@cli.command()
def memory(
    gpu_gb: Annotated[float | None, typer.Option(help="Memory of the card, GiB: says what fits and what would have to change.")] = None,
    text_tokens: Annotated[int, typer.Option(help="Tokens of a query, and of a video's text fields.")] = 64,
) -> None:
    """Foretells, without a GPU and without weights, what a training step takes in memory, by part."""
    workspace, params = _settings()
    from reelnest.commands import memory as stage

    print(stage.run(workspace, params, gpu_gb=gpu_gb, text_tokens=text_tokens))


@cli.command()
def params() -> None:
    """Checks params.yaml and prints every setting, with the defaults filled in."""
    import yaml

    _, settings = _settings()
    print(yaml.safe_dump(settings.model_dump(mode="json", by_alias=True), sort_keys=False, allow_unicode=True), end="")
