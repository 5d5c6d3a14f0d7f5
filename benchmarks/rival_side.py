"""What benchmarks/rival.py runs in the environment of clip-retrieval, whose packages are not the project's.

python rival_side.py checkpoint SIZE FOLDER               a CLIP with random weights, in two formats
python rival_side.py infer MODEL OUT WORKERS TAR...       its own reader, mapper, writer and runner, timed

The last line that is printed is JSON.
"""

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

BATCH = 256  # clip-retrieval's own default
# width and layers of the photo's side, of the title's, and numbers of a vector
SIZES = {"small": ((128, 3), (128, 3), 256), "b32": ((768, 12), (512, 12), 512)}


def main() -> None:
    what, *words = sys.argv[1:]
    if what == "checkpoint":
        write_checkpoint(words[0], Path(words[1]))
    else:
        print(json.dumps(infer(words[0], words[1], int(words[2]), words[3:])))


# --- a checkpoint


def write_checkpoint(size: str, folder: Path) -> None:
    """As transformers has it, and `openai.pt`, which clip-retrieval reads faster photos for: the same weights."""
    import torch
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    image, text, dim = SIZES[size]
    torch.manual_seed(0)
    ends = {"bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 49407}
    config = CLIPConfig(
        text_config={**network(*text), **ends, "vocab_size": 49408, "max_position_embeddings": 77},
        vision_config={**network(*image), "patch_size": 32, "image_size": 224},
        projection_dim=dim,
    )
    model = CLIPModel(config).half().float().eval()  # OpenAI's format rounds to halves
    model.save_pretrained(folder)
    CLIPImageProcessor().save_pretrained(folder)
    save_tokenizer(folder)
    torch.save(in_openai_names(model), folder / "openai.pt")


def network(width: int, layers: int) -> dict[str, Any]:
    heads = {"num_attention_heads": width // 64}  # as OpenAI's code takes it to be
    return {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": layers, **heads}


def save_tokenizer(folder: Path) -> None:
    """CLIP's own words, from the package `clip`."""
    from clip.simple_tokenizer import SimpleTokenizer
    from transformers import CLIPTokenizerFast

    words = SimpleTokenizer()
    merges = [" ".join(pair) for pair in words.bpe_ranks]
    (folder / "vocab.json").write_text(json.dumps(words.encoder), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n", encoding="utf-8")
    CLIPTokenizerFast(str(folder / "vocab.json"), str(folder / "merges.txt")).save_pretrained(folder)


def in_openai_names(model: Any) -> dict[str, Any]:
    """The state of a transformers.CLIPModel under the names of OpenAI's code."""
    held = model.state_dict()
    photo, title = held["visual_projection.weight"], held["text_projection.weight"]
    named = {"logit_scale": held["logit_scale"], "visual.proj": photo.T, "text_projection": title.T}
    eyes = "vision_model.embeddings."
    named["visual.class_embedding"] = held[f"{eyes}class_embedding"]
    named["visual.conv1.weight"] = held[f"{eyes}patch_embedding.weight"]
    named["visual.positional_embedding"] = held[f"{eyes}position_embedding.weight"]
    named["token_embedding.weight"] = held["text_model.embeddings.token_embedding.weight"]
    named["positional_embedding"] = held["text_model.embeddings.position_embedding.weight"]
    norms = {"vision_model.pre_layrnorm": "visual.ln_pre", "vision_model.post_layernorm": "visual.ln_post"}
    for theirs, ours in {**norms, "text_model.final_layer_norm": "ln_final"}.items():
        named |= {f"{ours}.{part}": held[f"{theirs}.{part}"] for part in ("weight", "bias")}
    for theirs, ours in (("vision_model", "visual."), ("text_model", "")):
        layers = {int(name.split(".")[3]) for name in held if name.startswith(f"{theirs}.encoder.layers.")}
        for layer in layers:
            named |= block(held, f"{theirs}.encoder.layers.{layer}.", f"{ours}transformer.resblocks.{layer}.")
    return {name: tensor.contiguous() for name, tensor in named.items()}


def block(held: dict[str, Any], theirs: str, ours: str) -> dict[str, Any]:
    import torch

    names = {"self_attn.out_proj": "attn.out_proj", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
    names |= {"layer_norm1": "ln_1", "layer_norm2": "ln_2"}
    found = {}
    for part in ("weight", "bias"):
        joined = [held[f"{theirs}self_attn.{side}_proj.{part}"] for side in "qkv"]
        found[f"{ours}attn.in_proj_{part}"] = torch.cat(joined)
        found |= {f"{ours}{name}.{part}": held[f"{theirs}{old}.{part}"] for old, name in names.items()}
    return found


# --- inference


class Silent:
    """In place of its logger, which is a process that imports wandb: that would be start-up."""

    def start(self) -> None: ...

    def end(self) -> None: ...

    def __call__(self, stats: dict[str, float]) -> None: ...


def infer(model: str, out: str, workers: int, tars: list[str]) -> dict[str, float]:
    """Rows, seconds and seconds of CPU (those of its readers included), after a warm-up over the first tars."""
    import numpy as np

    run(model, f"{out}/warm", workers, tars[: max(1, workers)])
    started, spent = time.perf_counter(), cpu()
    run(model, out, workers, tars)
    seconds, taken = time.perf_counter() - started, cpu() - spent
    rows = len(np.load(f"{out}/img_emb/img_emb_0.npy", mmap_mode="r"))
    return {"rows": rows, "seconds": seconds, "cpu": taken}


def run(model: str, out: str, workers: int, tars: list[str]) -> None:
    """As clip_retrieval.clip_inference.worker puts these together; all_clip keeps the model that it has loaded."""
    from all_clip import load_clip
    from clip_retrieval.clip_inference.mapper import ClipMapper
    from clip_retrieval.clip_inference.reader import WebdatasetReader
    from clip_retrieval.clip_inference.runner import Runner
    from clip_retrieval.clip_inference.writer import NumpyWriter

    both = {"enable_text": True, "enable_image": True, "enable_metadata": False}
    _, preprocess, words = load_clip(clip_model=model, use_jit=False, warmup_batch_size=BATCH, clip_cache_path=None)
    mapper = ClipMapper(
        **both, use_mclip=False, clip_model=model, use_jit=False, mclip_model="", warmup_batch_size=BATCH
    )
    Runner(
        reader_builder=lambda sampler: WebdatasetReader(sampler, preprocess, words, tars, BATCH, workers, **both),
        mapper_builder=lambda: mapper,
        writer_builder=lambda part: NumpyWriter(partition_id=part, output_folder=out, output_partition_count=1, **both),
        logger_builder=lambda part: Silent(),
        output_partition_count=1,
    )(0)


def cpu() -> float:
    """Of this process and of the readers that have ended."""
    own, readers = (resource.getrusage(of) for of in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + readers.ru_utime + readers.ru_stime


if __name__ == "__main__":
    main()
