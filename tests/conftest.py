"""What every test shares. Hypothesis has no deadlines: a slow machine is no fault of the code. SIGINT is heard by what tests
start, also where a shell has begun them in the background, which has it ignored."""

import signal

from hypothesis import settings

settings.register_profile("default", deadline=None)
settings.load_profile("default")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
