"""Hypothesis without time limits: other work on the machine must not fail a test. Ctrl-C also where it is ignored: a shell in
the background has it so, the programs that tests start would inherit that, and some tests end them by it."""

import signal

from hypothesis import settings

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
