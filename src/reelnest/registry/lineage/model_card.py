"""The model card of a registered model, in the format of Hugging Face: its use, its quality by dim, and its origins.

The Hub reads the YAML header (https://huggingface.co/docs/hub/model-cards). The text is the template `model_card.md.j2`, filled from the
evaluation, the settings and the lineage. No text is written by hand, so the card is always up to date.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml  # whose errors huggingface_hub raises
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from jinja2 import Environment, StrictUndefined

from reelnest.artifacts.evaluation_report import ALL, EvaluationReport
from reelnest.artifacts.training_report import TrainingReport
from reelnest.backbones.family import Family, License
from reelnest.backbones.registry import TINY, TINY_NOTE
from reelnest.evaluation.metrics import headline_names, logged_name
from reelnest.registry.lineage.lineage import Lineage

TEMPLATE = Path(__file__).with_name("model_card.md.j2")
TASK = ("information-retrieval", "Information Retrieval")  # as sentence-transformers' cards have it
OWN_LICENSE = License("apache-2.0")
"""This project's licence, for weights without a published base."""
UNKNOWN_LICENSE = License("unknown")


def model_card(
    name: str,
    family: Family,
    settings: Mapping[str, Any],
    evaluation: EvaluationReport,
    training: TrainingReport | None,
    lineage: Lineage,
) -> str:
    """Returns the text of the card.

    Args:
        name: name of the registered model.
        family: model family of the saved model.
        settings: content of the saved model's `reelnest.json`.
        evaluation: evaluation report of the model.
        training: training report of the model; None if it is missing.
        lineage: lineage of the model.
    """
    model = settings["model"]
    kinds = [result for result in evaluation.results if result.pair_kind != ALL and result.dim == evaluation.width]
    text = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False).from_string(  # noqa: S701 (Markdown)
        TEMPLATE.read_text(encoding="utf-8")
    )
    body = text.render(
        name=name,
        base=_base(model, family),
        model=model,
        preprocess=settings["preprocess"],
        text_fields=settings["text_fields"],
        evaluation=evaluation,
        results=list(evaluation.by_dim.values()),
        kinds=kinds,
        metrics=headline_names(),
        training=training,
        lineage=lineage,
        tiny_note=TINY_NOTE if model["name_or_path"] == TINY else "",
    )
    return f"---\n{_head(name, family, model, evaluation).to_yaml()}\n---\n\n{body}"


def _head(name: str, family: Family, model: Mapping[str, Any], evaluation: EvaluationReport) -> ModelCardData:
    base = str(model["name_or_path"])
    on_the_hub = bool(model["revision"])
    license = _license(base, family)
    tags = ["reelnest", "matryoshka", "video-search", "video-text-retrieval", "feature-extraction", family.model_type]
    lora = model["lora"]
    return ModelCardData(
        license=license.identifier,
        license_name=license.name,
        license_link=license.link,
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
                dataset_name=f"{evaluation.split} split, dim {dim}",
                dataset_type=f"dim_{dim}",
                dataset_split=evaluation.split,
                dataset_revision=evaluation.data.hash,
                metric_type=logged_name(metric),
                metric_name=metric,
                metric_value=float(value),
            )
            for dim, result in evaluation.by_dim.items()
            for metric, value in result.metrics.items()
        ],
    )


def _base(model: Mapping[str, Any], family: Family) -> str:
    name = model["name_or_path"]
    if name == TINY:
        return f"no published model: a small {family.title} with random weights, built for this training"
    return f"`{name}`" + (f" at revision `{model['revision']}`" if model["revision"] else ", a folder of the team's")


def _license(base: str, family: Family) -> License:
    """Returns the licence of the base's weights, which also applies to models trained from them."""
    if base == TINY:
        return OWN_LICENSE
    if published := family.license_of(base):
        return published
    # The card of a local folder may name a licence. `unknown` is the Hub's name for an unknown licence.
    card = Path(base) / "README.md"
    if card.is_file():
        try:
            head = ModelCard(card.read_text(encoding="utf-8"), ignore_metadata_errors=True).data
        except (ValueError, yaml.YAMLError):
            return UNKNOWN_LICENSE
        return License(str(head.get("license") or "unknown"), head.get("license_name"), head.get("license_link"))
    return UNKNOWN_LICENSE
