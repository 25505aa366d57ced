"""A CLIPModel folder as a critic: zero-shot choices against the prompt, and nearness to reference pictures.

A choice scores the softmax probability of what the prompt asked for among the labels of the profile; a reference scores
the cosine with the mean of the reference pictures. Source of the scaling: CLIP (https://arxiv.org/abs/2103.00020),
whose learned temperature the model carries. It writes the same JSON as a language model has to, so that it is read and
checked by the same code. It refuses pictures that do not decode. What it does not know: where in a picture something
is, and anything that no label of the profile names.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runner import contract
from runner.config.critic import ClipQuestion, ClipRuntime, Criterion, CriticProfile
from runner.contract.folders import weights_digest
from runner.contract.machine import is_out_of_memory
from runner.critic import request
from runner.critic.question import Attempt, Picture, Question, Reply, Unanswered
from runner.errors import Failed, Fault, first_line
from runner.plan import PromptPlan
from runner.worker import Bench, settle

SURE, FAIR = 0.5, 0.2  # how far what was asked lies from what it is told apart from: high, medium confidence
NOT_WRITTEN = re.compile(r"[^ !#-\[\]-~]")  # an answer's texts are plain ASCII without quotes and backslashes


@dataclass(frozen=True, slots=True)
class Likeness:
    """What the model makes of one criterion on one image."""

    criterion: Criterion
    clip: ClipQuestion
    share: float  # 0 to 1, what becomes the score
    what: str
    margin: float


@dataclass(slots=True)
class ClipCritic:
    """A loaded model with every text and reference of its profile embedded once."""

    model: Any = field(repr=False)
    processor: Any = field(repr=False)
    embedded: Mapping[str, Any] = field(repr=False)  # criterion id -> unit vectors: one a label, or one of references
    profile: CriticProfile = field(repr=False)
    identity: Mapping[str, Any]
    device: str
    continuous: bool = True
    structured: bool = True
    concurrency: int = 1
    num_cancels: int = 0

    def ask(self, question: Question, attempt: Attempt) -> Reply:  # noqa: ARG002  # nothing is sampled
        """The answer as JSON text, all similarities beside it. Raises Unanswered."""
        assert question.profile.criteria == self.profile.criteria, "what was embedded is another profile's"
        if self.model is None:
            raise Unanswered("runtime_down", "the model was released")
        num_cancels = self.num_cancels
        vector = self._embedded_picture(question.images[0])
        if self.num_cancels != num_cancels:
            raise Unanswered("cancelled", "was stopped")
        temperature = float(self.model.logit_scale.detach().exp())
        similar = {name: (vectors @ vector).tolist() for name, vectors in self.embedded.items()}
        found = [likeness(c, similar[c.id], temperature, question.prompt) for c in question.profile.criteria if c.clip]
        told = {one.criterion.id: one for one in found if one is not None}
        raw = {"temperature": round(temperature, 6), "similarities": _named(question.profile, similar, told)}
        return Reply(json.dumps(answer(question.profile, told)), raw=raw)

    def _embedded_picture(self, picture: Picture) -> Any:
        from PIL import Image

        image = Image.open(io.BytesIO(request.seen(picture, self.profile.shown).png))
        try:
            return _embed_images(self.model, self.processor, [image], self.device)[0]
        except Exception as error:  # each backend of torch says it in its own way
            if is_out_of_memory(error):
                raise Unanswered("oom", f"out of memory: {first_line(error)}") from error
            raise

    def cancel(self) -> None:
        """An ask in flight raises Unanswered(cancelled) as soon as its one forward pass is over."""
        self.num_cancels += 1

    def close(self) -> None:
        """Let go of the model."""
        self.cancel()
        self.model = self.processor = None
        self.embedded = {}


# ---- loading


def load_clip(bench: Bench) -> ClipCritic:
    """Load the runtime's model folder and embed the profile's labels and references. Raises Failed(load)."""
    runtime, profile = bench.request.critic_runtime, bench.request.critic
    assert isinstance(runtime, ClipRuntime)
    assert profile is not None
    folder = contract.locate(runtime.path or "")
    assert folder is not None
    with bench.clock.phase("load_critic"):
        import torch
        import transformers

        settle()
        model, tokenizer, processor = _load_folder(folder)
        model.eval().to(bench.device)
        embedded = {
            criterion.id: _embed_question(criterion.clip, model, tokenizer, processor, bench.device)
            for criterion in profile.criteria
            if criterion.clip
        }
    identity = {
        "backend": "clip",
        "weights": weights_digest(folder),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    return ClipCritic(model, processor, embedded, profile, identity, bench.device)


def _load_folder(folder: Path) -> tuple[Any, Any, Any]:
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    try:
        model, told = transformers.CLIPModel.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, output_loading_info=True
        )
        tokenizer = transformers.CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        processor = transformers.CLIPImageProcessorPil.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # transformers and safetensors raise a dozen kinds here
        if is_out_of_memory(error):
            raise
        raise _not_loaded("load_failed", f"{folder} does not load as a CLIP model: {first_line(error)}") from error
    if missing := sorted(told["missing_keys"]):  # filled with chance, and only a warning says so
        raise _not_loaded("weights_missing", f"{folder} has no weights for {len(missing)} tensors (first {missing[0]})")
    return model, tokenizer, processor


def _not_loaded(code: str, what: str) -> Failed:
    return Failed("load", Fault(code, "critic_runtime.path", what, "Get its files again"))


def _embed_question(clip: ClipQuestion, model: Any, tokenizer: Any, processor: Any, device: str) -> Any:
    if clip.kind == "choice":
        return _embed_texts(model, tokenizer, [clip.template.format(label=name) for name in clip.labels], device)
    folder = contract.locate(clip.references or "")
    assert folder is not None
    vectors = _embed_images(model, processor, _pictures(folder), device)
    return _unit(vectors.mean(0, keepdim=True))


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


# ---- from similarities to an answer


def asked_label(clip: ClipQuestion, prompt: PromptPlan) -> str | None:
    """The one label that the prompt asks for; None when it names none or several.

    Looked for in the question's section; in a prompt without that section only the question's own phrase
    counts, so that the blue of "a blue background" is not taken for the colour of a shape.
    """
    section = prompt.sections.get(clip.section)
    text, phrase = (prompt.text, clip.template) if section is None else (section, "{label}")
    named = [n for n in clip.labels if re.search(rf"\b{re.escape(phrase.format(label=n))}\b", text, re.I)]
    return named[0] if len(named) == 1 else None


def likeness(
    criterion: Criterion, similarities: Sequence[float], temperature: float, prompt: PromptPlan
) -> Likeness | None:
    """What the similarities say of a criterion; None when it does not concern this prompt."""
    assert criterion.clip is not None
    if criterion.clip.kind == "choice":
        return _likeness_of_choice(criterion, criterion.clip, similarities, temperature, prompt)
    if criterion.clip.when == "trigger" and not prompt.triggered:
        return None
    share = max(0.0, similarities[0])
    what = f"likeness to the reference pictures {share:.2f}"
    return Likeness(criterion, criterion.clip, share, what, abs(share - criterion.evidence_below))


def _likeness_of_choice(
    criterion: Criterion, clip: ClipQuestion, similarities: Sequence[float], temperature: float, prompt: PromptPlan
) -> Likeness | None:
    asked = asked_label(clip, prompt)
    if asked is None:
        return None
    shares = dict(zip(clip.labels, _softmax(similarities, temperature), strict=True))
    share = shares.pop(asked)
    other = max(shares, key=lambda name: shares[name], default=asked)
    rival = shares.get(other, 0.0)
    wanted, shown = (clip.template.format(label=name) for name in (asked, other))
    what = f"asked for {wanted} ({share:.2f}); next is {shown} ({rival:.2f})"
    if rival > share:
        what = f"asked for {wanted}; most like {shown} ({rival:.2f} against {share:.2f})"
    return Likeness(criterion, clip, share, what, abs(share - rival))


def _softmax(similarities: Sequence[float], temperature: float) -> list[float]:
    from math import exp

    top = max(similarities)
    weights = [exp(temperature * (value - top)) for value in similarities]
    return [weight / sum(weights) for weight in weights]


def answer(profile: CriticProfile, told: Mapping[str, Likeness]) -> dict[str, Any]:
    """The answer in the words of the profile's schema; a criterion that was not seen has a null score."""
    low = [one for one in told.values() if _score(profile, one) < one.criterion.evidence_below]
    cited = {one.criterion.id: f"e{number}" for number, one in enumerate(low, start=1)}
    return {
        "evidence": [_finding(profile, one, cited[one.criterion.id]) for one in low],
        "criteria": {c.id: _judged(profile, told.get(c.id), cited.get(c.id)) for c in profile.criteria},
        "confidence": _confidence([one.margin for one in told.values()]),
    }


