"""The shape of a critic: the profile (what is judged, by which rules) and the runtime (what answers).

A profile decides every score it gives: all of it but the budget is in its digest. A runtime is one of three kinds, and
each has only the settings that it reads.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from runner.config.section import Name, Names, Section, Sha256, Share

Word = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
NumItems = Annotated[int, Field(ge=1, le=64)] | None  # null is refused with a reason: a reply could go on without end
NumChars = Annotated[int, Field(ge=1, le=2000)] | None
NumTokens = Annotated[int, Field(ge=1, le=32768)] | None


class Rule(Section):
    id: Name
    """Stable id that verdicts cite."""
    group: Literal["physical", "prompt"]
    """Whether breaking it is a failure of the picture itself or against its prompt."""
    text: str
    """The rule, as the critic reads it."""


class Tag(Section):
    id: Word
    """Word of the closed vocabulary."""
    rule: Name
    """Rule that is broken where the tag is cited; it gives the tag its group."""
    severity: Literal["note", "minor", "major", "critical"]
    """How bad it is; decides nothing but `decision.critical_rejects`."""
    means: str
    """What has to be seen for the tag to be cited."""


class Anchor(Section):
    score: float
    """One level of the scale."""
    means: str
    """What a picture with this score looks like."""


class ClipQuestion(Section):
    kind: Literal["choice", "reference"]
    """choice: which of the labels the image shows. reference: how near it is to reference pictures."""
    section: str
    """Prompt section in which the asked label is looked for."""
    labels: Names
    """The closed list of answers of a choice."""
    template: str
    """Text that is compared with the image; `{label}` is each label in turn."""
    references: str | None
    """Folder of reference pictures of a reference question."""
    when: Literal["asked", "trigger"]
    """asked: the prompt names one of the labels. trigger: the prompt carries the trigger token."""
    tag: Word
    """Tag that a score under `evidence_below` cites."""


class Criterion(Section):
    id: Word
    """Name of the criterion in verdicts and in MLflow."""
    rules: Annotated[tuple[Name, ...], Field(min_length=1, strict=False)]
    """Ids of the rules that the score answers."""
    question: str
    """What is judged, in words."""
    weight: Annotated[float, Field(gt=0)]
    """Its share in the aggregate."""
    anchors: Annotated[tuple[Anchor, ...], Field(min_length=2, strict=False)]
    """What levels of the scale mean."""
    evidence_below: float
    """A score under this must cite evidence."""
    needed: bool
    """true: an image that cannot be judged on it is recommended to nobody (unsure)."""
    clip: ClipQuestion | None
    """How an embedding model answers it; null where only a language model can."""


class Scale(Section):
    min: float
    """Lowest score."""
    max: float
    """Highest score."""
    levels: Annotated[tuple[float, ...], Field(min_length=2, max_length=21, strict=False)]
    """Scores that a language model may choose from; an embedding model gives any number of the scale."""


class CriticText(Section):
    system: str
    """Jinja template of the part that is the same for every image: `rules`, `criteria`, `tags`, `scale`, `evidence`."""
    user: str
    """Jinja template of the part that follows the image: `prompt` and `sections`, nothing else of how it was made."""
    example: str
    """Jinja template beside a retrieved example: `prompt`, `decision`, `note`."""


class Shown(Section):
    longest_side_px: Annotated[int, Field(ge=32, le=8192)]
    """A larger image is made smaller before it is sent; a smaller one stays."""
    multiple_of_px: Annotated[int, Field(ge=1, le=256)]
    """Both sides of what is sent are multiples of this, as the critic's patches want it."""


class Evidence(Section):
    max_items: NumItems
    """Most findings of a verdict."""
    max_chars: NumChars
    """Most characters of one finding's text, and of one criterion's reason."""
    boxes: Literal["none", "optional", "required"]
    """Whether a finding says where it is seen: left, top, right, bottom in thousandths of the image."""


class Retrieval(Section):
    source: Literal["none", "decisions"]
    """Where examples come from: nowhere, or what humans decided."""
    split: Literal["train", "dev", "test"]
    """Only decisions of this split are shown; calibration uses the others."""
    num_examples: Annotated[int, Field(ge=0, le=8)]
    """How many examples are shown before the image."""
    select: Literal["recent", "balanced"]
    """recent: the last ones. balanced: as many approved as rejected, the last of each."""


