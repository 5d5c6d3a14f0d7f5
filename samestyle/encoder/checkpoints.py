"""CLIP, SigLIP and ALIGN checkpoints of a local folder, read through transformers. Nothing is ever fetched or run."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F

from samestyle.encoder.sources import file_digest
from samestyle.errors import IntegrityError, UsageError

FAMILIES = ("clip", "siglip", "align")
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.msgpack", "*.h5")
# ALIGN's text network could take 512; it was trained on this many.
ALIGN_TOKENS = 64


@dataclass(frozen=True)
class Checkpoint:
    """A folder that holds such a model: what there is to know before its weights are opened."""

    folder: Path
    config: Mapping[str, Any]
    processor: Mapping[str, Any]

    @classmethod
    def open(cls, folder: Path) -> "Checkpoint":
        """Raises UsageError for what is missing, or is of another family."""
        config = _json(folder / "config.json")
        if config.get("model_type") not in FAMILIES:
            raise UsageError(
                f"{folder} holds a model of type {config.get('model_type')!r}, expected one of {', '.join(FAMILIES)}"
            )
        checkpoint = cls(folder, config, _processor(folder))
        if not checkpoint.weights:
            pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
            raise UsageError(
                f"{folder} has no *.safetensors, it has {', '.join(pickles) or 'no weights at all'}: other formats may "
                "run code when they are opened and never are; save the model with safetensors first"
            )
        if not checkpoint.tokenizer.is_file():
            raise UsageError(
                f"{folder} has no tokenizer.json: a SentencePiece model alone is not read; save the tokenizer with "
                "transformers' save_pretrained first"
            )
        return checkpoint

    @property
    def family(self) -> str:
        return str(self.config["model_type"])

    @property
    def weights(self) -> list[Path]:
        return sorted(self.folder.glob("*.safetensors"))

    @property
    def tokenizer(self) -> Path:
        return self.folder / "tokenizer.json"

    @property
    def image_size(self) -> int:
        """Pixels a side. Raises UsageError where width and height differ."""
        if self.family != "align":  # its network takes any size
            return int(self.model_config.vision_config.image_size)
        cut = self.processor["crop_size" if self.processor.get("do_center_crop") else "size"]
        if cut.get("height") != cut.get("width"):
            raise UsageError(f"{self.folder} takes pictures of {cut}, expected squares: no other shape is supported")
        return int(cut["height"])

    @property
    def dim(self) -> int:
        """Numbers of a vector."""
        config = self.model_config
        return int(config.text_config.projection_size if self.family == "siglip" else config.projection_dim)

    @property
    def max_tokens(self) -> int:
        positions = int(self.model_config.text_config.max_position_embeddings)
        return min(positions, ALIGN_TOKENS) if self.family == "align" else positions

    @property
    def model_config(self) -> Any:
        """With the defaults of what config.json leaves out."""
        from transformers import AutoConfig

        return AutoConfig.from_pretrained(self.folder, local_files_only=True, trust_remote_code=False)

    def digests(self) -> dict[str, str]:
        """SHA-256 of each file that decides a vector, by name."""
        return {path.name: file_digest(path) for path in (self.folder / "config.json", self.tokenizer, *self.weights)}

    def check_sides(self, image: int, text: int) -> None:
        """Raises UsageError where the two sides do not both give vectors of `dim` numbers."""
        if not image == text == self.dim:
            raise UsageError(
                f"{self.folder} gives {image} numbers for a photo and {text} for a title, its config.json says "
                f"{self.dim}: not one space"
            )

    def load(self) -> Any:
        """The model of transformers, frozen, in float32. Raises IntegrityError where weights are missing or broken."""
        from transformers import AutoModel

        try:
            model, found = AutoModel.from_pretrained(
                self.folder,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                dtype=torch.float32,
                attn_implementation="eager",  # the only one that the exporter traces with free sizes
                output_loading_info=True,
            )
        except Exception as error:  # transformers and safetensors raise whatever they like for broken files
            raise IntegrityError(f"{self.folder} cannot be loaded: {error}; fetch the checkpoint again") from error
        # transformers would go on with random numbers in their place.
        if found["missing_keys"]:
            missing = sorted(found["missing_keys"])
            raise IntegrityError(
                f"{self.folder} lacks {len(missing)} tensors that its config.json demands, {missing[0]} first: "
                "fetch the checkpoint again"
            )
        broken = [name for name, tensor in model.state_dict().items() if not torch.isfinite(tensor).all()]
        if broken:
            raise IntegrityError(f"{self.folder}: {', '.join(broken[:3])} hold numbers that are not finite")
        return model.eval().requires_grad_(False)

    @property
    def pad(self) -> int:
        """The id that texts are filled up with, as the tokenizer's own settings have it."""
        settings = self.folder / "tokenizer_config.json"
        token = _json(settings).get("pad_token") if settings.is_file() else None
        name = token.get("content") if isinstance(token, dict) else token
        found = None if name is None else Tokenizer.from_file(str(self.tokenizer)).token_to_id(name)
        return int(self.model_config.text_config.pad_token_id or 0) if found is None else found

    def text_tower(self, model: Any) -> "TextTower":
        if self.family == "siglip":
            return SiglipTextTower(model, self.pad)
        return ClipTextTower(model) if self.family == "clip" else TextTower(model)

    def pixel_statistics(self) -> tuple[Tensor, Tensor]:
        """(3,) factor and (3,) shift: what its own image processor makes of a pixel, uint8 * factor + shift."""
        settings = self.processor
        mean, std = (torch.tensor(settings.get(f"image_{name}") or [0.0] * 3) for name in ("mean", "std"))
        factor = torch.full((3,), settings.get("rescale_factor", 1 / 255) if settings.get("do_rescale", True) else 1.0)
        shift = torch.full((3,), -1.0 if settings.get("rescale_offset") else 0.0)
        if settings.get("do_normalize", True):
            factor, shift = factor / std, (shift - mean) / std
        if settings.get("include_top"):  # EfficientNet's processor divides once more
            factor, shift = factor / std, shift / std
        if not torch.isfinite(torch.stack([factor, shift])).all():
            raise UsageError(f"{self.folder} normalises by image_std {std.tolist()}: expected three positive numbers")
        return factor, shift


