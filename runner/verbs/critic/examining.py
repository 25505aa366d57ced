"""`critic exam`: a request's critic, loaded under the device's lease as a run would, examined, and let go of.

It records nothing: its verdicts are worth nothing to a run, which examines anew. What it does not know: what the
checks are; that is `runner.critic`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runner import gpu, store
from runner.config import Request
from runner.contract.critic import check_critic, check_weights
from runner.contract.critic_server import server_mib
from runner.errors import Refused
from runner.timing import Clock
from runner.verbs.critic.runtime import device_name, named
from runner.verbs.show import table
from runner.worker import Bench

ROLE = "critic"
OF_A_RUN = ("critique.images_of", "critique.against")  # what is judged: nothing of it is asked for in an exam


def exam(request: Request, outputs: Path) -> dict[str, Any]:
    """Who answers, and how it did. Raises Refused for what a run would refuse, and what loading raises."""
    from runner import critic

    if faults := [*(f for f in check_critic(request) if f.where not in OF_A_RUN), *check_weights(request)]:
        raise Refused(faults)
    needs = gpu.Needs(device_name(request), server_mib(request.critic_runtime), "declared", ROLE)
    me, wait = gpu.this_process("", ROLE), request.hardware.wait
    events: list[dict[str, Any]] = []
    bench = Bench(
        request=request, facts=None, store=store.open_store(outputs, None), clock=Clock(), device=needs.device,
        images={}, note=lambda event, **facts: events.append({"event": event, **facts}), status=_say,
    )  # fmt: skip
    with gpu.lease(needs, me, wait=wait, on_wait=lambda holder: _say(f"waiting: {holder['reason']}")):
        identity, taken = critic.examine(bench)
    told = [event for event in events if event["event"] != "exam"]
    return {**named(request), "identity": identity, "passed": taken.passed, "exam": taken.as_dict(), "events": told}


def _say(status: str, role: str = "") -> None:
    print(f"{status} {role}".rstrip(), file=sys.stderr, flush=True)


def text(value: Mapping[str, Any]) -> str:
    """For a person: who answered, and every check with what was found."""
    rows = [
        [check["name"], "passed" if check["passed"] else "FAILED", check["what"]] for check in value["exam"]["checks"]
    ]
    identity = [[name, str(said)] for name, said in value["identity"].items()]
    how = "passed its exam" if value["passed"] else "failed its exam, no run would use its scores,"
    end = f"{value['runtime']} {how} under {value['profile']} version {value['version']}."
    return "\n".join([table(["what answers", "is"], identity), table(["check", "", "what was found"], rows), end])
