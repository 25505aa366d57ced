"""The shape of a request. No field has a default here: every value stands in `conf/`, where a person reads it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from runner.config.critic import CriticProfile, CriticRuntime
from runner.config.section import Name, Names, Section, Sha256


class BaseModelCard(Section):
    id: Name
    """Name of the base model: the name of its card, or the repository name on the hub."""
    family: Name
    """Architecture family: shapes, sd1, sdxl, flux1, flux2 ... A LoRA of another family is refused."""
    pipeline: Name
    """Name of the diffusers pipeline class that the folder must declare in `model_index.json`."""
    path: str | None
    """Folder in `from_pretrained` form: a path, or `builtin:NAME` for a shipped model. Null means not here yet."""
    repository: str | None
    """Repository on the Hugging Face hub that the folder comes from; shown in messages, never downloaded by us."""
    revision: str | None
    """Commit of that repository."""
    sha256: Sha256 | None
    """Expected digest over the weight files; null accepts the files found and records their digest."""
    negative_prompt: bool
    """Whether the pipeline reads a negative prompt at all (FLUX.2 does not)."""


class LoraCard(Section):
    id: Name | None
    """Name of the LoRA; null (lora=none) when there is none."""
    path: str | None
    """The .safetensors file: a path, or `builtin:NAME/FILE` for a shipped one."""
    family: Name | None
    """Family of the base model it was trained on."""
    base: str | None
    """Id of the base model it was trained on."""
    trigger: str | None
    """The token that switches its concept on, exactly as in the training captions."""
    rank: Annotated[int, Field(gt=0)] | None
    """Rank of the decomposition, as the card declares it."""
    alpha: Annotated[float, Field(gt=0)] | None
    """Alpha; the effect is scaled by alpha / rank."""
    scale: Annotated[float, Field(ge=-4, le=4)]
    """Strength at which it is applied; 1 is as trained."""
    scale_range: Annotated[tuple[float, float], Field(strict=False)]
    """Strengths that its author found usable; a scale outside is refused."""
    sha256: Sha256 | None
    """Expected digest of the file; null accepts the file found and records its digest."""
    dataset: str | None
    """Dataset version it was trained on."""
    accept_unknown: str | None
    """A reason to go on although the contract cannot tell whether it fits; recorded in the manifest."""


class Trigger(Section):
    token: Annotated[str, Field(pattern=r"^\S(.*\S)?$")] | None
    """The trigger token that stands in the place of `{trigger}`; null when none is used."""
    mode: Literal["required", "forbidden", "probe"]
    """required: every prompt has it. forbidden: none has it. probe: every prompt is made with and without it."""
    without: str
    """Words in the place of `{trigger}` when a probe leaves the token out."""


class PromptItem(Section):
    id: Name | None
    """Name of the prompt in image keys; null names it by its content."""
    sections: dict[str, str]
    """Named parts of the prompt; they are joined in the order of `prompt.sections`."""


class Budget(Section):
    mode: Literal["explore", "product"]
    """explore: only the limit counts. product: the minimum and the required sections count too."""
    min: Annotated[int, Field(ge=0)]
    """Fewest tokens of a product prompt, without the template."""
    target: Annotated[int, Field(ge=0)]
    """Tokens a product prompt should have; shown beside the count."""
    max: Annotated[int, Field(ge=1)]
    """Most tokens of any prompt, without the template; the encoder's own limit counts as well."""


class Prompt(Section):
    set: Name
    """Name of the prompt set."""
    sections: Names
    """Section names a prompt of this set may have, in the order in which they are joined."""
    required: Names
    """Sections that a product prompt must have."""
    separator: str
    """Text between two sections."""
    overflow: Literal["error", "truncate"]
    """error: a prompt over the limit is refused with the text that would be lost. truncate: the encoder cuts it."""
    budget: Budget
    """Token budget of every prompt of the set."""
    items: Annotated[tuple[str | PromptItem, ...], Field(min_length=1, strict=False)] | None
    """The prompts: a text, or `{id, sections}`; null when `file` has them. `{trigger}` marks the trigger's place."""
    file: str | None
    """A .csv, .jsonl or .txt file of prompts; null when `items` lists them. A run is named by what it holds."""


class Generate(Section):
    width: Annotated[int, Field(ge=8, le=8192, multiple_of=8)]
    """Width of an image in pixels."""
    height: Annotated[int, Field(ge=8, le=8192, multiple_of=8)]
    """Height of an image in pixels."""
    steps: Annotated[int, Field(ge=1, le=1000)]
    """Denoising steps (num_inference_steps)."""
    guidance_scale: Annotated[float, Field(ge=0, le=100)]
    """Classifier-free guidance; 1 or less switches it off for pipelines of the SD and SDXL kind."""
    scheduler: Name | None
    """Name of a diffusers scheduler class; null takes the one that the model folder declares."""
    images_per_prompt: Annotated[int, Field(ge=1, le=100_000)]
    """Images of every prompt, each with a seed of its own."""
    batch_size: Annotated[int, Field(ge=1, le=1024)]
    """Images sampled together; part of an image's identity, because it changes the last bit."""
    negative_prompt: str
    """What the image must not show; refused where the pipeline would ignore it. Empty for none."""


