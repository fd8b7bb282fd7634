# SPDX-License-Identifier: MIT OR Apache-2.0
"""In which order matplotlib is looked for, and what is said when it cannot be had."""

import os
import pathlib
import subprocess
import sys
import tempfile
import unittest
from unittest import mock

import install

HERE = pathlib.Path(__file__).parent


class Order(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.build = folder.name
        self.addCleanup(setattr, sys, "path", list(sys.path))

    def tried(self, here, pip, apt):
        """What is tried where these three bring it."""
        tried = []

        def attempt(name, result):
            return lambda *_: (tried.append(name), result)[1]

        with mock.patch.multiple(install, importable=attempt("import", here), by_pip=attempt("pip", pip), by_apt=attempt("apt", apt)), \
                mock.patch("sys.stderr"):
            try:
                install.find_matplotlib(self.build)
            except install.Missing as error:
                tried.append(str(error))
        return tried

    def test_what_is_there_is_used(self):
        self.assertEqual(self.tried(True, False, False), ["import"])

    def test_pip_comes_before_apt(self):
        self.assertEqual(self.tried(False, True, False), ["import", "pip"])
        self.assertEqual(self.tried(False, False, True), ["import", "pip", "apt"])

    def test_failure_says_what_to_do(self):
        self.assertIn("python3 -m pip install matplotlib", self.tried(False, False, False)[-1])

    def test_a_failed_pip_leaves_nothing(self):
        folder = os.path.join(self.build, "python")
        with mock.patch.object(install, "succeeds", return_value=False), mock.patch.object(install, "importable", return_value=False):
            self.assertFalse(install.by_pip(folder))
        self.assertEqual(os.listdir(self.build), [])

    def test_the_command_ends_with_2_without_it(self):
        hidden = "import sys, runpy; sys.path.insert(0, %r); import install; install.importable = install.by_pip = install.by_apt = " \
            "lambda *_: False; sys.argv = ['report.py', '--out', %r]; runpy.run_path(%r, run_name='__main__')"
        command = hidden % (str(HERE), os.path.join(self.build, "out"), str(HERE / "report.py"))
        done = subprocess.run([sys.executable, "-B", "-c", command], capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, 2, done.stderr)
        self.assertIn("matplotlib is missing", done.stderr)


if __name__ == "__main__":
    unittest.main()
