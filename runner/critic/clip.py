"""A CLIPModel folder as a critic: zero-shot choices against the prompt, and nearness to reference pictures.

A choice scores the softmax probability of what the prompt asked for among the labels of the profile; a
reference scores the cosine with the mean of the reference pictures. Source of the scaling: CLIP
(https://arxiv.org/abs/2103.00020), whose learned temperature the model carries.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner import contract
from runner.config.tree import Criterion, CriticProfile
from runner.contract.folders import weights_digest
from runner.contract.machine import is_out_of_memory
from runner.critic.verdict import CriterionScore
from runner.errors import Failed, Fault, first_line
from runner.plan import PromptPlan
from runner.worker import Bench, settle


@dataclass(slots=True)
class ClipCritic:
    """A loaded model with every text and reference of its profile embedded once."""

    model: Any
    processor: Any
    profile: CriticProfile
    profile_digest: str
    identity: dict[str, Any]
    embedded: Mapping[str, Any]  # criterion id -> unit vectors, one row per label, or one row for references
    device: str

    def judge(self, image: Any, prompt: PromptPlan) -> tuple[dict[str, CriterionScore], dict[str, Any]]:
        """Scores of every criterion that applies, and the raw similarities of those that do."""
        vector = _embed_images(self.model, self.processor, [image], self.device)[0]
        temperature = float(self.model.logit_scale.detach().exp())
        scores: dict[str, CriterionScore] = {}
        for criterion in self.profile.criteria:
            similarities = (self.embedded[criterion.id] @ vector).tolist()
            score = _score(criterion, similarities, temperature, prompt)
            if score is not None:
                scores[criterion.id] = score
        return scores, {"temperature": round(temperature, 6)}


def load_clip(bench: Bench) -> ClipCritic:
    """Load the profile's model folder. Raises Failed(load)."""
    profile = bench.request.critic
    with bench.clock.phase("load_critic"):
        import torch
        import transformers

        settle()
        transformers.utils.logging.disable_progress_bar()
        folder = contract.locate(profile.path or "")
        assert folder is not None
        try:
            model, told = transformers.CLIPModel.from_pretrained(
                folder, dtype=torch.float32, local_files_only=True, output_loading_info=True
            )
            tokenizer = transformers.CLIPTokenizer.from_pretrained(folder, local_files_only=True)
            processor = transformers.CLIPImageProcessorPil.from_pretrained(folder, local_files_only=True)
        except Exception as error:  # transformers and safetensors raise a dozen kinds here
            if is_out_of_memory(error):
                raise
            what = f"{folder} does not load as a CLIP model: {first_line(error)}"
            raise Failed("load", Fault("load_failed", "critic.path", what, "Get its files again")) from error
        if missing := sorted(told["missing_keys"]):  # filled with chance, and only a warning says so
            what = f"{folder} has no weights for {len(missing)} tensors (first {missing[0]})"
            raise Failed("load", Fault("weights_missing", "critic.path", what, "Get its files again"))
        model.eval().to(bench.device)
        embedded = {c.id: _embed_criterion(c, model, tokenizer, processor, bench.device) for c in profile.criteria}
    identity = {
        "backend": "clip",
        "weights": weights_digest(folder),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    return ClipCritic(model, processor, profile, contract.profile_digest(profile), identity, embedded, bench.device)


def asked_label(criterion: Criterion, prompt: PromptPlan) -> str | None:
    """The one label that the prompt asks for; None when it names none or several.

    Looked for in the criterion's section; in a prompt without that section only the criterion's own phrase
    counts, so that the blue of "a blue background" is not taken for the colour of a shape.
    """
    section = prompt.sections.get(criterion.section)
    text, phrase = (prompt.text, criterion.template) if section is None else (section, "{label}")
    named = [n for n in criterion.labels if re.search(rf"\b{re.escape(phrase.format(label=n))}\b", text, re.I)]
    return named[0] if len(named) == 1 else None


def _score(
    criterion: Criterion, similarities: Sequence[float], temperature: float, prompt: PromptPlan
) -> CriterionScore | None:
    if criterion.kind == "reference":
        if criterion.when == "trigger" and not prompt.triggered:
            return None
        score, asked, found = max(0.0, similarities[0]), "references", "references"
        evidence = {"references": round(similarities[0], 6)}
    else:
        label = asked_label(criterion, prompt)
        if label is None:
            return None
        evidence = {name: round(value, 6) for name, value in zip(criterion.labels, similarities, strict=True)}
        score = _softmax(similarities, temperature)[criterion.labels.index(label)]
        asked, found = label, max(evidence, key=lambda name: evidence[name])
    return CriterionScore(
        rule=criterion.rule,
        group=criterion.group,
        score=round(score, 6),
        asked=asked,
        found=found,
        similarities=evidence,
        tags=(criterion.tag,) if score < criterion.flag_below else (),
    )


def _softmax(similarities: Sequence[float], temperature: float) -> list[float]:
    from math import exp

    top = max(similarities)
    weights = [exp(temperature * (value - top)) for value in similarities]
    return [weight / sum(weights) for weight in weights]


def _embed_criterion(criterion: Criterion, model: Any, tokenizer: Any, processor: Any, device: str) -> Any:
    if criterion.kind == "reference":
        folder = contract.locate(criterion.references or "")
        assert folder is not None
        vectors = _embed_images(model, processor, _pictures(folder), device)
        return _unit(vectors.mean(0, keepdim=True))
    return _embed_texts(model, tokenizer, [criterion.template.format(label=name) for name in criterion.labels], device)


def _pictures(folder: Path) -> list[Any]:
    from PIL import Image

    return [Image.open(path).convert("RGB") for path in sorted(folder.glob("*.png"))]


def _embed_texts(model: Any, tokenizer: Any, texts: Sequence[str], device: str) -> Any:
    import torch

    with torch.inference_mode():
        inputs = tokenizer(list(texts), padding="max_length", truncation=True, return_tensors="pt").to(device)
        return _unit(_vectors(model.get_text_features(input_ids=inputs.input_ids)))


def _embed_images(model: Any, processor: Any, images: Sequence[Any], device: str) -> Any:
    import torch

    with torch.inference_mode():
        inputs = processor(list(images), return_tensors="pt").to(device)
        return _unit(_vectors(model.get_image_features(pixel_values=inputs.pixel_values)))


def _vectors(output: Any) -> Any:
    """transformers 5 wraps features; older ones return the tensor."""
    return getattr(output, "pooler_output", output)


def _unit(vectors: Any) -> Any:
    return vectors / vectors.norm(dim=-1, keepdim=True)