class ImageTower(nn.Module):
    """(n, size, size, 3) uint8 RGB -> (n, dim) float32 of unit length."""

    factor: Tensor
    shift: Tensor

    def __init__(self, model: Any, factor: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("factor", factor)
        self.register_buffer("shift", shift)

    def forward(self, images: Tensor) -> Tensor:
        # Planes first: ONNX Runtime takes three numbers a pixel one by one, which is half of a small network's time.
        pixels = images.permute(0, 3, 1, 2).float() * self.factor[:, None, None] + self.shift[:, None, None]
        return F.normalize(self.model.get_image_features(pixel_values=pixels).pooler_output)


class TextTower(nn.Module):
    """(n, t) int64 ids and mask -> (n, dim) float32 of unit length."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return F.normalize(self.model.get_text_features(input_ids=ids, attention_mask=mask).pooler_output)


class ClipTextTower(TextTower):
    """CLIP reads the end-of-text token and looks back only: what is filled up behind it changes nothing."""

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        length = ids.shape[1]
        ahead = torch.ones(length, length, dtype=torch.bool, device=ids.device).triu(1)
        causal = torch.zeros(length, length, device=ids.device).masked_fill(ahead, torch.finfo(torch.float32).min)
        found = self.model.get_text_features(input_ids=ids * mask, attention_mask=causal[None, None])
        return F.normalize(found.pooler_output)


class SiglipTextTower(TextTower):
    """SigLIP was trained on texts filled up to their full length, without a mask, and reads the last token."""

    def __init__(self, model: Any, pad: int) -> None:
        super().__init__(model)
        self.pad, self.length = pad, model.config.text_config.max_position_embeddings

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        padding = torch.full_like(ids[:, :1], self.pad).expand(-1, self.length)
        filled = torch.cat([torch.where(mask > 0, ids, self.pad), padding], dim=1)[:, : self.length]
        return F.normalize(self.model.get_text_features(input_ids=filled).pooler_output)


def _processor(folder: Path) -> dict[str, Any]:
    """The settings of the image processor, from either of the files that transformers writes them to."""
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (folder / name).is_file():
            settings = _json(folder / name)
            return dict(settings.get("image_processor", settings))
    raise UsageError(f"{folder} has no preprocessor_config.json: it says how pictures are normalised; fetch it as well")


def _json(path: Path) -> dict[str, Any]:
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read ({error}): expected a checkpoint as transformers saves it") from error
    if not isinstance(tree, dict):
        raise UsageError(f"{path} holds a {type(tree).__name__}, expected a JSON object")
    return tree
