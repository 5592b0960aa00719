"""Twenty clips, a video that consists of images, a file that is no video, and two models with random weights."""

import json
import random
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from PIL import Image

from reelnest.commands import index as stage
from reelnest.encoder.encoder import load_encoder
from reelnest.encoder.saved import save_model
from reelnest.sample.clips import draw, encode, trajectory
from reelnest.serving.indexing import IndexForm
from reelnest.settings import Model, Params, Preprocess
from reelnest.stages.workspace import Workspace

ROOT = Path(__file__).parents[3]
HOSTILE = "<script>window.harmed = true</script><img src=x onerror='window.harmed = true'>"
PARAMS = Params()


@dataclass(frozen=True)
class Served:
    """A folder with data/, models/one, models/two, and their indexes one/ and two/."""

    root: Path

    @property
    def workspace(self) -> Workspace:
        return Workspace(self.root)

    @property
    def data(self) -> Path:
        return self.root / "data"

    def index(self, out: str = "one", model: str = "one", **options: object) -> stage.Indexed:
        return stage.run(self.workspace, PARAMS, str(self.root / "models" / model), self.data, str(self.root / out), IndexForm(**options))  # type: ignore[arg-type]  # options of each case


def write_corpus(folder: Path) -> None:
    videos = []
    looks = product(("red", "blue", "green", "pink"), ("circle", "square", "triangle", "bar", "ring"))
    (folder / "videos").mkdir(parents=True)
    for number, (colour, shape) in enumerate(looks):
        rng = random.Random(number)
        frames = draw(colour, shape, "black", trajectory("right", rng), rng)
        (folder / f"videos/{number:02}.mp4").write_bytes(encode(frames))
        video = {"video_id": f"clip/{number:02}", "path": f"videos/{number:02}.mp4", "title": f"{colour} {shape}"}
        videos.append({**video, "tags": {"colour": colour, 'its "shape"': shape, "number": str(number)}})
        if number == 0:
            videos[0]["title"] = HOSTILE
            for at, frame in enumerate(frames[::8]):
                Image.fromarray(frame).save(folder / f"videos/frame{at}.png")
    videos.append({"video_id": "images", "images": [f"videos/frame{at}.png" for at in range(3)]})  # type: ignore[dict-item]  # rows differ in their values
    (folder / "videos/notes.mp4").write_text("no video at all, but words")
    videos.append({"video_id": "bad", "path": "videos/notes.mp4"})
    write_videos(folder, videos)


def write_videos(folder: Path, videos: list[dict[str, object]]) -> None:
    (folder / "videos.jsonl").write_text("".join(json.dumps(video) + "\n" for video in videos))


def read_videos(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "videos.jsonl").read_text().splitlines()]


def write_models(folder: Path, base: Path) -> None:
    import torch

    for name, dims in (("one", (16, 64, 128)), ("two", (32, 128))):
        settings = Model(dims=dims, pooling="mean")
        torch.manual_seed(len(dims))
        encoder, tokenizer = load_encoder(settings, base, training=True)
        with torch.no_grad():
            for parameter in encoder.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.02)
        preprocess = Preprocess(frames=4, min_pixels=3136, max_pixels=3200)
        save_model(folder / name, encoder, tokenizer, settings, preprocess, None)
