"""What a training works on and leaves behind, as files, so that any process on any host that sees them can take part.

task.json                  settings train and losses
contents.parquet           row, name: an item that shows the content, for errors
features/*.npy             cached features (depth fusion), or
photos/*.npy               photos and tokenised titles (depth backbones)
pairs/*.npy                trigger, offer, group, source
own.npy                    contents whose photo and title are aligned without any pair
validation/*.npy           rows, group
start.safetensors          the fusion or the head to begin with
checkpoint.safetensors     where an interrupted training goes on
trained.safetensors        the weights that were best on the validation split; history.json: the way there
before/*.npy, after/*.npy  image, text, fused: vectors of the validation rows by the first and by these weights
failed.json                why it ended early
"""

import json
import shutil
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow.parquet as pq
from safetensors.torch import load_file, save_file
from torch import Tensor

from samestyle.encoder.fusion import Fusion
from samestyle.encoder.head import HeadedSum, load_head
from samestyle.encoder.weights import load_fusion, read_weights
from samestyle.errors import IntegrityError
from samestyle.settings import Losses, Train
from samestyle.training.loop import VIEWS, History, Validation
from samestyle.training.pairs import Pairs

T = TypeVar("T", Pairs, Validation)


@dataclass(frozen=True)
class TrainingFolder:
    path: Path

    @property
    def features(self) -> Path:
        return self.path / "features"

    @property
    def photos(self) -> Path:
        return self.path / "photos"

    @property
    def contents(self) -> Path:
        return self.path / "contents.parquet"

    @property
    def start(self) -> Path:
        return self.path / "start.safetensors"

    @property
    def checkpoint(self) -> Path:
        return self.path / "checkpoint.safetensors"

    @property
    def trained(self) -> Path:
        return self.path / "trained.safetensors"

    def write_task(
        self, train: Train, losses: Losses, pairs: Pairs, validation: Validation, own: np.ndarray | None = None
    ) -> None:
        """own: (rows,) int64, contents whose photo and title are aligned without any pair."""
        np.save(self.path / "own.npy", np.zeros(0, np.int64) if own is None else own)
        save_arrays(pairs, self.path / "pairs")
        save_arrays(validation, self.path / "validation")
        self.write("task", {"train": train.model_dump(mode="json"), "losses": losses.model_dump(mode="json")})

    def read_task(self) -> tuple[Train, Losses, Pairs, Validation]:
        task = self.read("task")
        pairs, validation = open_arrays(Pairs, self.path / "pairs"), open_arrays(Validation, self.path / "validation")
        return Train(**task["train"]), Losses(**task["losses"]), pairs, validation

    def read_own(self) -> np.ndarray:
        return np.load(self.path / "own.npy", allow_pickle=False)

    def read_start(self) -> Fusion | HeadedSum:
        """What start.safetensors holds, frozen. Raises IntegrityError where that is neither a fusion nor a head."""
        headed = read_weights(self.start)[0].keys() == {"dim"}
        return HeadedSum(load_head(self.start)[0]) if headed else load_fusion(self.start)[0]

    def write_result(self, tensors: dict[str, Tensor], history: History) -> None:
        """The weights last: who finds them finds the rest."""
        self.write("history", asdict(history))
        partial = self.trained.with_suffix(".tmp")
        save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, partial)
        partial.replace(self.trained)

    def read_result(self) -> tuple[dict[str, Tensor], History]:
        return load_file(self.trained), History(**self.read("history"))

    def write_views(self, name: str, views: dict[str, np.ndarray]) -> None:
        (self.path / name).mkdir(exist_ok=True)
        for view, vectors in views.items():
            np.save(self.path / name / f"{view}.npy", vectors)

    def read_views(self, name: str) -> dict[str, np.ndarray]:
        return {view: np.load(self.path / name / f"{view}.npy", allow_pickle=False) for view in VIEWS}

    def write(self, name: str, record: dict[str, Any]) -> None:
        partial = self.path / f"{name}.tmp"
        partial.write_text(json.dumps(record), encoding="utf-8")
        partial.replace(self.path / f"{name}.json")

    def read(self, name: str) -> dict[str, Any]:
        """Raises IntegrityError where the file is damaged or missing."""
        try:
            return json.loads((self.path / f"{name}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise IntegrityError(
                f"{self.path / name}.json cannot be read ({error}): start the training anew"
            ) from error

    def clear(self) -> None:
        """Leave the records and reports, and remove what is large."""
        for path in self.path.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.suffix not in (".json", ".html"):
                path.unlink()

    def names(self, rows: np.ndarray) -> list[str]:
        """Items that show these contents."""
        table = pq.read_table(self.contents, columns=["row", "name"])
        names = dict(zip(table["row"].to_pylist(), table["name"].to_pylist(), strict=True))
        return [names.get(int(row), str(row)) for row in rows]


def save_arrays(arrays: Pairs | Validation, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for field in fields(arrays):
        np.save(folder / f"{field.name}.npy", getattr(arrays, field.name))


def open_arrays(kind: type[T], folder: Path) -> T:
    return kind(*(np.load(folder / f"{field.name}.npy", allow_pickle=False) for field in fields(kind)))
