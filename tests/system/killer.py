"""kill -9, again and again, while it is checked who died."""

import os
import random
import signal
import threading
import time

from harness import HarnessError, wait_for


class Killer:
    """Kills workers of a cluster and checks that nobody else dies."""

    def __init__(self, cluster, seed=0):
        self.cluster = cluster
        self.random = random.Random(seed)
        self.kills = 0
        self.known = self.all_pids()
        self.thread = None
        self.stopping = threading.Event()
        self.failure = None

    def all_pids(self):
        """Pids of all workers, when each has one."""
        def complete():
            pids = self.cluster.pids()
            return pids if all(pids.values()) else None
        return wait_for(complete, "a process for every worker")

    def check(self, killed=()):
        """Only `killed` may have another pid than before."""
        pids = self.all_pids()
        changed = [w for w in pids
                   if pids[w] != self.known[w] and w not in killed]
        if changed:
            raise HarnessError("worker(s) %s died that nobody killed" %
                               ", ".join(str(w) for w in changed))
        self.known = pids
        return pids

    def kill(self, *workers):
        """All of these at once."""
        pids = self.check()
        for worker in workers:
            try:
                os.kill(pids[worker], signal.SIGKILL)
            except ProcessLookupError:
                raise HarnessError("worker %d had died already" % worker) \
                    from None
            self.kills += 1

        def replaced():
            now = self.cluster.pids()
            return all(now[w] not in (0, pids[w]) for w in workers)
        wait_for(replaced, "new processes for %s" % (workers,), step=0.002)
        self.check(killed=workers)

    def kill_random(self, count=1):
        workers = self.random.sample(sorted(self.known), count)
        self.kill(*workers)
        return workers

    def kill_while_recovering(self, worker, times=3):
        """Again as soon as the new process exists, at varying moments."""
        for _ in range(times):
            self.kill(worker)
            time.sleep(self.random.choice((0, 0.01, 0.03, 0.06, 0.1, 0.2)))
        self.kill(worker)

    def run(self, seconds, every=0.3):
        """A random worker every 300 ms."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self.stopping.is_set():
            begun = time.monotonic()
            self.kill_random()
            self.stopping.wait(max(0, begun + every - time.monotonic()))

    def start(self, seconds, every=0.3):
        """The same in a thread."""
        def work():
            try:
                self.run(seconds, every)
            except Exception as error:	# shown by join()
                self.failure = error
        self.thread = threading.Thread(target=work, daemon=True)
        self.thread.start()
        return self

    def join(self):
        self.thread.join()
        if self.failure:
            raise self.failure
