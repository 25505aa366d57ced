"""Hydra's basic sweeper, but one bad job refuses the whole sweep with the faults of all, and the exit code is true."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser

GRAVEST = (130, 4, 3, 1, 2)  # interrupted, corrupt, failed, unavailable, refused


class CheckedSweeper(BasicSweeper):  # type: ignore[misc]  # hydra ships no types for its plugins
    """Checks all jobs, runs them in order, and ends with the gravest exit code of any job."""

    def sweep(self, arguments: list[str]) -> list[Any]:
        from runner import store

        loader = self.hydra_context.config_loader
        overrides = OverridesParser.create(config_loader=loader).parse_overrides([*self._parse_config(), *arguments])
        jobs = [job for batch in self.split_arguments(overrides, None) for job in batch]
        name = f"sweep-{store.digest_of(arguments)[:10]}"
        jobs = [[*job, f"sweep={name}"] for job in jobs]
        self._refuse_bad_jobs(jobs)
        codes = [result.return_value for result in self.launcher.launch(jobs, initial_job_idx=0)]
        if any(codes):
            raise SystemExit(next(code for code in GRAVEST if code in codes))
        return codes

    def _refuse_bad_jobs(self, jobs: Sequence[Sequence[str]]) -> None:
        """Raise Refused with the faults of every job, each under the job's own overrides."""
        from runner import config, contract, execute
        from runner.errors import Fault, Refused

        faults: list[Fault] = []
        for number, job in enumerate(jobs):
            try:
                with config.translated():
                    values = config.plain(self.hydra_context.config_loader.load_sweep_config(self.config, list(job)))
                accepted = contract.check(config.parse_request(contract.take_parties(values)))
                execute.accept(accepted, contract.pin(accepted))
            except Refused as refusal:
                where = f"job {number} [{' '.join(job[:-1])}]"
                faults += [Fault(f.code, f"{where} {f.where}", f.what, f.fix, f.evidence) for f in refusal.faults]
        if faults:
            raise Refused(faults)
