"""The model that MLflow loads and serves (models-from-code: MLflow stores this file with the model and runs it to load the model).

An input row is a text, or a video with its text fields. Over HTTP a video is base64 text; in Python it may also be bytes. A path on the
server is never opened. Invalid input raises an MlflowException that the scoring server returns as HTTP 400 with its message.
"""

import base64
import binascii
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from numpy.typing import NDArray

from reelnest.encoder.saved import SavedModel, load
from reelnest.errors import ModelError, VideoError
from reelnest.records.formats import TEXT_FIELDS
from reelnest.records.json_lines import is_encodable
from reelnest.store.entries import Entry, Role
from reelnest.video.decoder import Limits

MODEL_ARTIFACT = "model"
ROLES = get_args(Role)
STORAGES = ("float32", "float16", "int8", "binary")
LARGEST_CODE = 127
COLUMNS = ("video", *TEXT_FIELDS)


class ServedModel(PythonModel):
    """Encodes texts and videos.

    Columns: `text` (string), `video`, and a video's `title`, `caption`, `ocr`, `asr` (and `text`). All are optional, but each row needs a
    text or a video. Params: `dim` (0: the largest trained dim), `role` (`query` or `target`) and `storage`, the format of the vectors (see
    `as_stored`).
    """

    def load_context(self, context: PythonModelContext) -> None:
        """Loads the saved model. `context.model_config` has the limits of a request."""
        self._limits: Mapping[str, Any] = context.model_config
        limits = Limits(**{name: self._limits[f"video_{name}"] for name in ("megabytes", "frames", "seconds", "timeout_seconds")})
        self._model: SavedModel = load(Path(context.artifacts[MODEL_ARTIFACT]), limits=limits)
        self._lock = threading.Lock()  # the server uses threads, and a tokenizer is not thread-safe

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> NDArray[Any]:  # noqa: ARG002 (MLflow's signature)
        """Returns the vectors, (rows, dim), float32 of unit length or in the format of `storage`."""
        dim, role, storage = self._settings(params or {})
        rows = self._rows(model_input)
        videos = {number: self._video(row["video"], number) for number, row in enumerate(rows) if row["video"] is not None}
        texts = {number: row["text"] for number, row in enumerate(rows) if number not in videos}
        vectors = np.empty((len(rows), dim), dtype=np.float32)
        if texts:
            with self._lock:
                vectors[list(texts)] = self._model.encode_texts(list(texts.values()), role=role, dim=dim)
        for number, video in videos.items():  # one by one, so that an error names its row
            fields = {name: value for name in TEXT_FIELDS if (value := rows[number][name]) is not None}
            try:
                # Decoded without the lock, so that the texts of other requests do not wait.
                entry = Entry(role, self._model.videos.text(fields), self._model.videos.frames(video))
                with self._lock:
                    vectors[number] = self._model.encode([entry], dim=dim)[0]
            except (VideoError, ModelError) as error:
                raise refusal(f"row {number}: {error}") from None
        return as_stored(vectors, storage)

    def _settings(self, params: Mapping[str, Any]) -> tuple[int, Role, str]:
        dim, role, storage = int(params.get("dim", 0)), params.get("role", "query"), params.get("storage", "float32")
        if not 0 <= dim <= self._model.width:
            raise refusal(f"dim {dim}: expected 0 (for {self._model.dims[-1]}) or 1 to {self._model.width}; trained: {self._model.dims}")
        if role not in ROLES:
            raise refusal(f"role '{role}': expected one of {', '.join(ROLES)}")
        if storage not in STORAGES:
            raise refusal(f"storage '{storage}': expected one of {', '.join(STORAGES)}")
        return dim or self._model.dims[-1], role, storage

    def _rows(self, frame: pd.DataFrame) -> list[dict[str, Any]]:
        if len(frame) == 1 and any(isinstance(cell, list | np.ndarray) for cell in frame.iloc[0]):
            frame = _explode_lists(frame)  # {"text": ["a", "b"]} arrives as one row of lists
        if not len(frame):
            raise refusal(f"no rows with any of the columns {', '.join(COLUMNS)}: send at least one `text` or `video`")
        if len(frame) > self._limits["rows"]:
            raise refusal(f"{len(frame)} rows: expected at most {self._limits['rows']} per request; send several requests")
        columns = {name: list(frame[name]) if name in frame else [None] * len(frame) for name in COLUMNS}
        # A missing value is None, NaN or an empty string, depending on the request's format.
        rows = [{name: None if _is_empty(values[row]) else values[row] for name, values in columns.items()} for row in range(len(frame))]
        for number, row in enumerate(rows):
            self._check_texts(row, number)
        return rows

    def _check_texts(self, row: Mapping[str, Any], number: int) -> None:
        if row["video"] is None and row["text"] is None:
            raise refusal(f"row {number}: neither a text nor a video; set `text` or `video`")
        for name in TEXT_FIELDS:
            if row[name] is not None and not isinstance(row[name], str):
                raise refusal(f"row {number}: `{name}` must be a text; found {type(row[name]).__name__}")
            if row[name] is not None and len(row[name]) > self._limits["text_characters"]:
                raise refusal(f"row {number}: `{name}` has {len(row[name])} characters; expected at most {self._limits['text_characters']}")
            if row[name] is not None and not is_encodable(row[name]):
                raise refusal(f"row {number}: `{name}` has half a surrogate pair, which is no character; send valid Unicode")

    def _video(self, value: Any, number: int) -> bytes:
        most = self._limits["video_megabytes"] * 1_000_000
        if isinstance(value, str):
            if len(value) > most * 4 / 3 + 4:
                raise refusal(f"row {number}: a video of more than {self._limits['video_megabytes']} MB")
            try:
                value = base64.b64decode(value, validate=True)
            except (binascii.Error, ValueError):
                raise refusal(
                    f"row {number}: `video` must be the bytes of a video file in base64 (paths and addresses are not opened)"
                ) from None
        if not isinstance(value, bytes):
            raise refusal(f"row {number}: `video` must be bytes, or base64 text; found {type(value).__name__}")
        if len(value) > most:
            raise refusal(f"row {number}: a video of {len(value) / 1e6:.1f} MB; expected at most {self._limits['video_megabytes']} MB")
        return value


def as_stored(vectors: NDArray[np.float32], storage: str) -> NDArray[Any]:
    """Converts vectors, float32 (rows, dim), to a compact storage type.

    float16: rounded. int8: each vector is scaled so that its largest absolute value is 127, and rounded; the cosine needs no scale. binary:
    the signs as uint8 (rows, ⌈dim / 8⌉), where a bit is set for a number above 0 and the first number is the highest bit.
    """
    if storage == "int8":
        largest = np.abs(vectors).max(axis=1, keepdims=True)
        return np.rint(vectors * (LARGEST_CODE / np.maximum(largest, np.finfo(np.float32).tiny))).astype(np.int8)
    if storage == "binary":
        return np.packbits(vectors > 0, axis=1)
    return vectors.astype(storage)


def refusal(text: str) -> MlflowException:
    """Returns an error that the scoring server returns as HTTP 400."""
    return MlflowException.invalid_parameter_value(text)


def _explode_lists(frame: pd.DataFrame) -> pd.DataFrame:
    try:
        return frame.explode(list(frame.columns), ignore_index=True)
    except ValueError:
        raise refusal("columns of unequal length: send each row as an object, or columns with a value for every row") from None


def _is_empty(value: Any) -> bool:
    if isinstance(value, str | bytes):
        return not value.strip()
    return value is None or bool(pd.isna(value))


set_model(ServedModel())
