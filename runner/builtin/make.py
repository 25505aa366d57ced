"""Makes the shipped models from nothing but seeds: `python -m runner.builtin.make [stage]`.

Stages, in order, with their time on two cores:

    tokenizer     2 s       byte-level BPE in CLIP's form, from the world's captions
    autoencoder   26 min    AutoencoderTiny, on one core
    decoder       7 min     the autoencoder's decoder, sharpened, on one core
    clip          22 min    the critic, and the base's first text encoder, on one core
    shapes        38 min    the base: UNet and text encoder, on both cores
    second        14 min    the base's second cycle, on both cores
    emblem        2 min     the LoRA, trained on the shipped base, on both cores
    tiny_sdxl     5 s       random weights in SDXL's form, for testing; kept in the cache folder

`clip` needs neither `autoencoder` nor `decoder` and may run beside them. A stage whose folder exists in
the work folder is skipped, and a stopped stage continues from its last checkpoint. `all` runs all but
`tiny_sdxl` and ships them into this package as fp16.
"""

import argparse
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from runner.builtin import cache_dir, package_dir

STAGES = ("tokenizer", "autoencoder", "decoder", "clip", "shapes", "second", "emblem")


def main(arguments: Sequence[str] | None = None) -> None:
    """Make one stage or all of them."""
    options = parse(arguments)
    if options.stage == "tiny_sdxl":
        from runner.builtin.recipe import tiny_sdxl

        print(tiny_sdxl.make(options.out or cache_dir() / "tiny_sdxl", options.seed))
        return
    for stage in STAGES if options.stage == "all" else (options.stage,):
        make_stage(stage, options.work, options.out or package_dir(), options.seed)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("runner.builtin.make", description="Makes the shipped models.")
    parser.add_argument("stage", nargs="?", default="all", choices=["all", *STAGES, "tiny_sdxl"])
    parser.add_argument("--work", type=Path, default=Path("builtin-work"), help="checkpoints and fp32 folders")
    parser.add_argument("--out", type=Path, help="where to ship to (default: this package, or the cache)")
    parser.add_argument("--seed", type=int, default=0, help="0 made the shipped weights")
    return parser.parse_args(arguments)


def make_stage(stage: str, work: Path, out: Path, seed: int) -> None:
    """Make a stage unless its folder is there, then ship what it made."""
    work.mkdir(parents=True, exist_ok=True)
    if (work / stage).is_dir():
        print(f"{stage}: already in {work}")
    else:
        unfinished = work / f"{stage}.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        MAKERS[stage](unfinished, work, out, seed)
        unfinished.rename(work / stage)
    ship(stage, work, out)


def make_tokenizer(folder: Path, work: Path, out: Path, seed: int) -> None:
    from runner.builtin.recipe import tokenizer

    tokenizer.make(folder, seed)


def make_autoencoder(folder: Path, work: Path, out: Path, seed: int) -> None:
    from runner.builtin.recipe import autoencoder

    autoencoder.make(folder, seed)


def make_decoder(folder: Path, work: Path, out: Path, seed: int) -> None:
    from runner.builtin.recipe import decoder

    decoder.make(folder, work / "autoencoder", seed)


def make_clip(folder: Path, work: Path, out: Path, seed: int) -> None:
    from runner.builtin.recipe import clip

    clip.make(folder, work / "tokenizer", seed)


def make_shapes(folder: Path, work: Path, out: Path, seed: int) -> None:
    from runner.builtin.recipe import shapes

    shapes.make(folder, work, seed)


def make_second(folder: Path, work: Path, out: Path, seed: int) -> None:
    from runner.builtin.recipe import second

    second.make(folder, work, seed)


def make_emblem(folder: Path, work: Path, out: Path, seed: int) -> None:
    from runner.builtin.recipe import emblem

    emblem.make(folder, out / "shapes", seed)


def ship(stage: str, work: Path, out: Path) -> None:
    """Copy what a stage made into its shipped folder, as fp16."""
    from runner.builtin.recipe import shipping

    if stage == "clip":
        shipping.ship_critic(work, out / "shapes_clip")
    elif stage == "second":
        shipping.ship_base(work, out / "shapes")
    elif stage == "emblem":
        shipping.ship_lora(work, out / "emblem")


MAKERS: dict[str, Callable[[Path, Path, Path, int], None]] = {
    "tokenizer": make_tokenizer,
    "autoencoder": make_autoencoder,
    "decoder": make_decoder,
    "clip": make_clip,
    "shapes": make_shapes,
    "second": make_second,
    "emblem": make_emblem,
}

if __name__ == "__main__":
    main()
