"""The device: whether work fits it, whose turn it is, who holds it, and what it took.

A lease is a file that one process has locked (`flock`) and written its record into. The kernel lets go of the lock
when the process dies, so a lease cannot be left behind, and a live one is never taken, not even a stopped one. Who
wants a device stands in its queue; admission compares numbers; a holder beats and says what it took. What it does
not know: processes that ignore the lease, and hostile ones: every user of the machine may write these files.

The protocol, for other programs. The folder is RUNNER_LEASES, or /tmp/runner-leases; it has mode 0777, its files 0666.
- `DEVICE.json` (`cpu.json`, `cuda-0.json`; cards as nvidia-smi counts them) is the lease. Whoever has an exclusive
  `flock` on it has the device: `flock /tmp/runner-leases/cuda-0.json COMMAND`. Never delete it.
- The holder may write one JSON object into it, in place, through the locked descriptor: format (1), device, pid,
  process_started (seconds since 1970), host, user, run_id, role, need_mib, peak_mib (or null), since and beat (ISO
  times; the beat is renewed every 2 s), child (null, or pid and process_started of the command that works under it),
  command.
  At a clean end it writes null. An unlocked file with an object in it was left by a holder that died.
- `DEVICE.queue/` has one file per waiter, `<20 digits of CLOCK_MONOTONIC nanoseconds>-<pid>.json`, which the waiter has
  locked (and, having locked it, found still in place) and written the same object into. The first one whose lock is
  held may take the lease; one whose lock is free is dead, and whoever locks it may delete it. A waiter that is
  stopped is passed over. A plain `flock` draws no ticket: it is honoured, and may come before those who wait.
"""

from runner.gpu.admission import Admission, Holder, Memory, Needs, admit
from runner.gpu.command import run_under
from runner.gpu.devices import lease_file, lease_folder, queue_folder
from runner.gpu.held import LOCK, POLL_S, Held, alive, is_written, lease, only_writer
from runner.gpu.lockfile import is_held
from runner.gpu.lockfile import read as read_owner
from runner.gpu.memory import memory_of
from runner.gpu.owner import Owner, of_holder, state_of, this_process, who
from runner.gpu.peak import PeakMeter
from runner.gpu.tickets import waiters

__all__ = [
    "LOCK",
    "POLL_S",
    "Admission",
    "Held",
    "Holder",
    "Memory",
    "Needs",
    "Owner",
    "PeakMeter",
    "admit",
    "alive",
    "is_held",
    "is_written",
    "lease",
    "lease_file",
    "lease_folder",
    "memory_of",
    "of_holder",
    "only_writer",
    "queue_folder",
    "read_owner",
    "run_under",
    "state_of",
    "this_process",
    "waiters",
    "who",
]
