# SPDX-License-Identifier: MIT OR Apache-2.0
"""Where anon_vma is not ahead, and why: shown only where a result says so."""

from dataclasses import dataclass, replace

from ratios import apart, worsening
from theme import KERNEL

OURS = "anon_vma"

# By engine: what holds in every case.
OF_ENGINE = {
    "flat": "flat is a floor, not a design: a dense array for each frame, no lock, no regions, nothing that keeps alive what a walk "
            "meets, no argument checked, one thread. It shows what no reverse map can go below.",
    "kernel": "The kernel's figures are of its own C code, called directly and compiled in user space, on a quiet machine and in another "
              "session. Ours pay for the C boundary and its checks, and for whatever else this machine did; dropped samples and the "
              "spread tell how much that was.",
    "pv_list": "pv_list has an exact list for each frame and nothing else: it knows no regions, keeps nothing alive, counts nothing, and "
               "checks no argument. Under librmap each page that is mapped, copied or unmapped is a checked call through the C boundary "
               "that keeps references and map counts.",
    "pte_chain": "A chain of PTEs is exact: all that is on a page's chain maps it. What it saves a walk it pays at every fault, fork and "
                 "exit, and in memory for each mapping.",
    "objrmap": "One anon_vma for the whole family is less to keep than one for each process. What it costs shows where the family is "
               "large and its pages are not shared: fan_out.",
    "full_scan": "full_scan keeps a list of all VMAs, and nothing for pages: nothing is cheaper than what it does not do. It pays in every walk.",
}

# By case and engine: what matters there; what OF_ENGINE says is told once, for all cases.
OF_CASE = {
    ("walk_n", "pv_list"):
        "A short list lies in the cache and is followed from one mapping to the next, while anon_vma takes the family's lock and searches "
        "an interval tree for each walk. With check=pte, librmap calls the embedder to lock, load and unlock each page-table entry, and "
        "pv_list looks at the entry without a lock. Without that check, a long list that is scattered in memory is the slower one.",
    ("walk_n", "pte_chain"): "Every VMA here maps the page, so exactness wins no candidates; what is left is a list against a tree.",
    ("walk_n", "objrmap"): "Every VMA of the family maps the page here: a plain list of them all is the shortest way through.",
    ("walk_n", "full_scan"): "Here all address spaces have one region and all of them map the page: there is nothing to look through in vain.",
    ("fan_out", "pv_list"):
        "The parent's page may be mapped by every child, because each inherited its region: anon_vma looks at all of them (the candidates), "
        "an exact list at the one that does. A child's page has one candidate here as there; what is left is the look-up of an anchor.",
    ("fan_out", "pte_chain"):
        "The parent's page may be mapped by every child, because each inherited its region: anon_vma looks at all of them (the candidates), "
        "a chain at the one that does.",
    ("fan_out", "flat"): "It has one entry for the parent's page, where anon_vma has a candidate in every child.",
    ("split_vma", "pte_chain"):
        "A chain does not see that the region was cut: nothing is done for it when regions merge and are cut, where anon_vma moves "
        "three VMAs in a tree of thousands.",
    ("split_vma", "objrmap"):
        "A cut puts a VMA at the end of a list, and a merge takes one out of it; in a tree of thousands its place is searched for. The walk "
        "is what the list pays with: all of its VMAs.",
    ("split_vma", "full_scan"):
        "A cut puts a VMA at the end of a list, and a merge takes one out of it; in a tree of thousands its place is searched for. The walk "
        "is what the list pays with: all of its VMAs.",
    ("fork", "pv_list"):
        "Its cost grows with pages, 16 here, and never with generations; that of anon_vma grows with both, because a region is tied to the "
        "anchors of all before it.",
    ("fork", "flat"): "Its cost grows with pages, 16 here, and never with generations.",
    ("fork", "pte_chain"): "Its cost grows with pages, 16 here, and never with generations.",
    ("fork", "objrmap"): "The copy joins one list, however many generations came before.",
    ("fork", "full_scan"): "The copy joins one list, however many generations came before.",
    ("fork_unlink", "objrmap"): "The copy joins one list, however many generations came before.",
    ("fork_unlink", "full_scan"): "The copy joins one list, however many generations came before.",
    ("fork_unlink", "pte_chain"): "It knows nothing of regions: once the part that regions without pages need too is subtracted, nothing is left.",
    ("prepare_unlink", "pte_chain"): "It has nothing to prepare. What it does not pay here it pays for each mapping.",
    ("prepare_unlink", "full_scan"): "The region joins a list; there is no anchor to make and to give back.",
    ("fork_chain", "objrmap"):
        "No generation leaves anything: all of them have one anon_vma. In a nested family whose ancestors exited, anon_vma ties a new region "
        "to the anchors that they left.",
    ("fork_chain", "full_scan"): "No generation leaves anything, and none is tied to those before.",
    ("fork_chain", "pte_chain"): "A chain knows no ancestors: where many have left their anchors, it has only its pages to copy.",
    ("fork_chain", "pv_list"): "It keeps no trace of ancestors. anon_vma ties a region to the anchors of those that still have pages or "
                               "children, and a nested family leaves them behind.",
    ("fork_chain", "flat"): "It keeps no trace of ancestors.",
    ("fork_chain_anchors", "pv_list"): "Models have no anchors.",
    ("fork_chain_anchors", "flat"): "Models have no anchors.",
    ("fork_chain_bytes", "pv_list"):
        "It holds an entry for each page that is mapped now. In a nested family whose ancestors exit later, anon_vma keeps their anchors "
        "until the last descendant is gone (the bound that holds for parents that exit first does not hold there).",
    ("fork_chain_bytes", "flat"): "It holds an entry for each page that is mapped now; its arrays grow and never shrink.",
    ("exec_shells", "pv_list"):
        "100 regions of 4 pages: a list pays for the pages alone, anon_vma for the pages and for the links of each region.",
    ("exec_shells", "pte_chain"): "Few pages in many regions: the copying of entries, which chains pay for, is small here.",
    ("page_fault", "pv_list"):
        "A fault on a fresh page adds one entry to an empty list, and unmapping finds it at once. Many threads pay for malloc.",
    ("libc_map", "pv_list"):
        "Its file has no tree of regions. librmap puts every VMA into the file's tree under one lock, as the kernel does, and a walk of all "
        "6,000 holds that lock meanwhile; pv_list locks one frame for a moment.",
    ("libc_map", "objrmap"): "Both have the same tree for files: what differs here is the moment, not the design.",
    ("libc_map", "full_scan"): "Both have the same tree for files: what differs here is the moment, not the design.",
    ("page_fault", "objrmap"):
        "A fault in a region that is prepared asks neither for anything; one region in 512 faults is made and given back.",
    ("page_fault", "full_scan"):
        "A fault in a region that is prepared asks neither for anything; one region in 512 faults is made and given back.",
    ("look_up", "kernel"):
        "Each look-up here finds its page by the frame's number and is called through a table, twice across the C boundary; the kernel's "
        "begins at the page. make boundary times the two calls alone.",
    ("walk_vs_fork", "kernel"):
        "The kernel's fork is anon_vma_fork and unlink of one VMA. Here each is of an address space with its table, its page and its region, "
        "and the walk begins at the frame's number.",
    ("look_up", "pv_list"):
        "It locks a mutex in the frame itself and trusts that the frame stays what it is. librmap finds the anchor without a lock, makes sure "
        "that it is still the page's own, and locks the whole family.",
    ("walk_vs_fork", "pv_list"):
        "Forks and walks meet for the moment of one list entry; with anon_vma a walk holds the family's lock for all of its VMAs, so forks wait.",
    ("mixed", "pv_list"): "Most pages have one mapper, as in real trees (single_mapper in the tables): lists of one entry, at which it is best.",
    ("mixed", "pte_chain"): "Most pages have one mapper, as in real trees (single_mapper in the tables): a chain of one is a pointer.",
    ("sizes", "pv_list"):
        "A frame of librmap has a lock, counts and flags that a list lacks. The VMA here has one page, and each forked region four: the list "
        "pays again for each page more, anon_vma does not.",
    ("sizes", "full_scan"): "It keeps a list of VMAs, and nothing else but the frame itself.",
    ("sizes", "pte_chain"):
        "A region costs nothing, and the first mapping of a page lies in the frame's own word. It pays from the second mapping on: what that "
        "comes to where many map a page, the traces show.",
    ("sizes", "objrmap"): "A region has one anon_vma and its place in a list. A fork adds no anon_vma and no ties to those of ancestors.",
    ("mremap_move", "objrmap"): "The VMA at the new place joins one list, where anon_vma ties it to its whole chain; moving entries is the same.",
    ("mremap_move", "full_scan"): "The VMA at the new place joins one list, where anon_vma ties it to its whole chain; moving entries is the same.",
    ("mremap_move", "pte_chain"): "The VMA at the new place is tied to nothing, which shows when one page moves. Each page more changes its chain.",
    ("unmap_swap_in", "pte_chain"): "The chain names the entries to change; anon_vma searches for them in the tree first.",
    ("trace_candidates", "pte_chain"): "A chain has one candidate for each mapping, always; regions that may map a page and do not are the "
                                       "price of keeping regions in place of entries.",
    ("trace_bytes", "full_scan"): "It keeps a list of VMAs, and nothing else.",
    ("trace_bytes", "objrmap"): "It has no links from a region to the anchors of ancestors.",
}
CLOSE = 1.01  # nearer than this is neither ahead nor behind
UNKNOWN = "No explanation is kept for this one."