class Gate(Section):
    criterion: Word
    """A criterion that rejects by itself."""
    min: float
    """A score under this rejects."""


class Decision(Section):
    aggregate: Literal["weighted_mean", "min", "geometric_mean"]
    """How the scores become one number from 0 to 1."""
    accept_at: Share
    """An aggregate of this or more is recommended."""
    reject_below: Share
    """An aggregate under this is advised against; between the two the advice is `unsure`."""
    gates: Annotated[tuple[Gate, ...], Field(strict=False)]
    """Criteria that reject whatever the aggregate says."""
    critical_rejects: bool
    """Whether one finding with a critical tag rejects."""


class CriticSampling(Section):
    temperature: Annotated[float, Field(ge=0, le=2)]
    """0 takes the likeliest token."""
    top_p: Annotated[float, Field(gt=0, le=1)]
    """Share of the probability that is sampled from."""
    seed: Annotated[int, Field(ge=0, lt=2**31)]
    """Seed of the first attempt; a retry adds one."""
    max_tokens: NumTokens
    """Most tokens of a reply; more is `truncated`."""
    thinking: bool
    """Whether the model may reason before it answers; only the answer counts."""


class Retry(Section):
    max_attempts: Annotated[int, Field(ge=1, le=5)]
    """How often one image is asked about, always with the same schema."""
    more_tokens: Annotated[float, Field(ge=1, le=4)]
    """Factor on max_tokens after a truncated reply."""


class CriticBudget(Section):
    timeout_s: Annotated[float, Field(gt=0)]
    """How long one reply may take."""
    max_seconds: Annotated[float, Field(gt=0)] | None
    """How long one attempt of a run may review; null for no limit. What is left over is made by the next."""
    max_unscored_share: Share
    """A run with a larger share of unscored images fails."""
    max_in_a_row: Annotated[int, Field(ge=1)]
    """So many failures one after another stop the review."""


class Exam(Section):
    criterion: Word
    """The criterion that exam pictures are judged on; it must concern the prompt."""
    good_at_least: float
    """A picture that shows what its prompt asks for must score this."""
    apart_at_least: Annotated[float, Field(gt=0)]
    """By how much a blank or a swapped picture must score less."""
    repeat_within: Annotated[float, Field(ge=0)]
    """How far two scores of the same picture may lie apart."""


class Requires(Section):
    structured_output: Literal["enforced", "any"]
    """enforced: the runtime must be shown to decode under the schema; any: validation afterwards is enough."""
    min_context: Annotated[int, Field(ge=256)]
    """Tokens of context that a request with its reply may need."""


class CriticProfile(Section):
    profile: Name
    """Name of the profile."""
    version: Annotated[int, Field(ge=1)]
    """Raised whenever anything but the budget changes; the lock file holds what each version was."""
    mode: Literal["pointwise", "pairwise"]
    """pointwise: one image gets scores. pairwise: of two images of one prompt and seed, which is better."""
    text: CriticText
    """Every word that the critic reads, but for rules and criteria."""
    shown: Shown
    """What the critic sees of an image."""
    scale: Scale
    """The scores there are."""
    rules: Annotated[tuple[Rule, ...], Field(min_length=1, strict=False)]
    """What verdicts cite."""
    tags: Annotated[tuple[Tag, ...], Field(strict=False)]
    """The closed vocabulary of findings."""
    criteria: Annotated[tuple[Criterion, ...], Field(min_length=1, strict=False)]
    """What is judged, in the order of the reply."""
    evidence: Evidence
    """What a score must rest on."""
    retrieval: Retrieval
    """Which past decisions are shown."""
    decision: Decision
    """What the runner makes of the scores; the model is not asked."""
    sampling: CriticSampling
    """How the critic decodes."""
    retry: Retry
    """What happens after a failed attempt."""
    exam: Exam
    """What a critic has to show before it is used."""
    requires: Requires
    """What a runtime must be able to do."""
    budget: CriticBudget
    """When a review stops; no part of the digest."""


# ---- what answers


class ClipRuntime(Section):
    id: Name
    """Name of the runtime in records."""
    backend: Literal["clip"]
    """A CLIPModel folder in this process."""
    path: str | None
    """The model folder: a path, or `builtin:NAME`."""
    sha256: Sha256 | None
    """Expected digest over its weight files; null records the digest found."""


