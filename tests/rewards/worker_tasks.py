"""Tasks that the tests run in worker processes."""

import ctypes
import os
import sys
import time


def work(kind, argument=None):
    match kind:
        case "echo":
            return argument
        case "sleep":
            time.sleep(argument)
            return argument
        case "spin":  # in C, with the interpreter locked: no signal handler would run
            return 7 ** (7 ** (7**7)) > 0
        case "raise":
            raise ValueError(argument)
        case "exit":
            sys.exit(argument)
        case "die":
            os._exit(argument)
        case "fault":
            return ctypes.string_at(0)
        case "allocate":
            return len(bytearray(argument))
        case "print":
            os.write(1, b"LEAK")
            print("LEAK", file=sys.stderr)
            return sys.stdin.read()
        case "pids":
            return [os.getppid(), os.getpid()]
        case "text":
            return "a" * argument
        case "object":
            return object()
    raise AssertionError(kind)