@dataclass
class Behind:
    """A case in which another is ahead of anon_vma in some results."""

    other: str
    text: str
    of: int  # results of both
    behind: int
    clear: int  # of these, whose spreads do not meet
    worst: float
    where: object  # the result that is worst


def kernel_pairs(results):
    """Our results and what the kernel's would be in their place."""
    return [(r, replace(r, engine=KERNEL.name, median=r.kernel, low=r.kernel, high=r.kernel)) for r in results if r.kernel > 0]


def pairs(results):
    """(other, [(ours, theirs)]) of one case, for everyone who has results where we have them."""
    ours = {r.group: r for r in results if r.engine == OURS}
    others = {}
    for r in results:
        if r.engine != OURS and r.group in ours:
            others.setdefault(r.engine, []).append((ours[r.group], r))
    if known := kernel_pairs(ours.values()):
        others[KERNEL.name] = known
    return others


def explanation(case, other):
    """What matters most: why here, else why everywhere."""
    return OF_CASE.get((case, other)) or OF_ENGINE.get(other) or UNKNOWN


def behind(results):
    """Everyone who is ahead of anon_vma somewhere in one case."""
    for other, both in pairs(results).items():
        losses = [(worsening(ours, theirs), ours, apart(ours, theirs)) for ours, theirs in both]
        losses = [loss for loss in losses if loss[0] > CLOSE]
        if losses:
            worst, where, _ = max(losses, key=lambda loss: loss[0])
            yield Behind(other, explanation(where.case, other), len(both), len(losses), sum(loss[2] for loss in losses), worst, where)
