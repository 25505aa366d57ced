"""Many questions at once, one verdict after the other as they come; what was begun is ended when somebody stops us.

The backend says how many it takes at once. With one, it is asked on this thread. What it does not know: what is done
with a verdict.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

from runner.critic.question import Backend

Task = TypeVar("Task")
Done = TypeVar("Done")
WAKE_S = 0.2  # how long a signal may have to wait


def as_they_come(
    tasks: Sequence[Task], ask: Callable[[Task], Done], backend: Backend, stop: threading.Event,
    beat: Callable[[], None],
) -> Generator[tuple[Task, Done]]:  # fmt: skip
    """Every task with what became of it, in the order in which they end. `beat` is called while we wait.

    Closing it sets `stop`, ends what is in flight and waits for that.
    """
    if backend.concurrency == 1 or len(tasks) == 1:
        for task in tasks:
            yield task, ask(task)
            beat()
        return
    pool = ThreadPoolExecutor(backend.concurrency, thread_name_prefix="critic")
    waiting: dict[Future[Done], Task] = {}
    try:
        waiting.update({pool.submit(ask, task): task for task in tasks})
        while waiting:
            ended, _ = wait(waiting, timeout=WAKE_S, return_when=FIRST_COMPLETED)
            beat()
            for future in ended:
                yield waiting.pop(future), future.result()
    finally:  # also when the reader stops reading: nothing goes on behind its back
        stop.set()
        if waiting:
            for future in waiting:
                future.cancel()
            backend.cancel()
            while wait(waiting, timeout=WAKE_S).not_done:  # a thread may have been on its way to ask
                backend.cancel()
        pool.shutdown(wait=True, cancel_futures=True)
