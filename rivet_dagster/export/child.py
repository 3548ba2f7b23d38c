"""A worker process: exports the windows that come on standard input, one at a time. Started by `processes`."""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from typing import IO

from rivet_dagster._memory import import_arrow
from rivet_dagster.errors import InterruptedExport, RivetError
from rivet_dagster.export.plan import Window
from rivet_dagster.export.processes import CANCEL, Setup, read_frame, write_frame
from rivet_dagster.export.reading import Cancellable, Retry
from rivet_dagster.export.warm import warm_kernels
from rivet_dagster.export.window import dropped
from rivet_dagster.export.workers import SessionWorker, WindowOutcome
from rivet_dagster.sources import open_source
from rivet_dagster.stores import open_store

# After the parent's end: as long as asking a server to end a statement may take.
_LAST_SECONDS = 3.0


class _Control:
    """What the parent says, as the worker asks for it."""

    def __init__(self, tell: Callable[[object], None]) -> None:
        self.tell = tell
        self.stop = threading.Event()
        self._running: Cancellable | None = None

    def stopped(self) -> bool:
        return self.stop.is_set()

    def pause(self, seconds: float) -> None:
        self.stop.wait(seconds)

    def register(self, running: Cancellable) -> None:
        self._running = running

    def forget(self, _: Cancellable) -> None:
        self._running = None

    def retried(self, retry: Retry) -> None:
        self.tell(retry)

    def cancel(self) -> None:
        self.stop.set()
        running = self._running
        if running is not None:
            running.cancel()


def main() -> None:
    """Serve the parent until it closes the pipe."""
    # Ctrl-C is for the parent, which says what is to be done.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever is printed must not stand among the answers
    requests = sys.stdin.buffer
    setup: Setup = read_frame(requests)
    control = _Control(lambda said: write_frame(answers, said))
    windows: queue.Queue[Window | str | None] = queue.Queue()
    threading.Thread(target=_listen, args=(requests, control, windows), daemon=True).start()
    import_arrow()
    source = open_source(setup.address, setup.limits, setup.config.type_choices)
    warm_kernels(source, setup.config.format.type)
    worker = SessionWorker(source, setup.job(open_store(setup.folder)), control)
    while (window := windows.get()) is not None:
        if isinstance(window, str):
            worker.rest()
        else:
            write_frame(answers, _answer(worker, window, control))
    worker.disconnect()


def _listen(requests: IO[bytes], control: _Control, windows: queue.Queue[Window | str | None]) -> None:
    try:
        while True:
            said = read_frame(requests)
            if said == CANCEL:
                control.cancel()
            else:
                windows.put(said)
    except EOFError:
        windows.put(None)
        # The parent is gone, or wants this process to end: pipes end with whoever holds them, however that dies.
        # Nobody waits for the window that is being read, if one is.
        timer = threading.Timer(_LAST_SECONDS, os._exit, (1,))
        timer.daemon = True
        timer.start()
        control.cancel()


def _answer(worker: SessionWorker, window: Window, control: _Control) -> WindowOutcome | Exception:
    try:
        return worker.export(window)
    except RivetError as exc:
        if control.stopped() and not isinstance(exc, InterruptedExport):
            # Also a cancelled statement, which the server reports like one that took too long.
            return dropped(window)
        return exc
    except Exception:  # noqa: BLE001 (a defect in one window must be reported, not end the process)
        return dropped(window) if control.stopped() else RuntimeError(traceback.format_exc())


if __name__ == "__main__":
    main()
