"""What the agents of these tests run as a job: `job.py <yard> <test> <attempt>`.

The last part of the test's name says what to do: `pass`, `fail`, `hang`, `gated`: wait for the file
`gate`, or `hang-then-pass`: hang at the first attempt.

Two locks per test are held by the job and by a daemon that it leaves behind in a session of its
own, so they are free when, and only when, nobody of the tree is alive. `alone` is for one tree at a
time: who finds it taken writes `overlap`. `alive` is shared, so that looking at it disturbs nobody.
"""

import fcntl
import os
import signal
import sys
import time

yard, test, attempt = sys.argv[1:]
how = test.rsplit("/", 1)[-1].partition(".")[0]


def note(word):
    line = f"{word} {test} {attempt} {time.monotonic()}\n".encode()
    ledger = os.open(f"{yard}/ledger", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(ledger, line)
    os.close(ledger)


name = test.replace("/", "_")
alive = os.open(f"{yard}/{name}.alive", os.O_WRONLY | os.O_CREAT)
fcntl.flock(alive, fcntl.LOCK_SH)
alone = os.open(f"{yard}/{name}.alone", os.O_WRONLY | os.O_CREAT)
try:
    fcntl.flock(alone, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    note("overlap")
    sys.exit(3)
if os.fork() == 0:
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(600)
    os._exit(0)
note("start")
print(f"{test}: attempt {attempt}", flush=True)
if how == "hang" or (how == "hang-then-pass" and attempt == "1"):
    time.sleep(600)
while how == "gated" and not os.path.exists(f"{yard}/gate"):  # noqa: PTH110 - every import costs a start
    time.sleep(0.01)
note("end")
sys.exit(how == "fail")