class TransformersRuntime(Section):
    id: Name
    """Name of the runtime in records."""
    backend: Literal["transformers"]
    """A vision-language model in this process; its reply is decoded under the schema."""
    path: str | None
    """The model folder in `from_pretrained` form."""
    sha256: Sha256 | None
    """Expected digest over its weight files; null records the digest found."""
    dtype: Literal["float32", "bfloat16", "float16"]
    """Number format of its weights."""
    context: Annotated[int, Field(ge=256)]
    """Most tokens of a request with its reply."""


class ServerPhase(Section):
    name: Word
    """Name of a part of the start."""
    pattern: str
    """Regular expression; the first line of the server's log that matches begins this phase."""


class ServerMemory(Section):
    weights_mib: Annotated[int, Field(ge=0)]
    """The weights, in MiB."""
    cache_mib: Annotated[int, Field(ge=0)]
    """The KV cache, in MiB."""
    activations_mib: Annotated[int, Field(ge=0)]
    """Activations of the largest image and prompt, in MiB."""
    overhead_mib: Annotated[int, Field(ge=0)]
    """Context, graphs, allocator, in MiB."""


class Server(Section):
    engine: Literal["vllm", "llama_server", "other"]
    """Which program it is; decides how it says its version and how it sleeps."""
    command: Annotated[tuple[str, ...], Field(min_length=1, strict=False)]
    """The words that start it; `{path}`, `{projector}`, `{model}`, `{host}`, `{port}`, `{context}`, `{total_context}` (of all requests at once), `{concurrency}` and `{max_images}` are filled in."""  # noqa: E501  # one line, as every key has
    env: dict[str, str]
    """Variables added to its environment; `{cache}` is a folder that stays between starts. Never a key."""
    key_variable: Name
    """Variable in which the server finds the key that we make for it."""
    host: Annotated[str, Field(pattern=r"^(127\.0\.0\.1|::1|localhost)$")]
    """Loopback: nobody else is served."""
    port: Annotated[int, Field(ge=0, lt=65536)]
    """Where it listens; 0 takes a free one."""
    start_timeout_s: Annotated[float, Field(gt=0)]
    """How long it may take until it answers."""
    stop_timeout_s: Annotated[float, Field(gt=0)]
    """How long it may take to end before it is killed."""
    max_restarts: Annotated[int, Field(ge=0, le=10)]
    """How often a server that died is started again in one attempt of a run."""
    between: Literal["restart", "sleep"]
    """How the device is handed back: by ending the process, or by vLLM's sleep level 1 (started with what it needs)."""
    memory: ServerMemory
    """What it takes of the device."""
    phases: Annotated[tuple[ServerPhase, ...], Field(strict=False)]
    """How its log tells where it is."""


class OpenAIRuntime(Section):
    id: Name
    """Name of the runtime in records."""
    backend: Literal["openai"]
    """A server that speaks OpenAI's chat completions with images."""
    url: Annotated[str, Field(pattern=r"^https?://[^/@\s?#]+(/[^@\s?#]*)?$")] | None
    """Address up to and without `/v1`; null for a server that we start."""
    model: str
    """The name by which the server knows the model."""
    key_env: Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]*$")] | None
    """Environment variable with the key of a server that others run; null sends none."""
    path: str | None
    """Weights of a server that we start: a model folder or a .gguf file. Null for a server that others run."""
    projector: str | None
    """The vision part in a file of its own (llama.cpp's mmproj); null when `path` has it."""
    sha256: Sha256 | None
    """Expected digest over the weight files; null records the digest found."""
    family: str | None
    """Model family, for records."""
    quantization: str | None
    """Number format of the weights, for records."""
    concurrency: Annotated[int, Field(ge=1, le=256)]
    """Requests in flight at once."""
    context: Annotated[int, Field(ge=256)]
    """Most tokens of a request with its reply."""
    max_images: Annotated[int, Field(ge=1, le=64)]
    """Most images of one request."""
    thinking_switch: bool
    """Send `chat_template_kwargs.enable_thinking` with every request (vLLM, llama-server); others refuse the field."""
    stop_repeating: bool
    """Send vLLM's `repetition_detection`; other servers refuse the field."""
    server: Server | None
    """How we start, watch and stop it; null for a server that others run."""


CriticRuntime = Annotated[ClipRuntime | TransformersRuntime | OpenAIRuntime, Field(discriminator="backend")]
