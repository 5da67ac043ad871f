"""SIGINT and SIGTERM, held back until the step that is being computed is kept."""

import signal
import threading

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Signals:
    """Holds SIGINT and SIGTERM back; the first one is in `caught` and is raised at the end, a
    second one of its kind does what it did before.

    What is ignored stays ignored, and outside the main thread, where handlers cannot be set,
    nothing is held back.
    """

    def __init__(self):
        self.caught = None
        self._previous = {}

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                previous = signal.getsignal(number)
                # None: a handler that is not Python's.
                if previous not in (None, signal.SIG_IGN):
                    self._previous[number] = previous
                    signal.signal(number, self._hold)
        return self

    def __exit__(self, kind, *_):
        for number, previous in self._previous.items():
            signal.signal(number, previous)
        if kind is None and self.caught == signal.SIGINT:
            raise KeyboardInterrupt
        if kind is None and self.caught is not None:
            raise SystemExit(128 + self.caught)

    def _hold(self, number, _):
        signal.signal(number, self._previous[number])
        self.caught = number
