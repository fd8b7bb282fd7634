# SPDX-License-Identifier: MIT OR Apache-2.0
"""What rmap-bench says of its replays, as figures.

A trace is replayed under one engine, and says so or means librmap's default; or it has a list of engines, each with what is its own.
"""

import os
import statistics

DEFAULT_ENGINE = "anon_vma"
PEAKS = ("peak_rmap_bytes", "rmap_bytes_peak", "rmap_bytes")


def name_of(path):
    """The name of a trace or of a mark's snapshot."""
    name = os.path.basename(path)
    for ending in (".gz", ".mmt", ".snap"):
        name = name.removesuffix(ending)
    return name


def engines_of(trace):
    """(engine, figures) for each engine that replayed a trace."""
    entries = trace.get("engines")
    if not isinstance(entries, list):
        return [(trace.get("engine", DEFAULT_ENGINE), trace)]
    common = {name: value for name, value in trace.items() if name != "engines"}
    return [(entry.get("engine") or entry["name"], {**common, **entry}) for entry in entries]


def replays(loaded):
    """(trace, engine, figures) for each replay in a file."""
    for trace in loaded["traces"]:
        for engine, replay in engines_of(trace):
            yield name_of(trace["trace"]), engine, replay


def mark_params(trace, mark):
    """A mark is named where it is not the one that its trace is named after."""
    label = name_of(mark["label"])
    return {"trace": trace} if label in ("", trace) else {"trace": trace, "mark": label}


def mark_figures(mark):
    """(case, unit, value) for each figure of a mark."""
    yield "trace_walk_median", "ns", mark["walk_median_ns"]
    yield "trace_walk_p99", "ns", mark["walk_p99_ns"]
    if mark["mappings"]:
        yield "trace_candidates", "candidates", mark["candidates"] / mark["mappings"]


def replay_figures(replay):
    """(case, unit, value) for each figure of a whole replay."""
    yield "trace_replay", "ns", replay["replay_ns"]
    at_marks = [mark["rmap_bytes"] for mark in replay["marks"] if "rmap_bytes" in mark]
    peak = next((replay[name] for name in PEAKS if name in replay), max(at_marks, default=None))
    if peak is not None:
        yield "trace_bytes", "B", peak
    if "lock_acquisitions" in replay:
        yield "trace_locks", "locks", replay["lock_acquisitions"]


def samples(loaded):
    """One value for each figure of a file."""
    values = {}
    for trace, engine, replay in replays(loaded):
        for case, unit, value in replay_figures(replay):
            values[case, (("trace", trace),), engine, unit] = float(value)
        for mark in replay["marks"]:
            params = tuple(mark_params(trace, mark).items())
            for case, unit, value in mark_figures(mark):
                values[case, params, engine, unit] = float(value)
    return values


def merged(runs):
    """The members of a result for each figure: its median, least and greatest over the runs."""
    for identity in dict.fromkeys(identity for run in runs for identity in run):
        case, params, engine, unit = identity
        values = [run[identity] for run in runs if identity in run]
        yield {
            "case": case, "params": dict(params), "engine": engine, "unit": unit, "n": len(values), "ops": len(values),
            "median": statistics.median(values), "low": min(values), "high": max(values),
        }


def wrong_marks(loaded):
    """What is to be said of marks that do not hold."""
    return [
        "%s under %s: mark %s does not hold: %s" % (trace, engine, mark["label"], mark.get("difference") or "no difference named")
        for trace, engine, replay in replays(loaded) for mark in replay["marks"] if not mark.get("holds", True)
    ]