class Critique(Section):
    images_of: Name | None
    """A finished run whose images are reviewed again (stages=[critique]); null reviews the images of this run."""
    against: Name | None
    """A second finished run: a pairwise profile compares its images with those of `images_of`, prompt by prompt."""


class Hardware(Section):
    id: Name
    """Name of the hardware profile."""
    device: Literal["cpu", "cuda", "mps"]
    """Kind of device."""
    index: Annotated[int, Field(ge=0)]
    """Which device of that kind."""
    on_missing: Literal["fail", "cpu"]
    """What to do when the device is not there; a fallback is recorded in manifest, state and MLflow."""
    wait: bool
    """Wait for a device that another run holds (true), or end with exit code 1 (false)."""


class Runtime(Section):
    dtype: Literal["float32", "bfloat16", "float16"]
    """Number format of the weights and activations."""
    offload: Literal["none", "model", "sequential", "group"]
    """How weights move between memory and device."""
    attention: Literal["default", "sdpa", "sliced"]
    """Attention implementation; default leaves the pipeline's own."""
    channels_last: bool
    """Memory format of the convolutions of denoiser and VAE."""
    compile: bool
    """torch.compile of the denoiser."""
    num_threads: Annotated[int, Field(ge=1, le=1024)] | None
    """CPU threads of torch; null leaves torch's own choice, which is recorded."""


class Storage(Section):
    kind: Literal["folder", "s3"]
    """Where objects are kept: below `outputs`, or in a bucket. The first run in an outputs folder decides it."""
    uri: Annotated[str, Field(pattern=r"^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9_.=-]+)*$")] | None
    """Bucket and prefix, `s3://BUCKET/PREFIX`; null for a folder."""
    endpoint: Annotated[str, Field(pattern=r"^https?://[^/@\s?#]+$")] | None
    """Address of a server that speaks S3; null is AWS. Credentials stand in the environment alone."""
    region: Name | None
    """Region of the bucket, such as us-east-1; null for a folder."""
    min_free_mib: Annotated[int, Field(ge=0)]
    """Free disk space in MiB that must be there before a run starts, beside what its images need."""


class Track(Section):
    kind: Literal["mlflow", "none"]
    """Where a run is projected to."""
    uri: str | None
    """Address of an MLflow server; null uses `mlflow.db` (SQLite) in the outputs folder."""
    experiment: str
    """Name of the MLflow experiment."""
    thumbnails: bool
    """Log every image under a stable key for the chart view."""
    timeout_s: Annotated[float, Field(gt=0)]
    """How long the end of a run waits for a tracker that answers; one that does not is known within seconds."""


class Local(Section):
    models: str
    """Where this machine keeps model folders and LoRA files; cards name theirs below it."""


class Run(Section):
    fresh: bool
    """Start a new attempt even if this request was run before."""
    id: Name | None
    """Continue exactly this run; refused when the request is not the one it was made from."""


class Request(Section):
    name: Name
    """Name of the experiment; the first half of the run id."""
    mode: Literal["base", "lora"]
    """What is tested: the base model alone, or the base model with a LoRA. There is no default."""
    stages: Annotated[tuple[Literal["generate", "critique"], ...], Field(min_length=1, strict=False)]
    """What is done, in order."""
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    """Root of every image's seed."""
    until: Literal["contract", "plan", "run"]
    """How far to go: contract and plan write nothing."""
    output: Literal["text", "json"]
    """json ends standard output with one line for a program to read."""
    outputs: Annotated[str, Field(min_length=1)]
    """Root of everything that is written."""
    sweep: str | None
    """Name that the runs of one sweep share in MLflow."""
    local: Local
    """This machine's own paths (conf/local/default.yaml)."""
    base_model: BaseModelCard
    """The diffusion model."""
    lora: LoraCard
    """The adapter."""
    trigger: Trigger
    """The LoRA's token."""
    prompt: Prompt
    """What is asked for."""
    critic: CriticProfile | None
    """What is judged, by which rules; null (critic=none) when nothing is reviewed."""
    critic_runtime: CriticRuntime | None
    """What answers the critic's questions; null (critic_runtime=none) when nothing is reviewed."""
    critique: Critique
    """Which images are reviewed."""
    generate: Generate
    """How images are made."""
    hardware: Hardware
    """On which device."""
    runtime: Runtime
    """How the device is used."""
    storage: Storage
    """Where bytes go."""
    track: Track
    """Where a run is shown."""
    run: Run
    """Which attempt this is."""
