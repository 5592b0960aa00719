"""The command line, `reelnest index`, `search` and `serve`: it parses and prints."""

import os
from pathlib import Path
from typing import Annotated

import typer

from reelnest.cli_data import project_settings
from reelnest.progress import Activity

search = typer.Typer()


@search.command()
def index(
    model: Annotated[
        str, typer.Option(help="The folder of a saved model, or a registered one: models:/reelnest@champion.")
    ] = "models/candidate",
    data: Annotated[Path, typer.Option(help="The folder with videos.jsonl.")] = Path("data"),
    to: Annotated[
        str,
        typer.Option(help="The folder of the index, or an address such as postgresql://user@host/db#name. An existing index is updated."),
    ] = "index",
    dim: Annotated[int | None, typer.Option(help="How many numbers of each vector are stored. The default is all.")] = None,
    storage: Annotated[str, typer.Option(help="How they are stored: float32, float16, int8, binary or binary_int8.")] = "float32",
    graph: Annotated[
        bool | None,
        typer.Option(
            "--graph/--no-graph", help="Builds an approximate graph for the shortlists of funnels. The default is yes from 100,000 videos."
        ),
    ] = None,
) -> None:
    """Encodes the videos of a data folder for `search` and `serve`. Only videos that changed are encoded again."""
    workspace, params = project_settings()
    from reelnest.commands.search_inputs import NewIndex, check_new_index
    from reelnest.registry.known_versions import REGISTRY

    check_new_index(params, NewIndex(model, data, to, storage, dim))
    with Activity("index"):
        from reelnest.commands import index as stage
        from reelnest.engines.engine import is_address, shown
        from reelnest.serving.indexing import IndexForm

        done = stage.run(workspace, params, model, data, to, IndexForm(storage, dim, graph))
    manifest = done.manifest
    # An alias moves, so the version that it named is shown; a folder as it was typed.
    name = manifest.model if manifest.model.startswith(REGISTRY) else model
    windows = f" ({manifest.windows:,} of them windows of long ones)" if manifest.windows else ""
    print(f"{shown(to)}: {manifest.videos:,} videos{windows} at {manifest.width} dims ({done.encoded:,} encoded now) with the model {name}")
    if manifest.skipped:
        listed = "" if is_address(to) else f", see {to}/skipped.jsonl"
        print(f"{manifest.skipped:,} videos were left out{listed}:")
        for record in done.skipped[:5]:
            print(f"  line {record.line}: {record.reason}: {record.detail}")


IndexLocation = Annotated[str, typer.Option("--index", help="What `reelnest index --to` wrote: a folder or an address.")]
IndexModel = Annotated[str | None, typer.Option("--model", help="The folder of the index's model, if it has moved.")]


@search.command("search")
def search_index(
    words: Annotated[list[str], typer.Argument(help="The text to search for, with or without quotes.")],
    index: IndexLocation = "index",
    model: IndexModel = None,
    dim: Annotated[int | None, typer.Option(help="How many dimensions are compared. The default is all.")] = None,
    funnel: Annotated[
        bool, typer.Option("--funnel", help="Makes a shortlist with --dim (default: the smallest) and re-ranks it with all dimensions.")
    ] = False,
    where: Annotated[
        str | None, typer.Option(help="A filter over tags and text fields, such as: language == 'en' and duration < 30")
    ] = None,
    count: Annotated[int, typer.Option("-k", help="The number of results.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="Prints JSON, as the server's API returns it.")] = False,
) -> None:
    """Searches an index for a text and prints a table of results."""
    workspace, params = project_settings()
    from reelnest.commands.search_inputs import Query, check_search

    text = os.fsencode(" ".join(words)).decode("utf-8", "replace")  # in the C locale, Python reads arguments as ASCII
    query = Query(text, count, dim, funnel, where)
    check_search(params, index, query, model)
    from reelnest.commands import search as stage

    print(stage.run(workspace, params, index, query, model=model, as_json=as_json))


@search.command()
def serve(
    index: Annotated[
        list[str], typer.Option("--index", help="What `reelnest index --to` wrote: a folder or an address. Can be given several times.")
    ] = ["index"],  # noqa: B006 (typer copies defaults)
    model: IndexModel = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port to listen on; 0 picks a free one.")] = 8000,
    host: Annotated[
        str, typer.Option(help="The address to listen on. Set REELNEST_API_KEY before you open it to other machines.")
    ] = "127.0.0.1",
    allow_host: Annotated[list[str], typer.Option(help="Another host name that browsers may use for this server.")] = [],  # noqa: B006 (typer copies defaults)
    allow_origin: Annotated[list[str], typer.Option(help="A site whose pages may send requests, such as https://app.example.")] = [],  # noqa: B006 (typer copies defaults)
) -> None:
    """Serves a search page and a JSON API over one or more indexes, at http://127.0.0.1:8000/.

    If REELNEST_API_KEY is set, requests have to contain it.
    """
    workspace, params = project_settings()
    from reelnest.commands.search_inputs import Address, check_index, listen

    address = Address(host, port, tuple(allow_host), tuple(allow_origin), os.environ.get("REELNEST_API_KEY") or None)
    for location in index:
        check_index(params, location, model)
    listen(address).close()
    from reelnest.commands import serve as stage

    def ready(address: str) -> None:
        print(f"{address} (Ctrl-C stops the server)", flush=True)

    stage.run(workspace, params, index, address, model=model, ready=ready)
