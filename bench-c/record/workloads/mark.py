# SPDX-License-Identifier: MIT OR Apache-2.0
"""A mark from inside a recorded Python program."""

import os


def mark(label):
    """Ask for a snapshot and wait until it is taken."""
    with open(os.environ["RMAP_MARK"], "w") as request:
        request.write(label + "\n")
    with open(os.environ["RMAP_ACK"]) as ack:
        reply = ack.readline()
    if reply != "ok %s\n" % label:
        raise SystemExit("mark: " + reply)
