"""`reelnest memory`: estimates the GPU memory of a training step, and what fits on a card. It writes nothing."""

from functools import partial

from transformers import PreTrainedConfig

from reelnest.backbones.architecture import backbone_config
from reelnest.backbones.registry import family_of_config
from reelnest.profiling.throughput import peak_of
from reelnest.settings import Params, launch_processes, launch_shards, launch_uses_cpu
from reelnest.stages.workspace import Workspace
from reelnest.training.memory_prediction.fitting import GIB, RESERVED, Fit, fit, smallest_card
from reelnest.training.memory_prediction.step_memory import StepMemory, estimate_step, predict_step
from reelnest.training.memory_prediction.step_shapes import Sizes, largest_grid
from reelnest.training.memory_prediction.step_work import step_work

MIB = 1 << 20
CARD, UTILISATION = "H100", 0.25
"""The card and the model FLOPs utilisation of the time that the command prints. The utilisation is an assumption."""


def run(workspace: Workspace, params: Params, *, gpu_gb: float | None, text_tokens: int) -> str:
    """Returns the text that the command prints. Raises ModelError for a model of unknown size."""
    config = backbone_config(params.model)
    processes = launch_processes(params, workspace.params)
    vision = family_of_config(config.to_dict(), params.model.name_or_path).vision
    sizes = Sizes(min(text_tokens, params.model.max_text_tokens), largest_grid(params.preprocess, vision))
    lines = [
        f"{params.model.name_or_path}, {'one process' if processes == 1 else f'one of {processes} processes'}, step of"
        f" {params.train.batch_size} pairs"
        f" (micro-batches of {_micro_batch(params, processes)}): each a text of {sizes.text_tokens} tokens and a video of"
        f" {params.preprocess.frames} frames, {vision.tokens(sizes.grid)} tokens, with as much text"
    ]
    if sharded := launch_shards(params, workspace.params):
        lines.append(
            f"  launch.config {params.launch.config} shards the model: each process holds 1/{processes} of weights, gradients and"
            " optimizer, plus the unsharded embeddings and two unsharded layers."
        )
    on_gpu = not launch_uses_cpu(params, workspace.params)
    if gpu_gb is None:
        memory = predict_step(params, config, sizes, processes=processes, sharded=sharded, on_gpu=on_gpu)
        lines += _table(memory)
        if on_gpu:
            lines.append(_time(params, config, sizes, processes))
            card = smallest_card(memory)
            lines.append(f"Smallest card that fits: {card} GiB." if card else "It fits no known card.")
        return "\n".join(lines)
    fits = fit(params, config, sizes, gpu_gb, processes=processes, predict=partial(estimate_step, sharded=sharded, on_gpu=True))
    lines += _table(fits[0].memory)
    if on_gpu:
        lines.append(_time(params, config, sizes, processes))
    lines.append(f"\nWith a card of {gpu_gb:g} GiB ({RESERVED / GIB:.2f} GiB reserved for CUDA):")
    for option in fits:
        lines.append(_line(option))
    last = fits[-1]
    if last.fits and last.frames is not None:
        lines.append(f"  With one pair at a time, videos with up to {last.frames} frames of this size fit.")
    if not last.fits:
        card = smallest_card(last.memory)
        lines.append(f"  Smallest card that fits: {card} GiB." if card else "  No known card is large enough; see configs/presets/.")
    return "\n".join(lines)


def _table(memory: StepMemory) -> list[str]:
    rows = [f"  {name:12} {size / MIB:10,.0f} MiB  {size / max(memory.peak, 1):4.0%}" for name, size in memory.components.items()]
    return [*rows, f"  {'peak':12} {memory.peak / MIB:10,.0f} MiB"]


def _time(params: Params, config: PreTrainedConfig, sizes: Sizes, processes: int) -> str:
    work = step_work(params, config, sizes, processes=processes)
    seconds = work.flops / (UTILISATION * (peak_of(CARD) or 1.0))
    return (
        f"Computation: {work.tokens:,} tokens and {work.flops / 1e12:,.0f} TFLOP a step and process. At {UTILISATION:.0%} of the bfloat16"
        f" rate of one {CARD} (an assumption, not a measurement): {seconds:.1f} s."
    )


def _line(option: Fit) -> str:
    settings = "with the current settings" if not option.settings else "with " + ", ".join(option.settings)
    verdict = f"{option.memory.peak / MIB:,.0f} MiB, fits" if option.fits else f"{option.memory.peak / MIB:,.0f} MiB, does not fit"
    most = "not even one pair at a time" if option.micro_batch_size is None else f"largest micro-batch {option.micro_batch_size} pairs"
    return f"  {settings}: {verdict}; {most}"


def _micro_batch(params: Params, processes: int) -> int:
    share = params.train.batch_size // processes
    return min(params.train.micro_batch_size or share, share)
