"""Do critic, runtime and stages belong together? Asked without loading anything.

It refuses a critic without a runtime and the other way round, a profile that changed under its version, and a runtime
that cannot do what the profile asks. What it does not know: whether the critic is any good; the exam finds out.
"""

from __future__ import annotations

from collections.abc import Iterator

from runner.config.critic import ClipRuntime, CriticProfile, OpenAIRuntime, TransformersRuntime
from runner.config.tree import Request
from runner.contract import profile as profiles
from runner.contract.critic_files import check_files, check_weights, critic_files, critic_weights
from runner.contract.critic_server import check_server
from runner.contract.profile_rules import check_profile
from runner.contract.rules import Finding
from runner.errors import Fault, Refused

__all__ = ["check_critic", "check_suited", "check_weights", "critic_files", "critic_weights", "findings"]

Runtime = ClipRuntime | TransformersRuntime | OpenAIRuntime

SHIPPED = "critic=shapes critic_runtime=shapes_clip"


def check_critic(request: Request) -> Iterator[Fault]:
    """Every rule about the critic of a request."""
    profile, runtime = request.critic, request.critic_runtime
    yield from _check_together(request)
    if profile is not None:
        yield from _check_pairs(request, profile)
        yield from _check_rules(profile)
    if isinstance(runtime, OpenAIRuntime):
        yield from check_server(runtime)
    if profile is not None and runtime is not None:
        yield from check_suited(profile, runtime)
        if "critique" in request.stages:
            yield from check_files(profile, runtime)


def findings(request: Request) -> Iterator[Finding]:
    """What the contract card shows of an accepted critic."""
    profile = request.critic
    if profile is None:
        return
    locked = profiles.read_lock().state(profile) == "locked"
    name, digest = f"{profile.profile} version {profile.version}", profiles.profile_digest(profile)[:12]
    more = "is in the lock" if locked else f"is not in the lock yet: `{profiles.COMMAND}` adds it"
    yield Finding("critic profile", "agrees" if locked else "cannot tell", f"{name} ({digest}) {more}")


# ---- together or not at all


def _check_together(request: Request) -> Iterator[Fault]:
    """One fault for both: who has neither, or both in vain, says so with one word (critic=none takes both away)."""
    profile, runtime = request.critic, request.critic_runtime
    missing = next((name for name, given in (("critic", profile), ("critic_runtime", runtime)) if given is None), None)
    if "critique" in request.stages and missing:
        fix = f"Choose {SHIPPED}, or stages=[generate]"
        yield Fault("critic_missing", missing, "is none, and stages asks for critique", fix)
    elif "critique" not in request.stages and profile is not None:
        what = f"{profile.profile} would be ignored: stages has no critique"
        yield Fault("setting_ignored", "critic", what, "Choose critic=none, or stages=[generate,critique]")
    elif "critique" not in request.stages and runtime is not None:
        what = f"{runtime.id} would be ignored: stages has no critique"
        yield Fault("setting_ignored", "critic_runtime", what, "Choose critic_runtime=none")


def _check_pairs(request: Request, profile: CriticProfile) -> Iterator[Fault]:
    against = request.critique.against
    if profile.mode == "pairwise" and not against and "critique" in request.stages:
        what = f"is null, and critic {profile.profile} compares pairs"
        fix = "Name two finished runs of the same prompts and seed, critique.images_of=RUN critique.against=RUN"
        yield Fault("missing_value", "critique.against", what, fix)
    if profile.mode == "pointwise" and against:
        what = f"{against} would be ignored: critic {profile.profile} judges one image at a time"
        yield Fault("setting_ignored", "critique.against", what, "Leave it out, or choose critic=pair")


def _check_rules(profile: CriticProfile) -> Iterator[Fault]:
    """A profile that is as its lock says passed its rules when it was locked: they take longer than all the rest."""
    try:
        lock = profiles.read_lock()
    except Refused as refusal:
        yield from (*refusal.faults, *check_profile(profile))
        return
    if lock.state(profile) != "locked":
        yield from (*check_profile(profile), *profiles.check_lock(profile, lock))


# ---- a runtime against a profile


def check_suited(profile: CriticProfile, runtime: Runtime) -> Iterator[Fault]:
    """Whether the runtime can do what the profile asks."""
    if isinstance(runtime, ClipRuntime):
        yield from _check_clip(profile, runtime)
        return
    if runtime.context < profile.requires.min_context:
        what = f"is {runtime.context}; critic {profile.profile} needs {profile.requires.min_context}"
        fix = "Give the runtime more context, or choose another critic"
        yield Fault("critic_unsuited", "critic_runtime.context", what, fix)
    if isinstance(runtime, OpenAIRuntime):
        yield from _check_request(profile, runtime)


def _check_clip(profile: CriticProfile, runtime: ClipRuntime) -> Iterator[Fault]:
    where, fix = "critic_runtime", "Choose a runtime with a language model, or critic=shapes"
    if profile.mode == "pairwise":
        what = f"{runtime.id} is an embedding model, which scores one image at a time; {profile.profile} compares pairs"
        yield Fault("critic_unsuited", where, what, fix)
    elif silent := [criterion.id for criterion in profile.criteria if criterion.clip is None]:
        what = f"{runtime.id} is an embedding model; {profile.profile} does not say how one answers {', '.join(silent)}"
        yield Fault("critic_unsuited", where, what, fix)
    if profile.retrieval.num_examples:
        what = f"{profile.retrieval.num_examples} would be ignored: {runtime.id} is an embedding model"
        yield Fault("setting_ignored", "critic.retrieval.num_examples", what, "Set critic.retrieval.source=none")
    yield from _check_room(profile, runtime)


def _check_room(profile: CriticProfile, runtime: ClipRuntime) -> Iterator[Fault]:
    """What an embedding model finds: one thing for each criterion, and never where."""
    asked = sum(criterion.clip is not None for criterion in profile.criteria)
    if profile.evidence.boxes == "required":
        what = f"is required; {runtime.id} is an embedding model, which does not know where"
        yield Fault("critic_unsuited", "critic.evidence.boxes", what, "Set it to optional or none")
    if profile.evidence.max_items is not None and profile.evidence.max_items < asked:
        what = f"is {profile.evidence.max_items}; {runtime.id} may need one for each of {asked} criteria"
        yield Fault("critic_unsuited", "critic.evidence.max_items", what, f"Set it to {asked} or more")


def _check_request(profile: CriticProfile, runtime: OpenAIRuntime) -> Iterator[Fault]:
    judged = 2 if profile.mode == "pairwise" else 1
    images = judged + profile.retrieval.num_examples
    if images > runtime.max_images:
        what = f"is {runtime.max_images}; critic {profile.profile} sends {judged} and "
        what += f"{profile.retrieval.num_examples} of examples"
        fix = f"Set it to {images} (and the server's own limit), or lower critic.retrieval.num_examples"
        yield Fault("critic_unsuited", "critic_runtime.max_images", what, fix)
    if profile.sampling.thinking and not runtime.thinking_switch:
        what = "true would be ignored: critic_runtime.thinking_switch is false, so the server is not told"
        yield Fault("setting_ignored", "critic.sampling.thinking", what, "Set critic_runtime.thinking_switch=true")
