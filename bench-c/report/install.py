# SPDX-License-Identifier: MIT OR Apache-2.0
"""Finds matplotlib, or installs it."""

import importlib
import os
import shutil
import subprocess
import sys

DEBIAN_PYTHON = "/usr/bin/python3"
RESTARTED = "RMAP_REPORT_RESTARTED"


class Missing(Exception):
    """It is not here and cannot be had; the text says what was tried."""


def importable():
    importlib.invalidate_caches()
    try:
        importlib.import_module("matplotlib.figure")
    except ImportError:
        return False
    return True


def succeeds(*command):
    """Whether a command can be run and says that all went well."""
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    except OSError:
        return False
    return done.returncode == 0


def by_pip(folder):
    """Into a folder of the build, complete or not at all."""
    unfinished = "%s.%d" % (folder, os.getpid())
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"]
    if succeeds(*pip, "--target", unfinished, "matplotlib>=3.6,<4"):
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(unfinished, folder)
    shutil.rmtree(unfinished, ignore_errors=True)
    return importable()


def by_apt():
    """Debian's. It belongs to Debian's own Python, which may be another than this one: then that one starts again."""
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        return False
    install = ("apt-get", "install", "-y", "-q", "python3-matplotlib")
    if not succeeds(*install) and not (succeeds("apt-get", "update", "-q") and succeeds(*install)):
        return False
    if importable():
        return True
    if RESTARTED not in os.environ and succeeds(DEBIAN_PYTHON, "-c", "import matplotlib"):
        os.environ[RESTARTED] = "1"
        os.execv(DEBIAN_PYTHON, [DEBIAN_PYTHON, "-B", *sys.argv])
    return False


def find_matplotlib(build):
    """Makes `import matplotlib` work, by installing it into a folder of `build` if need be."""
    os.makedirs(build, exist_ok=True)
    folder = os.path.join(os.path.abspath(build), "python-%d.%d" % sys.version_info[:2])
    os.environ.setdefault("MPLCONFIGDIR", os.path.join(os.path.abspath(build), "matplotlib"))
    sys.path.append(folder)
    if importable():
        return
    print("report: matplotlib is missing, installing it", file=sys.stderr, flush=True)
    if not by_pip(folder) and not by_apt():
        raise Missing("matplotlib is missing. Neither pip (into %s) nor apt-get (as root) could install it; "
                      "install it by hand: python3 -m pip install matplotlib" % folder)
