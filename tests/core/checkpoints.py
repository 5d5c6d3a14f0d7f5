"""Small CLIP, SigLIP and ALIGN checkpoints with random weights, as transformers itself would save them."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import (
    AlignConfig,
    AlignModel,
    CLIPConfig,
    CLIPModel,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipModel,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.efficientnet.image_processing_pil_efficientnet import EfficientNetImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

# The pad token comes first and last: no model may mistake it for what it is looking for.
WORDS = ["[PAD]", "[UNK]", "[CLS]", "a", "red", "mug", "lamp", "blue", "of", "wood", "chair", "[SEP]"]
PAD, START, END = 0, 2, 11
# As the checkpoints of that family have them, where the shape of what they compute does not hang on it.
TRANSFORMER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
TEXT = {**TRANSFORMER, "vocab_size": len(WORDS), "pad_token_id": PAD, "bos_token_id": START, "eos_token_id": END}
VISION = {**TRANSFORMER, "patch_size": 8}


def save_clip(folder: Path, size: int = 32, **text: int) -> Any:
    """A CLIP; `text` overrides settings of its text side."""
    settings = {**TEXT, "max_position_embeddings": 16, **text}
    config = CLIPConfig(text_config=settings, vision_config={**VISION, "image_size": size}, projection_dim=24)
    processor = CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size={"height": size, "width": size})
    return save(folder, CLIPModel(config), processor, single_end=True)


def save_siglip(folder: Path, size: int = 40) -> Any:
    settings = {**TEXT, "max_position_embeddings": 12, "projection_size": 32, "pad_token_id": END}
    config = SiglipConfig(text_config=settings, vision_config={**VISION, "image_size": size})
    processor = SiglipImageProcessorPil(size={"height": size, "width": size})
    return save(folder, SiglipModel(config), processor, single_end=True)


def save_align(folder: Path, size: int = 48, dim: int = 24) -> Any:
    blocks = {
        "kernel_sizes": [3, 5],
        "in_channels": [32, 8],
        "out_channels": [8, 24],
        "strides": [1, 2],
        "num_block_repeats": [1, 1],
        "expand_ratios": [1, 2],
        "depthwise_padding": [],
    }
    vision = {**blocks, "width_coefficient": 1.0, "depth_coefficient": 1.0, "hidden_dim": 24}
    settings = {**TEXT, "max_position_embeddings": 100, "type_vocab_size": 2}
    config = AlignConfig(text_config=settings, vision_config=vision, projection_dim=dim)
    square = {"height": size, "width": size}
    processor = EfficientNetImageProcessorPil(
        size=square, do_center_crop=True, crop_size=square, rescale_factor=1 / 127.5, rescale_offset=True
    )
    return save(folder, AlignModel(config), processor, single_end=False)


FAMILIES = {"clip": save_clip, "siglip": save_siglip, "align": save_align}


def save(folder: Path, model: Any, processor: Any, single_end: bool) -> Any:
    """Weights larger than those of a fresh model, so that every part of it shows in the outcome."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=2 * parameter[0].numel() ** -0.5)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(std=0.1)
    model.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    tokenizer(single_end).save_pretrained(folder)
    return model


def tokenizer(single_end: bool) -> PreTrainedTokenizerFast:
    """Words on white space, lower case; SigLIP and CLIP fill up with their end token, ALIGN with one of its own."""
    words = Tokenizer(WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.normalizer, words.pre_tokenizer = Lowercase(), Whitespace()
    words.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", START), ("[SEP]", END)]
    )
    pad = "[SEP]" if single_end else "[PAD]"
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token=pad, bos_token="[CLS]", eos_token="[SEP]", unk_token="[UNK]"
    )