def _finding(profile: CriticProfile, one: Likeness, name: str) -> dict[str, Any]:
    severity = next(tag.severity for tag in profile.tags if tag.id == one.clip.tag)
    box = {} if profile.evidence.boxes == "none" else {"box": None}
    return {"id": name, "tag": one.clip.tag, "what": _written(profile, one.what), **box, "severity": severity}


def _judged(profile: CriticProfile, one: Likeness | None, cited: str | None) -> dict[str, Any]:
    if one is None:
        return {"evidence": [], "reason": _written(profile, "the prompt does not ask for it"), "score": None}
    reason = _written(profile, one.what)
    return {"evidence": [cited] if cited else [], "reason": reason, "score": _score(profile, one)}


def _score(profile: CriticProfile, one: Likeness) -> float:
    scale = profile.scale
    return round(scale.min + one.share * (scale.max - scale.min), 6)


def _written(profile: CriticProfile, text: str) -> str:
    """The text as the schema allows it: plain ASCII, and no longer than a finding may be."""
    return NOT_WRITTEN.sub("?", text)[: profile.evidence.max_chars]


def _confidence(margins: Sequence[float]) -> str:
    lowest = min(margins, default=0.0)
    return "high" if lowest >= SURE else "medium" if lowest >= FAIR else "low"


def _named(
    profile: CriticProfile, similar: Mapping[str, Sequence[float]], told: Mapping[str, Likeness]
) -> dict[str, dict[str, float]]:
    """The similarities of the criteria that were judged, by label, or under `references`."""
    labels = {c.id: c.clip.labels or ("references",) for c in profile.criteria if c.clip}
    return {n: {la: round(v, 6) for la, v in zip(labels[n], similar[n], strict=True)} for n in told}
