"""What every test shares. Hypothesis has no deadlines: a slow machine is no fault of the code. SIGINT and SIGHUP are heard by
what tests start, also where a shell has begun them in the background, or nohup has: these have one of them ignored."""

import signal

from hypothesis import settings

settings.register_profile("default", deadline=None)
settings.load_profile("default")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, lambda *_: None)  # still ignored here, and no longer by what is executed
