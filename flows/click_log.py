"""Closes the loop of the search server: imports its click log, and builds its index again for a new champion.

`prefect.yaml` has the deployments. New pairs start the deployment on new data, whose champion starts that of the index.
"""

import sys
from pathlib import Path
from typing import Any

from tasks.process.runner import quieten

quieten()  # before Prefect reads its settings

from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from reelnest.commands.search_inputs import read_index
from reelnest.engines.engine import shown
from reelnest.errors import DataError, ReelnestError
from reelnest.settings import load_params
from tasks.process import dvc_cache
from tasks.process.runner import CommandError, output_of
from tasks.workspaces import click_imports, data_arrival, data_versions


@flow(name="reelnest-clicks", description="Imports the click log into the data, and emits the event of new data.", persist_result=False)
def import_clicks(push: bool = False) -> State[Any]:
    """Ends as Completed whether or not there are new clicks; as Failed if they cannot be imported.

    Args:
        push: Pushes the data to DVC's remote and the commit to git's, so that workers elsewhere find them.
    """
    root = Path.cwd()
    try:
        done = click_imports.import_clicks(root, load_params(root / "params.yaml"))
        if push and dvc_cache.has_remote(root):
            get_run_logger().info(data_versions.push(root, branch=True))
        elif (payload := data_arrival.arrived(root, "HEAD")) is not None:
            data_arrival.notify(payload)
    except (ReelnestError, CommandError) as error:
        return Failed(message=str(error))
    return Completed(message=done or "no new clicks")


@flow(name="reelnest-index", description="Builds an index again with the champion. Servers follow to it.", persist_result=False)
def build_index(index: str = "index", model: str = "models:/reelnest@champion", data: str = "data") -> State[Any]:
    """Ends as Completed if the index is built, or if there is none at this place yet; as Failed if it cannot be built.

    Args:
        index: A folder in the checkout, or an address, to which `reelnest index` wrote before.
        model: The model, such as models:/reelnest@champion.
        data: The folder with videos.jsonl.
    """
    try:
        form = read_index(index)
    except DataError as error:
        return Completed(message=f"nothing to do: {error}")
    except ReelnestError as error:
        return Failed(message=str(error))
    command = [str(Path(sys.executable).with_name("reelnest")), "index", "--model", model, "--data", data, "--to", index]
    options = ["--storage", form.storage, "--dim", str(form.width), *([] if form.graph_dim is None else ["--graph"])]
    try:
        output_of([*command, *options])
    except CommandError as error:
        return Failed(message=str(error))
    return Completed(message=f"{shown(index)} has the vectors of {read_index(index).model}")
