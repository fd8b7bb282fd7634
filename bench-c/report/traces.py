# SPDX-License-Identifier: MIT OR Apache-2.0
"""What rmap-bench says of its replays, as figures.

A trace has a list of engines, each with its replay and its marks.
"""

import os
import statistics


def name_of(path):
    """The name of a trace or of a mark's snapshot."""
    name = os.path.basename(path)
    for ending in (".gz", ".mmt", ".snap"):
        name = name.removesuffix(ending)
    return name


def replays(loaded):
    """(trace, engine, figures) for each replay in a file."""
    for trace in loaded["traces"]:
        for replay in trace["engines"]:
            yield name_of(trace["trace"]), replay["engine"], replay


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
    yield "trace_bytes", "B", replay["peak_rmap_bytes"]
    if "locks" in replay:
        yield "trace_rmap_locks", "locks", replay["rmap_locks"]
        yield "trace_locks", "locks", replay["locks"]


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
