"""The tokenizer: byte-level BPE in CLIP's form, learned from the world's captions.

The vocabulary holds every byte, every byte at a word's end, the learned merges and the two special
tokens, so any text can be written. The LoRA's trigger is not a token: it is "<", "emblem" and ">".
"""

import json
import random
from pathlib import Path
from typing import Any

from runner.builtin import captions, world

MAX_LENGTH = 77
NUM_CAPTIONS = 20_000
EXTRA_WORDS = ("emblem",)
END_OF_WORD = "</w>"


def make(folder: Path, seed: int) -> None:
    """Write the tokenizer folder: what from_pretrained reads, and CLIP's vocab.json and merges.txt."""
    from transformers import CLIPTokenizer

    merges = learn_merges(corpus(seed))
    vocabulary = lay_out(merges)
    tokenizer: Any = CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=MAX_LENGTH)
    tokenizer.save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False) + "\n")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n")


def corpus(seed: int) -> list[str]:
    rng = random.Random(seed)
    texts = [captions.caption(world.sample_scene(rng), rng).text for _ in range(NUM_CAPTIONS)]
    return texts + [word for word in EXTRA_WORDS for _ in range(500)]


def learn_merges(texts: list[str]) -> list[tuple[str, str]]:
    """The merges of a byte-level BPE trained on lower-cased words split as CLIP splits them."""
    from tokenizers import Tokenizer, models, trainers
    from transformers import CLIPTokenizer

    clip: Any = CLIPTokenizer().backend_tokenizer
    learner = Tokenizer(models.BPE(end_of_word_suffix=END_OF_WORD))
    learner.normalizer, learner.pre_tokenizer = clip.normalizer, clip.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=2000, min_frequency=50, end_of_word_suffix=END_OF_WORD, show_progress=False
    )
    learner.train_from_iterator(texts, trainer)
    model = json.loads(learner.to_str())["model"]
    pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"])
    return [(first, second) for first, second in pairs]


def lay_out(merges: list[tuple[str, str]]) -> dict[str, int]:
    """CLIP's order: 256 bytes, 256 bytes at a word's end, the merges, the two special tokens."""
    from tokenizers import pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = alphabet + [letter + END_OF_WORD for letter in alphabet]
    tokens += [first + second for first, second in merges]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    return {token: i for i, token in enumerate(dict.fromkeys(tokens))}


def load(folder: Path) -> Any:
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(folder)


class TokenIds:
    """Token ids of texts, padded to the limit and remembered."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.known: dict[str, list[int]] = {}

    def of(self, texts: list[str]) -> Any:
        """(n, 77) int64."""
        import torch

        return torch.tensor([self.one(text) for text in texts])

    def one(self, text: str) -> list[int]:
        if text not in self.known:
            encoded = self.tokenizer(text, padding="max_length", max_length=MAX_LENGTH, truncation=True)
            self.known[text] = encoded.input_ids
        return self.known[text]
