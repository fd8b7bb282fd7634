# SPDX-License-Identifier: MIT OR Apache-2.0
"""What each case is called, where in the report it stands, and what its plots have along their axes."""

from dataclasses import dataclass

SECTIONS = {
    "walks": ("Walks", "From a page to all who map it. A candidate is a VMA that may map the page; a walk looks at all of them."),
    "forks": ("Forks", "What a reverse map asks of fork and exit, which happen far more often than walks."),
    "memory": ("Memory", "Counted, not timed: these figures have no spread. Models count what their structs take, engines what they hold."),
    "threads": ("Threads", "Operations a second of all threads together. Wherever two roles stand, they worked at the same time."),
    "swap": ("Swap and moves", "What reclaim and mremap ask of a reverse map."),
    "traces": ("Traces of real programs", "The work of real process trees, replayed. The spread is that of the replays; one replay has none."),
    "others": ("Other cases", "Cases that this report has no place for yet."),
}
THREADS = "threads"  # the axis that is no parameter


@dataclass(frozen=True)
class Case:
    """x: the parameter along the axis; "" puts each set of parameters on a row of its own."""

    section: str
    title: str
    value: str
    x: str = ""
    x_label: str = ""


def threaded(title, value):
    return Case("threads", title, value, THREADS, "threads")


CASES = {
    "walk_n": Case("walks", "Walk of a page that n address spaces map", "time of a walk", "n", "mappings of the page"),
    "fan_out": Case("walks", "Walk among children that have copied every page", "time of a walk"),
    "split_vma": Case("walks", "A region that mprotect cut into thousands", "time of an operation"),
    "fork": Case("forks", "Fork of a space of 16 pages, and exit of the child", "time of fork and exit", "depth",
                 "generations before it"),
    "fork_unlink": Case("forks", "anon_vma_fork and unlink of one VMA", "time of both", "depth", "generations before it"),
    "fork_chain": Case("forks", "The next fork after a long line of ancestors", "time of a generation", "generations",
                       "generations before it"),
    "prepare_unlink": Case("forks", "anon_vma_prepare and unlink of a fresh VMA", "time of both"),
    "exec_shells": Case("forks", "Fork, ten copy-on-write faults, exit", "time of a child's life"),
    "fork_chain_anchors": Case("memory", "Anchors (anon_vmas) after a long line of forks", "anchors", "generations",
                               "generations before it"),
    "fork_chain_bytes": Case("memory", "Bytes of the reverse map after a long line of forks", "bytes", "generations",
                             "generations before it"),
    "sizes": Case("memory", "Bytes of a frame; bytes that a VMA, a fork and a mapping add", "bytes"),
    "look_up": threaded("Page to locked anchor and back", "look-ups a second"),
    "page_fault": threaded("Faults on fresh pages", "faults a second"),
    "libc_map": threaded("A popular file: map, touch, unmap; walk meanwhile", "operations a second"),
    "walk_vs_fork": threaded("Forks in a family, and walks of its page at once", "operations a second"),
    "mixed": threaded("Walks, mappings and children, mixed as in real trees", "operations a second"),
    "unmap_swap_in": Case("swap", "A page goes to swap and comes back to its sharers", "time of the round trip", "sharers",
                          "sharers"),
    "mremap_move": Case("swap", "A region moves to another address", "time of a move"),
    "trace_replay": Case("traces", "Replay of a whole trace", "time of the replay"),
    "trace_walk_median": Case("traces", "Median walk, over all pages at a mark", "time of a walk"),
    "trace_walk_p99": Case("traces", "99th percentile of the walks at a mark", "time of a walk"),
    "trace_candidates": Case("traces", "Candidates for each mapping found", "candidates for each mapping"),
    "trace_bytes": Case("traces", "Bytes of the reverse map at its peak", "bytes"),
    "trace_rmap_locks": Case("traces", "Locks of the reverse map that a replay takes", "locks taken"),
    "trace_locks": Case("traces", "All locks that a replay takes", "locks taken"),
}


def case_named(name):
    """A case that this file does not know still has its plots."""
    return CASES.get(name) or Case("others", name, "figure")
