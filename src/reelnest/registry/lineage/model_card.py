"""The model card: what a registered model is for, how good it is at each size, and where it comes from, in the Hugging Face form.

Its YAML head is what the Hub reads (https://huggingface.co/docs/hub/model-cards); the text is `model_card.md.j2`, filled from the
evaluation, the settings and the lineage. Nothing in it is written by hand, so that it is never out of date.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml  # whose errors huggingface_hub raises
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from jinja2 import Environment, StrictUndefined

from reelnest.evaluation.metrics import headline_names, logged_name
from reelnest.registry.lineage.lineage import Lineage
from reelnest.registry.promotion.evaluation_log import ALL

TEMPLATE = Path(__file__).with_name("model_card.md.j2")
TASK = ("information-retrieval", "Information Retrieval")  # as sentence-transformers' cards have it
OWN_LICENSE = "apache-2.0"
"""Of weights that nobody else had a hand in: this project's."""
BASE_LICENSES = {
    "3B": ("other", "qwen-research", "https://huggingface.co/Qwen/Qwen2.5-VL-3B-Instruct/blob/main/LICENSE"),
    "7B": ("apache-2.0", None, None),
    "32B": ("apache-2.0", None, None),
    "72B": ("other", "qwen", "https://huggingface.co/Qwen/Qwen2.5-VL-72B-Instruct/blob/main/LICENSE"),
}
"""Of Qwen/Qwen2.5-VL-*-Instruct, as their cards say. What is trained from weights stands under their licence."""


def model_card(
    name: str,
    settings: Mapping[str, Any],
    evaluation: Mapping[str, Any],
    training: Mapping[str, Any] | None,
    lineage: Lineage,
) -> str:
    """The card's text.

    Args:
        name: of the registered model.
        settings: the saved model's `reelnest.json`.
        evaluation: `reports/evaluation.json`.
        training: `reports/training.json`; None where it is missing.
        lineage: of the same model.
    """
    model = settings["model"]
    everything = {found["dim"]: found for found in evaluation["results"] if found["pair_kind"] == ALL}
    kinds = [found for found in evaluation["results"] if found["pair_kind"] != ALL and found["dim"] == evaluation["width"]]
    text = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False).from_string(  # noqa: S701 (Markdown)
        TEMPLATE.read_text(encoding="utf-8")
    )
    body = text.render(
        name=name,
        base=_base(model),
        model=model,
        preprocess=settings["preprocess"],
        text_fields=settings["text_fields"],
        evaluation=evaluation,
        results=[everything[dim] for dim in sorted(everything)],
        kinds=kinds,
        metrics=headline_names(),
        training=training,
        lineage=lineage,
    )
    return f"---\n{_head(name, model, evaluation, everything).to_yaml()}\n---\n\n{body}"


def _head(name: str, model: Mapping[str, Any], evaluation: Mapping[str, Any], everything: Mapping[int, Mapping[str, Any]]) -> ModelCardData:
    base = str(model["name_or_path"])
    on_the_hub = bool(model["revision"])
    license_id, license_name, license_link = _license(base)
    tags = ["reelnest", "matryoshka", "video-search", "video-text-retrieval", "feature-extraction", "qwen2_5_vl"]
    lora = model["lora"]
    return ModelCardData(
        license=license_id,
        license_name=license_name,
        license_link=license_link,
        base_model=base if on_the_hub else None,
        base_model_relation=("adapter" if lora and not lora["merge"] else "finetune") if on_the_hub else None,
        library_name="sentence-transformers",
        pipeline_tag="feature-extraction",
        tags=tags,
        model_name=name,
        eval_results=[
            EvalResult(
                task_type=TASK[0],
                task_name=TASK[1],
                dataset_name=f"{evaluation['split']} split, dim {dim}",
                dataset_type=f"dim_{dim}",
                dataset_split=evaluation["split"],
                dataset_revision=evaluation["data"]["hash"],
                metric_type=logged_name(metric),
                metric_name=metric,
                metric_value=float(value),
            )
            for dim, found in sorted(everything.items())
            for metric, value in found["metrics"].items()
        ],
    )


def _base(model: Mapping[str, Any]) -> str:
    name = model["name_or_path"]
    if name == "tiny":
        return "no published model: a small Qwen2.5-VL with random weights, built for this training"
    return f"`{name}`" + (f" at revision `{model['revision']}`" if model["revision"] else ", a folder of the team's")


def _license(base: str) -> tuple[str, str | None, str | None]:
    """Identifier, and where that is `other`, name and address."""
    if base == "tiny":
        return OWN_LICENSE, None, None
    published = re.fullmatch(r"Qwen/Qwen2\.5-VL-(\d+B)-Instruct", base)
    if published and published[1] in BASE_LICENSES:
        return BASE_LICENSES[published[1]]
    # What a folder's own card says; the Hub's name for a licence that is not known is `unknown`.
    card = Path(base) / "README.md"
    if card.is_file():
        try:
            head = ModelCard(card.read_text(encoding="utf-8"), ignore_metadata_errors=True).data
        except (ValueError, yaml.YAMLError):
            return "unknown", None, None
        return str(head.get("license") or "unknown"), head.get("license_name"), head.get("license_link")
    return "unknown", None, None
