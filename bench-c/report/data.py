# SPDX-License-Identifier: MIT OR Apache-2.0
"""The JSON of rmap-micro and of rmap-bench, read into one kind of result."""

import json
from dataclasses import dataclass, field

import traces


class Unusable(Exception):
    """A file that is not what it should be; the text says which and why."""


@dataclass(frozen=True)
class Result:
    """One figure of one engine: a median with its spread, or the reason why there is none."""

    case: str
    params: dict
    engine: str
    unit: str
    median: float = 0.0
    low: float = 0.0
    high: float = 0.0
    n: int = 1
    dropped: int = 0
    ops: int = 0
    role: str = ""
    threads: int = 1
    better: str = "lower"
    kernel: float = 0.0
    figures: dict = field(default_factory=dict)
    reason: str = ""  # why the engine cannot do this; "" when it can

    @property
    def key(self):
        """The parameters as rmap-micro's --filter knows them."""
        return " ".join("%s=%s" % item for item in self.params.items())

    @property
    def group(self):
        """What the results of all engines for one piece of work have in common."""
        return (self.case, self.key, self.role, self.threads)

    @property
    def identity(self):
        """What the results of two runs for the same figure have in common."""
        return self.group + (self.engine, self.unit)

    @property
    def timed(self):
        """Whether it was measured by a clock, so that the next run gives another figure."""
        return self.unit in ("ns", "ops/s")


@dataclass
class Data:
    """All that a report or a comparison is made from."""

    version: str = ""
    machine: dict = field(default_factory=dict)
    options: dict = field(default_factory=dict)
    results: list = field(default_factory=list)
    wrong: list = field(default_factory=list)  # marks of traces that do not hold

    @property
    def measured(self):
        return [r for r in self.results if not r.reason]


def micro_result(entry):
    """A result of rmap-micro."""
    common = {name: entry[name] for name in ("case", "params", "engine", "unit", "role", "better")}
    common["threads"] = int(entry["threads"])
    if not entry["supported"]:
        return Result(**common, reason=entry["reason"])
    return Result(
        **common, median=float(entry["median"]), low=float(entry["min"]), high=float(entry["max"]), n=int(entry["n"]),
        dropped=int(entry["dropped"]), ops=int(entry["ops"]), kernel=float(entry.get("kernel", 0)),
        figures=dict(entry["figures"]))


def read_json(path):
    """The object in a file."""
    try:
        with open(path, encoding="utf-8") as file:
            loaded = json.load(file)
    except (OSError, ValueError) as error:
        raise Unusable("%s: %s" % (path, error)) from None
    if not isinstance(loaded, dict):
        raise Unusable("%s: not an object" % path)
    return loaded


def add_micro(data, path, loaded):
    """The file of a run of rmap-micro."""
    if data.options:
        raise Unusable("%s: a second file of rmap-micro; compare.py compares two" % path)
    data.machine, data.options = loaded["machine"], loaded["options"]
    data.version = loaded.get("librmap", "")
    data.results += [micro_result(entry) for entry in loaded["results"]]


def load(paths):
    """One file of rmap-micro at most, and any number of rmap-bench: each of these is a sample of the same figures."""
    data, replays = Data(), []
    for path in paths:
        loaded = read_json(path)
        try:
            if "results" in loaded:
                add_micro(data, path, loaded)
            elif "traces" in loaded:
                data.version = data.version or loaded.get("version", "")
                data.wrong += [text for text in traces.wrong_marks(loaded) if text not in data.wrong]
                replays.append(traces.samples(loaded))
            else:
                raise Unusable("%s: neither rmap-micro's nor rmap-bench's" % path)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise Unusable("%s: not what rmap-micro or rmap-bench writes: %r" % (path, error)) from None
    data.results += [Result(**fields) for fields in traces.merged(replays)]
    if not data.measured:
        raise Unusable("%s: no results" % ", ".join(map(str, paths)))
    return data
