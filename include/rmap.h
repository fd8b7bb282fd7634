/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * rmap.h: librmap, reverse mapping as a library. Given a page frame, who maps it, while threads map, fork, split, move
 * and unmap; and acting on the answer. Generated from rmap-ffi; do not edit.
 *
 * The program owns address spaces, regions and page tables. It tells librmap of them and lends it functions on its page
 * tables (struct rmap_pte_ops); librmap keeps the reverse map, and finds and changes entries through those functions.
 *
 * STATUS CODES. A function that answers RMAP_OK has done it and has written its outputs; else it has changed nothing
 * and written nothing. The codes that each function may return are in its documentation, the general ones at enum
 * rmap_status. Nothing here calls malloc, throws, or ends the process for want of memory. If the shared library
 * is loaded by dlopen, the C library may allocate its thread-locals, once in each thread that comes here.
 *
 * HANDLES. NULL and misaligned handles are refused. A descriptor of another context and a VMA of another address space
 * are refused by comparison (RMAP_ERR_FOREIGN), a lock that is needed and that nobody holds by a look at it
 * (RMAP_ERR_LOCK). A library built with the feature `checked`, or with debug assertions, also keeps a generation in the
 * upper 16 bits of the handles of address spaces, files and VMAs, and refuses stale ones (RMAP_ERR_STALE) as long as
 * their context lives; its handles are not addresses. Without it a stale handle is undefined behaviour.
 * rmap_version_string says which one is running.
 *
 * LOCKS, outermost first. A thread takes a lock only while it holds none from the same line or below, but as noted.
 *
 *   mmap_lock                    rmap_mm_read_lock, rmap_mm_write_lock; two: the parent's, then the child's (_nested)
 *     page lock                  rmap_page_lock; two: the lower frame number, then the higher (_nested)
 *       page cache               inside rmap_file_*
 *         i_mmap_rwsem           inside walks, changes of layout, rmap_vma_move_lock
 *           anon_vma root        the same, and rmap_page_lock_anon_vma_read
 *             page-table lock    the program's, behind rmap_pte_ops.lock; two: the lower address or the parent's first
 *
 * Locks are unlocked by the thread that locked them. Whoever holds a page lock never waits for an mmap_lock.
 *
 * REFERENCES. A mapping owns a reference to its page: the program gives it one when it counts the mapping, and has it
 * back when it uncounts it; rmap_try_to_unmap puts the references of the mappings that it takes away.
 *
 * THE LIFE OF A PAGE.
 *
 *   rmap_page_claim            the frame is handed out, with one reference
 *   rmap_page_add_new_anon     first mapping: the page belongs to the VMA's anon_vma          or rmap_file_add_page
 *   rmap_page_dup, _remove     mappings come and go; the page still belongs to it, as a hint
 *   rmap_page_put              the last reference is gone: the frame is the caller's alone
 *   rmap_page_release          the descriptor is that of a free frame
 */


#ifndef RMAP_H
#define RMAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The version of this header, to be compared with rmap_version(). */
#define RMAP_VERSION (RMAP_VERSION_MAJOR * 65536u + RMAP_VERSION_MINOR * 256u + RMAP_VERSION_PATCH)


/**
 * The version of this header: major.
 */
#define RMAP_VERSION_MAJOR 0

/**
 * The version of this header: minor. Before 1.0, a change of it may break programs.
 */
#define RMAP_VERSION_MINOR 1

/**
 * The version of this header: patch.
 */
#define RMAP_VERSION_PATCH 0

/**
 * Bytes in a page.
 */
#define RMAP_PAGE_SIZE 4096

/**
 * log2 of `RMAP_PAGE_SIZE`.
 */
#define RMAP_PAGE_SHIFT 12

/**
 * Writes do not fault.
 */
#define RMAP_PTE_WRITE 1

/**
 * Was accessed since the bit was last cleared.
 */
#define RMAP_PTE_YOUNG 2

/**
 * Was written since the bit was last cleared.
 */
#define RMAP_PTE_DIRTY 4

/**
 * Soft-dirty.
 */
#define RMAP_PTE_SOFT_DIRTY 8

/**
 * One entry maps a whole compound page; `pfn` is the frame at the very address that was asked for.
 */
#define RMAP_PTE_LARGE 16

/**
 * Of a swap or migration entry: the page was anon-exclusive.
 */
#define RMAP_PTE_EXCLUSIVE 256

/**
 * Bytes of a page descriptor.
 */
#define RMAP_PAGE_DESC_SIZE 64

/**
 * What page descriptors are aligned to.
 */
#define RMAP_PAGE_DESC_ALIGN 64

/**
 * Page flag: locked (rmap_page_lock).
 */
#define RMAP_PG_LOCKED 1

/**
 * Page flag: somebody waits for the page lock.
 */
#define RMAP_PG_WAITERS 2

/**
 * Page flag: mapped by one address space alone, which may write without a copy.
 */
#define RMAP_PG_ANON_EXCLUSIVE 4

/**
 * Page flag: goes to swap, not to a file.
 */
#define RMAP_PG_SWAP_BACKED 8

/**
 * Page flag: differs from what stands in swap or in the file.
 */
#define RMAP_PG_DIRTY 16

/**
 * Page flag: was used.
 */
#define RMAP_PG_REFERENCED 32

/**
 * Page flag: its contents are valid.
 */
#define RMAP_PG_UPTODATE 64

/**
 * Page flag: a VMA with RMAP_VM_LOCKED maps it.
 */
#define RMAP_PG_MLOCKED 128

/**
 * Page flag: in the swap cache, `private` is its slot.
 */
#define RMAP_PG_SWAP_CACHE 2048

/**
 * Page flag: its memory is broken.
 */
#define RMAP_PG_HWPOISON 4096

/**
 * Page flag: being written back.
 */
#define RMAP_PG_WRITEBACK 8192

/**
 * Page flag: never freed, never counted.
 */
#define RMAP_PG_RESERVED 16384

/**
 * Page flag: lazily freed, clean contents may be dropped.
 */
#define RMAP_PG_LAZY_FREE 32768

/**
 * VMA flag: may be read.
 */
#define RMAP_VM_READ 1

/**
 * VMA flag: may be written.
 */
#define RMAP_VM_WRITE 2

/**
 * VMA flag: may be executed.
 */
#define RMAP_VM_EXEC 4

/**
 * VMA flag: changes are seen by every mapper. Needs a file; shared anonymous memory is a file without a name.
 */
#define RMAP_VM_SHARED 8

/**
 * VMA flag: protection may be changed to READ.
 */
#define RMAP_VM_MAYREAD 16

/**
 * VMA flag: protection may be changed to WRITE.
 */
#define RMAP_VM_MAYWRITE 32

/**
 * VMA flag: protection may be changed to EXEC.
 */
#define RMAP_VM_MAYEXEC 64

/**
 * VMA flag: pages are not to be unmapped by rmap_try_to_unmap.
 */
#define RMAP_VM_LOCKED 8192

/**
 * VMA flag: never merged.
 */
#define RMAP_VM_SPECIAL 16384

/**
 * VMA flag: not for the child of a fork; the program leaves the VMA out.
 */
#define RMAP_VM_DONTFORK 131072

/**
 * VMA flag: never merged, never grown.
 */
#define RMAP_VM_DONTEXPAND 262144

/**
 * VMA flag: the child of a fork gets the region empty.
 */
#define RMAP_VM_WIPEONFORK 33554432

/**
 * VMA flag: equal pages may be merged.
 */
#define RMAP_VM_MERGEABLE 2147483648

/**
 * As `pgoff` of an anonymous VMA: its virtual page number, as the kernel has it.
 */
#define RMAP_PGOFF_VPN 18446744073709551615ull

/**
 * Walk flag: do not wait for the anon_vma's or the file's lock.
 */
#define RMAP_WALK_TRY 1

/**
 * Unmap flag: take each page-table lock, so that an unmapping under way elsewhere is waited for.
 */
#define RMAP_TTU_SYNC 1

/**
 * Unmap flag: unmap from VMAs with RMAP_VM_LOCKED too.
 */
#define RMAP_TTU_IGNORE_MLOCK 2

/**
 * Unmap flag: clear entries without a flush, then flush each VMA's range once.
 */
#define RMAP_TTU_BATCH_FLUSH 4

/**
 * Unmap flag: the page's memory is broken; leave a marker of value 1.
 */
#define RMAP_TTU_HWPOISON 8

/**
 * Contents of frames: each has RMAP_PAGE_SIZE bytes, taken from the allocator when it is first handed out.
 */
#define RMAP_CONTENTS_REAL 0

/**
 * Contents of frames: none. Reads give zero and writes vanish; everything else is as with contents.
 */
#define RMAP_CONTENTS_METADATA 1

/**
 * Where swapped pages go: to the file swap_path, or a temporary file.
 */
#define RMAP_SWAP_FILE 0

/**
 * Where swapped pages go: to memory of the allocator.
 */
#define RMAP_SWAP_MEMORY 1

/**
 * Where swapped pages go: nowhere, they have no contents. With RMAP_CONTENTS_METADATA only.
 */
#define RMAP_SWAP_NOWHERE 2

/**
 * An access: a load.
 */
#define RMAP_ACCESS_READ 0

/**
 * An access: a store.
 */
#define RMAP_ACCESS_WRITE 1

/**
 * An access: the fetch of an instruction.
 */
#define RMAP_ACCESS_EXEC 2

/**
 * Map flag: changes are seen by every mapper. Exactly one of SHARED and PRIVATE is set.
 */
#define RMAP_MAP_SHARED 1

/**
 * Map flag: changes are the address space's own.
 */
#define RMAP_MAP_PRIVATE 2

/**
 * Map flag: at this address, in place of what is there.
 */
#define RMAP_MAP_FIXED 4

/**
 * Map flag: at this address, if nothing is there.
 */
#define RMAP_MAP_FIXED_NOREPLACE 8

/**
 * Map flag: pages are faulted in at once.
 */
#define RMAP_MAP_POPULATE 16

/**
 * Map flag: a stack, which grows down when it is touched below. Private memory without a file only.
 */
#define RMAP_MAP_GROWSDOWN 32

/**
 * Map flag: as rmap_machine_mlock.
 */
#define RMAP_MAP_LOCKED 64

/**
 * Map flag: device-like, never merged, never locked.
 */
#define RMAP_MAP_SPECIAL 128

/**
 * Map flag: missing pages call the region's function `missing`.
 */
#define RMAP_MAP_UFFD_MISSING 256

/**
 * Map flag: the file is open for reading only: shared and writable is refused, now and later.
 */
#define RMAP_MAP_READ_ONLY_FILE 512

/**
 * Mremap flag: the range may move. Linux's number, as are all of these.
 */
#define RMAP_MREMAP_MAYMOVE 1

/**
 * Mremap flag: it moves to new_addr, in place of what is there. With MAYMOVE only.
 */
#define RMAP_MREMAP_FIXED 2

/**
 * Mremap flag: it moves, and leaves an empty range of the same kind. With MAYMOVE only.
 */
#define RMAP_MREMAP_DONTUNMAP 4

/**
 * What a function answers. Values never change their meaning; programs treat unknown ones as errors.
 *
 * A function that returns anything but `RMAP_OK` has changed nothing and has written no output, except where its own
 * documentation says otherwise. Every function may return `RMAP_ERR_NULL`, `RMAP_ERR_INVAL` for a misaligned handle,
 * `RMAP_ERR_STALE` and `RMAP_ERR_INTERNAL`; these are not repeated.
 */
enum rmap_status {
    /**
     * Done.
     */
    RMAP_OK = 0,
    /**
     * Out of memory.
     */
    RMAP_ERR_NOMEM = 1,
    /**
     * An argument is malformed: unaligned, empty, overflowing, outside the VMA, or a contradiction of flags.
     */
    RMAP_ERR_INVAL = 2,
    /**
     * Nothing is mapped at the address, or the page is not mapped.
     */
    RMAP_ERR_NOT_MAPPED = 3,
    /**
     * The range, offset or frame is occupied.
     */
    RMAP_ERR_EXISTS = 4,
    /**
     * The VMA forbids the access.
     */
    RMAP_ERR_ACCESS = 5,
    /**
     * Nothing stands behind the address: past the end of a file.
     */
    RMAP_ERR_BUS = 6,
    /**
     * The object is still linked or in use.
     */
    RMAP_ERR_BUSY = 7,
    /**
     * The object belongs to another address space or context.
     */
    RMAP_ERR_FOREIGN = 8,
    /**
     * The address space is being torn down.
     */
    RMAP_ERR_UNSTABLE = 9,
    /**
     * No free range of that size, or a limit is reached.
     */
    RMAP_ERR_NOSPACE = 10,
    /**
     * Reading or writing a file failed.
     */
    RMAP_ERR_IO = 11,
    /**
     * The handle names something that is gone. Detected by builds with the feature `checked` or with debug assertions,
     * and by others only where it costs nothing: elsewhere a stale handle is undefined behaviour.
     */
    RMAP_ERR_STALE = 12,
    /**
     * A lock is held by another thread, and the caller asked not to wait.
     */
    RMAP_ERR_AGAIN = 13,
    /**
     * Not defined for this object, or not known to this version.
     */
    RMAP_ERR_NOT_SUPPORTED = 14,
    /**
     * A pointer that must not be NULL is.
     */
    RMAP_ERR_NULL = 15,
    /**
     * A lock that the function needs is not held, or one that it must not meet is.
     */
    RMAP_ERR_LOCK = 16,
    /**
     * A bug in librmap: it panicked. The panic stopped at this boundary; what the function was about is undefined,
     * locks that it took are released.
     */
    RMAP_ERR_INTERNAL = 17,
};

/**
 * How a walk ended.
 */
enum rmap_walk_end {
    /**
     * Every candidate was visited.
     */
    RMAP_WALK_COMPLETE = 0,
    /**
     * `rmap_one` or `done` ended it.
     */
    RMAP_WALK_STOPPED = 1,
    /**
     * The page is not mapped, or belongs to nobody: nobody was visited.
     */
    RMAP_WALK_UNMAPPED = 2,
};

/**
 * Kinds of page-table entries: `rmap_pte.kind`.
 */
enum rmap_pte_kind {
    /**
     * Nothing is mapped.
     */
    RMAP_PTE_NONE = 0,
    /**
     * A page is mapped and counted: `pfn`, and `flags` of WRITE, YOUNG, DIRTY, SOFT_DIRTY, LARGE.
     */
    RMAP_PTE_PRESENT = 1,
    /**
     * A frame that is not counted and has no reverse map, such as the zero page: `pfn`.
     */
    RMAP_PTE_SPECIAL = 2,
    /**
     * The page is in swap: `value` is the slot, `flags` may have EXCLUSIVE.
     */
    RMAP_PTE_SWAP = 3,
    /**
     * The page is being moved: `pfn`, and `flags` of WRITE, YOUNG, DIRTY, EXCLUSIVE.
     */
    RMAP_PTE_MIGRATION = 4,
    /**
     * Neither mapped nor empty: `value` is the table owner's; 1 stands for broken memory.
     */
    RMAP_PTE_MARKER = 5,
    /**
     * There is no table that could hold an entry for the address.
     */
    RMAP_PTE_NO_TABLE = 6,
};

/**
 * How the candidates of a page are found: `rmap_config.engine`.
 */
enum rmap_engine {
    /**
     * An anon_vma per process and region, tied to VMAs by interval trees: Linux 2.6.34 to today.
     */
    RMAP_ENGINE_ANON_VMA = 1,
    /**
     * An anon_vma per region, which its whole fork family shares, with a list of VMAs: Linux 2.6.7 to 2.6.33.
     */
    RMAP_ENGINE_OBJRMAP = 2,
    /**
     * Each page carries the list of all its mappings, pages of files too: Linux 2.5. Whoever maps pages with it
     * reserves before (rmap_reserve).
     */
    RMAP_ENGINE_PTE_CHAIN = 3,
    /**
     * No reverse map: every VMA of every address space is looked at. Linux before 2.5.
     */
    RMAP_ENGINE_FULL_SCAN = 4,
};

/**
 * What one page-table entry maps: `level` of the functions that count mappings.
 */
enum rmap_level {
    /**
     * One page.
     */
    RMAP_LEVEL_PAGE = 0,
    /**
     * A whole compound page, by one entry at its head's address.
     */
    RMAP_LEVEL_ENTIRE = 1,
};

/**
 * What anonymous pages point to (the kernel's `anon_vma`).
 */
struct rmap_anon_vma;

/**
 * A context: one set of page frames and the address spaces over them. Contexts share nothing.
 */
struct rmap_ctx;

/**
 * A file as memory management sees it (the kernel's `address_space`).
 */
struct rmap_file;

/**
 * A machine: page frames, and a memory manager with its address spaces over them. Machines share nothing.
 */
struct rmap_machine;

/**
 * A file, or shared memory, of a machine.
 */
struct rmap_machine_file;

/**
 * An address space of a machine.
 */
struct rmap_machine_mm;

/**
 * An address space (the kernel's `mm_struct`).
 */
struct rmap_mm;

/**
 * The descriptor of a page frame (the kernel's `struct page`).
 */
struct rmap_page;

/**
 * A replay that stands still at a mark.
 */
struct rmap_replay_state;

/**
 * A region of an address space (the kernel's `vm_area_struct`).
 */
struct rmap_vma;

/**
 * Where a context gets its metadata from. Both functions are called from any thread, at once, and stay callable until
 * `rmap_free` has returned `RMAP_OK`.
 *
 * Context of both: mmap_lock may be held, and in `alloc` the locks that the calling function was given; never a
 * page-table lock, an anon_vma root or an i_mmap_rwsem that librmap took (G8). They may not call back into librmap,
 * throw, or jump out.
 */
struct rmap_allocator {
    /**
     * Returns `size` bytes aligned to `align` (a power of two), or NULL.
     */
    void *(*alloc)(void *arg, size_t size, size_t align);
    /**
     * Takes back what `alloc` returned for this size and alignment.
     */
    void (*free)(void *arg, void *memory, size_t size, size_t align);
    /**
     * Passed to both.
     */
    void *arg;
};

/**
 * How a context is made. Fill it with `rmap_config_init`, then change what should be different.
 */
struct rmap_config {
    /**
     * The size of this struct, as the program knows it. Later versions append members; a program that knows fewer gets
     * the defaults for the rest.
     */
    size_t size;
    /**
     * One of `enum rmap_engine`.
     */
    uint32_t engine;
    /**
     * Must be 0.
     */
    uint32_t flags;
    /**
     * Both functions, or both NULL for librmap's own memory (mapped from the system, never malloc).
     */
    struct rmap_allocator allocator;
};

/**
 * Figures of a context, each of its own moment while other threads work.
 */
struct rmap_stats {
    /**
     * The size of this struct, as the program knows it: set it before the call.
     */
    size_t size;
    /**
     * Address spaces.
     */
    uint64_t mms;
    /**
     * Files.
     */
    uint64_t files;
    /**
     * VMAs, those that wait for a grace period included.
     */
    uint64_t vmas;
    /**
     * anon_vmas.
     */
    uint64_t anon_vmas;
    /**
     * Small pages mapped anonymously, each counted once (NR_ANON_MAPPED).
     */
    uint64_t anon_mapped;
    /**
     * Compound pages mapped by one entry, each counted once (NR_ANON_THPS).
     */
    uint64_t anon_large;
    /**
     * Small pages of files that are mapped (NR_FILE_MAPPED).
     */
    uint64_t file_mapped;
    /**
     * Bytes of metadata taken from the allocator.
     */
    uint64_t bytes;
    /**
     * Of these, bytes of anon_vmas and interval-tree nodes in use.
     */
    uint64_t engine_bytes;
};

/**
 * A page-table entry, decoded. How entries are encoded is the business of whoever owns the tables.
 */
struct rmap_pte {
    /**
     * One of `enum rmap_pte_kind`.
     */
    uint32_t kind;
    /**
     * Bits of `RMAP_PTE_*`, as the kind says.
     */
    uint32_t flags;
    /**
     * The frame, as the kind says; else 0.
     */
    uint64_t pfn;
    /**
     * The swap slot or marker, as the kind says; else 0.
     */
    uint64_t value;
};

/**
 * An embedder's page tables. `table` is what was given to `rmap_mm_new`.
 *
 * Context of every function: any thread, with any of librmap's locks held; `load` and `flush` with or without the
 * table's lock, the others under it. They are the innermost locks: no function may call back into librmap, wait for a
 * thread that does, throw, or jump out (G8). Set `size` to the size of the struct. Functions marked optional may be
 * NULL.
 */
struct rmap_pte_ops {
    /**
     * The size of this struct, as the program knows it.
     */
    size_t size;
    /**
     * Stores the entry of `addr` at this moment into `pte`. Called without the lock too: one entry must not tear.
     */
    void (*load)(void *table, uint64_t addr, struct rmap_pte *pte);
    /**
     * Locks the table with the entry of `addr` and returns true; returns false when there is no such table. Stores a
     * `cookie` for `unlock`. `nested`: a table is locked by this thread already, of a lower address or of the parent
     * in fork.
     */
    bool (*lock)(void *table, uint64_t addr, bool nested, void **cookie);
    /**
     * Unlocks what `lock` locked.
     */
    void (*unlock)(void *table, void *cookie);
    /**
     * Installs an entry. Lock held.
     */
    void (*set)(void *table, uint64_t addr, const struct rmap_pte *pte);
    /**
     * Empties the entry and stores what it was, dirty and young bits included, into `old`. No translation of it is in
     * use any more when this returns. Lock held.
     */
    void (*clear_flush)(void *table, uint64_t addr, struct rmap_pte *old);
    /**
     * Optional. As `clear_flush`, but translations may linger until `flush`. Lock held. Without it: `clear_flush`.
     */
    void (*clear)(void *table, uint64_t addr, struct rmap_pte *old);
    /**
     * Optional, needed by `clear`. Makes stale translations of the range impossible.
     */
    void (*flush)(void *table, uint64_t start, uint64_t end);
    /**
     * Optional. Clears the young bit of a present entry and returns whether it was set. Lock held. Without it: `load`
     * and `set`.
     */
    bool (*test_and_clear_young)(void *table, uint64_t addr);
    /**
     * Optional. Takes the write and dirty bits of a present entry and returns whether either was set. Lock held.
     * Without it: `load` and `set`.
     */
    bool (*mkclean)(void *table, uint64_t addr);
    /**
     * Optional. Takes the write bit of a present entry. Lock held. Without it: `load` and `set`.
     */
    void (*wrprotect)(void *table, uint64_t addr);
};

/**
 * A VMA, looked at.
 */
struct rmap_vma_info {
    /**
     * First byte.
     */
    uint64_t start;
    /**
     * First byte after it.
     */
    uint64_t end;
    /**
     * The page offset of its first page.
     */
    uint64_t pgoff;
    /**
     * Bits of `RMAP_VM_*`, and the program's own.
     */
    uint64_t flags;
    /**
     * Its address space.
     */
    struct rmap_mm *mm;
    /**
     * The file that it maps; NULL: none.
     */
    struct rmap_file *file;
    /**
     * The program's pointer.
     */
    void *private_data;
};

/**
 * A locked anon_vma. The program gives the memory; the members are librmap's.
 */
struct rmap_anon_vma_lock {
    /**
     * What the page points to; NULL: nothing is locked.
     */
    struct rmap_anon_vma *anon_vma;
    /**
     * The root whose lock is held.
     */
    struct rmap_anon_vma *root;
};

/**
 * How a walk goes. Set `size`; only `rmap_one` is needed, the rest may be 0.
 *
 * Context of every function: under the anon_vma root or i_mmap_rwsem for reading, with the VMA alive and in place
 * (G2). It may ask the getters of the VMA and the page, take page-table locks of its own tables, and count mappings;
 * it may not walk, prepare, change a layout, take an mmap_lock or a page lock (but by try), throw, or jump out.
 */
struct rmap_walk_control {
    /**
     * The size of this struct, as the program knows it.
     */
    size_t size;
    /**
     * Bits of `RMAP_WALK_*`.
     */
    uint32_t flags;
    /**
     * Called for each candidate: a VMA, and the address at which it may map the page (of a compound page, its first
     * page that lies in the VMA). Returns whether to go on.
     */
    bool (*rmap_one)(struct rmap_page *page, struct rmap_vma *vma, uint64_t addr, void *arg);
    /**
     * Asked after each candidate whether the walk has done what it was for.
     */
    bool (*done)(struct rmap_page *page, void *arg);
    /**
     * Asked before each candidate whether to pass over the VMA.
     */
    bool (*invalid_vma)(struct rmap_vma *vma, void *arg);
    /**
     * Takes the lock of an anonymous page's anon_vma instead of the walk, into `lock`: RMAP_OK, RMAP_ERR_AGAIN for a
     * lock that is not free, anything else for a page that is not mapped. The walk unlocks it.
     */
    enum rmap_status (*anon_lock)(struct rmap_page *page, struct rmap_anon_vma_lock *lock, void *arg);
    /**
     * Called between candidates: a point to give way. It may not wait for a walk or a change of layout.
     */
    void (*resched)(void *arg);
    /**
     * Passed to each.
     */
    void *arg;
};

/**
 * One entry that maps a page.
 */
struct rmap_mapping {
    /**
     * The address space.
     */
    struct rmap_mm *mm;
    /**
     * The VMA.
     */
    struct rmap_vma *vma;
    /**
     * The address of the entry.
     */
    uint64_t addr;
    /**
     * The entry.
     */
    struct rmap_pte pte;
};

/**
 * What the program hears of an unmapping. Set `size`; functions may be NULL.
 *
 * Context of both: as for `rmap_one`, with the page-table lock of the entry held too.
 */
struct rmap_unmap_hooks {
    /**
     * The size of this struct, as the program knows it.
     */
    size_t size;
    /**
     * An anonymous page in the swap cache is about to be unmapped: take one more use of the slot, and return whether
     * it was had; else the entry stays. NULL: it is never had.
     */
    bool (*swap_dup)(uint64_t slot, void *arg);
    /**
     * The entry `old` was replaced by `new_pte`, and the count is about to drop.
     */
    void (*unmapped)(struct rmap_vma *vma,
                     uint64_t addr,
                     const struct rmap_pte *old,
                     const struct rmap_pte *new_pte,
                     void *arg);
    /**
     * Passed to both.
     */
    void *arg;
};

/**
 * What rmap_page_referenced found.
 */
struct rmap_referenced {
    /**
     * Mappings whose young bit was set; it is cleared now.
     */
    uint32_t young;
    /**
     * The lock was not free: nothing was looked at. Treat the page as used.
     */
    bool contended;
    /**
     * The flags of the VMAs with such mappings, and of one with RMAP_VM_LOCKED.
     */
    uint64_t vm_flags;
};

/**
 * How a machine is made. Fill it with `rmap_machine_config_init`, then change what should be different.
 */
struct rmap_machine_config {
    /**
     * The size of this struct, as the program knows it. Later versions append members; a program that knows fewer gets
     * the defaults for the rest.
     */
    size_t size;
    /**
     * One of `enum rmap_engine`.
     */
    uint32_t engine;
    /**
     * Must be 0.
     */
    uint32_t flags;
    /**
     * Page frames; one of them is the zero page.
     */
    uint64_t frames;
    /**
     * The number of the first frame.
     */
    uint64_t first_pfn;
    /**
     * One of `RMAP_CONTENTS_*`.
     */
    uint32_t contents;
    /**
     * One of `RMAP_SWAP_*`, if there are slots.
     */
    uint32_t swap;
    /**
     * Slots for swapped pages, RMAP_PAGE_SIZE bytes each; 0: pages stay in memory.
     */
    uint64_t swap_slots;
    /**
     * The swap file, made if there is none, and overwritten; NULL: a temporary file. UTF-8.
     */
    const char *swap_path;
    /**
     * Pages of a file that a read fault maps, and reads in, with the one that it is for: a power of two, 1 for it
     * alone.
     */
    uint64_t fault_around;
    /**
     * Lowest address of a mapping: a multiple of RMAP_PAGE_SIZE.
     */
    uint64_t min_addr;
    /**
     * First address that no mapping may reach: a multiple of RMAP_PAGE_SIZE, at most 2^47.
     */
    uint64_t task_size;
    /**
     * Asked before pages are charged to an address space: one for each entry that maps a page other than the zero
     * page. false refuses them, and what needed them fails with RMAP_ERR_NOMEM. Called with mmap_lock held.
     */
    bool (*charge)(void *arg, uint64_t mm, uint64_t pages);
    /**
     * Told when charged pages go. Called with any lock held: it may not wait.
     *
     * Context of both, which come together or not at all: a function of the machine that is called there answers
     * RMAP_ERR_LOCK. Neither may throw or jump out. `mm` is what rmap_machine_mm_id tells.
     */
    void (*uncharge)(void *arg, uint64_t mm, uint64_t pages);
    /**
     * Passed to both.
     */
    void *charge_arg;
    /**
     * Both functions, or both NULL for librmap's own memory (mapped from the system, never malloc).
     */
    struct rmap_allocator allocator;
};

/**
 * Figures of a machine, each of its own moment while other threads work.
 */
struct rmap_machine_stats {
    /**
     * The size of this struct, as the program knows it: set it before the call.
     */
    size_t size;
    /**
     * Page frames.
     */
    uint64_t frames;
    /**
     * Page frames that are free.
     */
    uint64_t free_frames;
    /**
     * Address spaces.
     */
    uint64_t mms;
    /**
     * Regions of all address spaces.
     */
    uint64_t vmas;
    /**
     * Small pages mapped anonymously, each counted once (NR_ANON_MAPPED).
     */
    uint64_t anon_mapped;
    /**
     * Compound pages mapped by one entry, each counted once (NR_ANON_THPS).
     */
    uint64_t anon_large;
    /**
     * Small pages of files that are mapped (NR_FILE_MAPPED).
     */
    uint64_t file_mapped;
    /**
     * Swap slots.
     */
    uint64_t swap_slots;
    /**
     * Swap slots in use.
     */
    uint64_t swap_used;
    /**
     * What pages point to (anon_vmas).
     */
    uint64_t anchors;
    /**
     * Ties between these and regions (anon_vma_chains).
     */
    uint64_t links;
    /**
     * Bytes of the reverse map: anchors, links, trees, and the engine's part of regions.
     */
    uint64_t rmap_bytes;
    /**
     * Bytes taken from the allocator, contents of frames included.
     */
    uint64_t bytes;
};

/**
 * Figures of an address space, in pages: what the kernel keeps in `mm_struct` and shows in /proc/PID/status.
 */
struct rmap_machine_counters {
    /**
     * The size of this struct, as the program knows it: set it before the call.
     */
    size_t size;
    /**
     * Pages of all regions.
     */
    uint64_t total_vm;
    /**
     * Pages of locked regions.
     */
    uint64_t locked_vm;
    /**
     * Pages pinned, each as often as it is.
     */
    uint64_t pinned_vm;
    /**
     * Pages of private writable regions that are no stacks.
     */
    uint64_t data_vm;
    /**
     * Pages of executable regions that are not writable.
     */
    uint64_t exec_vm;
    /**
     * Pages of stacks.
     */
    uint64_t stack_vm;
    /**
     * Pages of shared regions with a file.
     */
    uint64_t shared_vm;
    /**
     * The most that total_vm ever was.
     */
    uint64_t hiwater_vm;
    /**
     * The most pages that ever were present.
     */
    uint64_t hiwater_rss;
    /**
     * Anonymous pages present.
     */
    uint64_t rss_anon;
    /**
     * Pages of files present.
     */
    uint64_t rss_file;
    /**
     * Pages of shared memory present.
     */
    uint64_t rss_shmem;
    /**
     * Entries that stand for pages in swap.
     */
    uint64_t swap_ents;
};

/**
 * A page of a file for `rmap_machine_file_new`: fills RMAP_PAGE_SIZE bytes at `page`, zero until then, with the
 * contents of page pgoff. Answers as the functions of `rmap_machine_vma_ops` do.
 *
 * Context: the page lock and mmap_lock are held, the latter shared. A function of the machine that is called there
 * answers RMAP_ERR_LOCK. It may not throw or jump out.
 */
typedef int32_t (*rmap_machine_read_page)(void *arg, uint64_t pgoff, void *page);

/**
 * What the program does for a region (the kernel's `vm_ops`, and userfaultfd's monitor). Set `size`; functions may be
 * NULL. Functions that answer a status answer one of `enum rmap_status`; what is no error of the machine counts as
 * RMAP_ERR_IO.
 *
 * Context of each but `missing`: mmap_lock is held, exclusively in `open` and `close`. A function of the machine that
 * is called there answers RMAP_ERR_LOCK. None may throw or jump out.
 */
struct rmap_machine_vma_ops {
    /**
     * The size of this struct, as the program knows it.
     */
    size_t size;
    /**
     * The region came into being: mapped, split off, copied, or forked.
     */
    void (*open)(void *private_data, uint64_t start, uint64_t end, uint64_t pgoff);
    /**
     * The region is gone.
     */
    void (*close)(void *private_data, uint64_t start, uint64_t end, uint64_t pgoff);
    /**
     * Fills the page at pgoff of a region without a file: RMAP_PAGE_SIZE bytes at `page`, zero until then.
     * RMAP_ERR_BUS: there is nothing. NULL: pages begin as zero.
     */
    int32_t (*fault)(void *private_data, uint64_t pgoff, void *page);
    /**
     * A page of a region with RMAP_MAP_UFFD_MISSING is missing at addr. No lock is held: the function may fill it with
     * rmap_machine_uffd_copy. RMAP_OK: the access is tried again; else it fails with the status. NULL: it fails with
     * RMAP_ERR_NOT_SUPPORTED.
     */
    int32_t (*missing)(void *private_data, struct rmap_machine_mm *mm, uint64_t addr, uint32_t access);
};

/**
 * What is to be mapped. Fill it with 0, set `size`, then the rest.
 */
struct rmap_map_request {
    /**
     * The size of this struct, as the program knows it.
     */
    size_t size;
    /**
     * Where: with FIXED or FIXED_NOREPLACE exactly here, else a hint; 0 is none.
     */
    uint64_t addr;
    /**
     * Bytes, rounded up to pages.
     */
    uint64_t len;
    /**
     * RMAP_VM_READ, RMAP_VM_WRITE, RMAP_VM_EXEC.
     */
    uint64_t prot;
    /**
     * Bits of `RMAP_MAP_*`.
     */
    uint64_t flags;
    /**
     * The file; NULL: anonymous memory.
     */
    struct rmap_machine_file *file;
    /**
     * The page of the file where the range begins.
     */
    uint64_t pgoff;
    /**
     * What the program does for the region, copied; NULL: nothing.
     */
    const struct rmap_machine_vma_ops *ops;
    /**
     * Passed to each function of `ops`.
     */
    void *private_data;
};

/**
 * A pinned page. The program gives the memory; the members are librmap's, to be read.
 */
struct rmap_machine_pinned {
    /**
     * Its frame.
     */
    uint64_t pfn;
    /**
     * The number of the address space that pinned it; 0: none, nothing is pinned.
     */
    uint64_t mm;
    /**
     * Whether it was pinned for writing.
     */
    bool write;
};

/**
 * One entry that maps a frame.
 */
struct rmap_machine_mapping {
    /**
     * The number of the address space: rmap_machine_mm_id.
     */
    uint64_t mm;
    /**
     * The address.
     */
    uint64_t addr;
};

/**
 * The state at a mark: against the kernel's snapshot, and every page walked. Later versions append members.
 */
struct rmap_replay_mark {
    /**
     * Its name. Good until the function returns.
     */
    const char *label;
    /**
     * Whether there is a snapshot of it. If not, the members up to `file_only_there` are 0.
     */
    bool has_snapshot;
    /**
     * Processes in the snapshot.
     */
    uint64_t processes;
    /**
     * Of these, with equal VMAs, after neighbours of equal attributes are merged.
     */
    uint64_t vmas_equal;
    /**
     * VMAs in the snapshot, so merged.
     */
    uint64_t runs;
    /**
     * Anonymous pages present in the snapshot, each as often as it is mapped.
     */
    uint64_t anon_entries;
    /**
     * Of these, present here.
     */
    uint64_t anon_present;
    /**
     * Anonymous pages present here and not in the snapshot.
     */
    uint64_t anon_extra;
    /**
     * Frames in the snapshot under the anonymous pages that both have: each stands for the set of its sharers.
     */
    uint64_t sets;
    /**
     * Of these, with the same sharers here.
     */
    uint64_t sets_exact;
    /**
     * Pages of files that both have.
     */
    uint64_t file_both;
    /**
     * Pages of files that are only here.
     */
    uint64_t file_only_here;
    /**
     * Pages of files that are only in the snapshot.
     */
    uint64_t file_only_there;
    /**
     * Pages walked: all that are mapped, each once.
     */
    uint64_t pages_walked;
    /**
     * Mappings that the walks found.
     */
    uint64_t mappings;
    /**
     * Candidates that the walks looked at.
     */
    uint64_t candidates;
    /**
     * Mappings that a walk missed, invented or visited twice, by a scan of all page tables.
     */
    uint64_t mismatches;
    /**
     * Nanoseconds of the median walk.
     */
    uint64_t walk_median_ns;
    /**
     * Nanoseconds that 99 of 100 walks stay below.
     */
    uint64_t walk_p99_ns;
    /**
     * Bytes of the reverse map: anchors, links, trees, and the engine's part of VMAs.
     */
    uint64_t rmap_bytes;
    /**
     * VMAs.
     */
    uint64_t vmas;
    /**
     * What pages point to (anon_vmas).
     */
    uint64_t anchors;
    /**
     * Ties between these and VMAs (anon_vma_chains).
     */
    uint64_t links;
    /**
     * The first difference from the scan, else from the snapshot, in words; "" when there is none. A page more than
     * the snapshot has is one too. Good until the function returns.
     */
    const char *difference;
    /**
     * Of the pages walked, anonymous ones.
     */
    uint64_t anon_pages;
    /**
     * Of the pages walked, those of files and shared memory.
     */
    uint64_t file_pages;
    /**
     * Nanoseconds of the median walk of an anonymous page.
     */
    uint64_t anon_median_ns;
    /**
     * Nanoseconds of the median walk of a file's page.
     */
    uint64_t file_median_ns;
    /**
     * Address spaces.
     */
    uint64_t mms;
    /**
     * All of it, for rmap_replay_dump_dot. Good until the function returns.
     */
    const struct rmap_replay_state *state;
};

/**
 * What is to be replayed. Fill it with `rmap_replay_config_init`, then set `trace`.
 */
struct rmap_replay_config {
    /**
     * The size of this struct, as the program knows it. Later versions append members; a program that knows fewer gets
     * the defaults for the rest.
     */
    size_t size;
    /**
     * The trace: a file, compressed by gzip or not.
     */
    const char *trace;
    /**
     * The directory of the marks' snapshots; NULL: that of the trace.
     */
    const char *snapshots;
    /**
     * One of `enum rmap_engine`.
     */
    uint32_t engine;
    /**
     * Must be 0.
     */
    uint32_t flags;
    /**
     * Page frames, without contents; 0: as many as make 4 GiB.
     */
    uint64_t frames;
    /**
     * Called now and then with the events so far and the pages mapped now, each counted once; NULL: nobody is told.
     */
    void (*progress)(void *arg, uint64_t events, uint64_t pages);
    /**
     * Called at each mark of the trace; NULL: marks are passed over.
     */
    void (*mark)(void *arg, const struct rmap_replay_mark *mark);
    /**
     * Passed to both. Neither may throw or jump out.
     */
    void *arg;
};

/**
 * What happened in a replay.
 */
struct rmap_replay_stats {
    /**
     * The size of this struct, as the program knows it: set it before the call.
     */
    size_t size;
    /**
     * Events, marks included.
     */
    uint64_t events;
    /**
     * Address spaces that there ever were.
     */
    uint64_t address_spaces;
    /**
     * Of these, copies.
     */
    uint64_t forks;
    /**
     * The most VMAs there ever were at once.
     */
    uint64_t peak_vmas;
    /**
     * Page faults, pages that exec touches included.
     */
    uint64_t faults;
    /**
     * Of these, refused: a signal, or EFAULT, for the program.
     */
    uint64_t failed_faults;
    /**
     * The most pages that ever were mapped at once, each counted once.
     */
    uint64_t peak_pages;
    /**
     * The most bytes that the reverse map ever had: anchors, links, trees, and the engine's part of VMAs. Looked at
     * every 1,024 events.
     */
    uint64_t peak_rmap_bytes;
    /**
     * Nanoseconds, those for marks, `progress` and looks at figures not counted. Reading the trace is.
     */
    uint64_t replay_ns;
    /**
     * Whether this library counts locks: built with the feature `count-locks`, and slower for it. If not, the members
     * that follow are 0.
     */
    bool counts_locks;
    /**
     * Locks taken, each time one was: those for marks, `progress` and looks at figures not counted.
     */
    uint64_t locks;
    /**
     * Of these, locks of the reverse map: i_mmap_rwsem, anchors, and the chains of pte_chain.
     */
    uint64_t rmap_locks;
};

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * Describes a status code.
 *
 * Parameters: status, any number.
 * Returns: a short English sentence without a full stop; "unknown status" for a number that is no status. Never NULL.
 * Ownership: static; never freed.
 * Context: any. Takes no lock.
 */
const char *rmap_strerror(int32_t status);

/**
 * Names an engine.
 *
 * Parameters: engine, one of enum rmap_engine.
 * Returns: its name on every command line and in every table, such as "anon_vma"; NULL for a number that is no engine.
 * Ownership: static; never freed.
 * Context: any. Takes no lock.
 */
const char *rmap_engine_name(uint32_t engine);

/**
 * Tells the version of the library that is running. Compare it with `RMAP_VERSION`, the version of the header.
 *
 * Parameters: none.
 * Returns: major * 65536 + minor * 256 + patch.
 * Ownership: nothing.
 * Context: any. Takes no lock.
 */
uint32_t rmap_version(void);

/**
 * Tells the version as text, and whether handles are checked: "0.1.0" or "0.1.0 checked".
 *
 * Parameters: none.
 * Returns: a string, never NULL.
 * Ownership: static; never freed.
 * Context: any. Takes no lock.
 */
const char *rmap_version_string(void);

/**
 * Fills a configuration with the defaults: the engine anon_vma, librmap's own memory.
 *
 * Parameters: config, to be filled; size, sizeof(struct rmap_config) in the program.
 * Returns: RMAP_OK; RMAP_ERR_INVAL when no version of the struct is so small.
 * Ownership: the struct is the program's.
 * Context: any. Takes no lock.
 */
enum rmap_status rmap_config_init(struct rmap_config *config, size_t size);

/**
 * Makes a context.
 *
 * Parameters: config, or NULL for the defaults; out, receives the context.
 * Returns: RMAP_OK; RMAP_ERR_NOMEM; RMAP_ERR_NOT_SUPPORTED for an unknown engine or flag; RMAP_ERR_INVAL for a size
 * that is too small or an allocator of one function.
 * Ownership: the context is the program's, until rmap_free. config is copied.
 * Context: any thread, no locks held. Calls the allocator.
 */
enum rmap_status rmap_new(const struct rmap_config *config, struct rmap_ctx **out);

/**
 * Frees a context and all its memory.
 *
 * Parameters: ctx, or NULL, which is nothing to do.
 * Returns: RMAP_OK; RMAP_ERR_BUSY when an address space, a file or a reference to an anon_vma is left; RMAP_ERR_LOCK
 * when this thread holds a lock of librmap's.
 * Ownership: on success ctx and its pages are gone in any build: a later use is undefined behaviour. Descriptors in
 * the program's memory are the program's again.
 * Context: no other thread uses the context, no locks held. Calls the allocator.
 */
enum rmap_status rmap_free(struct rmap_ctx *ctx);

/**
 * Waits until every look-up that is under way has ended, and frees the VMAs that were freed before.
 *
 * Parameters: ctx.
 * Returns: RMAP_OK; RMAP_ERR_LOCK when this thread holds a lock of librmap's.
 * Ownership: nothing. When it returns, no thread inside librmap uses what was unlinked before the call, descriptors
 * given up by the program included.
 * Context: any thread, no locks held, not from a callback. Waits. Calls the allocator's free.
 */
enum rmap_status rmap_synchronize(struct rmap_ctx *ctx);

/**
 * Tells the figures of a context.
 *
 * Parameters: ctx; stats, its size set, receives the figures.
 * Returns: RMAP_OK; RMAP_ERR_INVAL when no version of the struct is so small.
 * Ownership: the struct is the program's.
 * Context: any thread, any locks held.
 */
enum rmap_status rmap_stats(const struct rmap_ctx *ctx, struct rmap_stats *stats);

/**
 * Adds a range of page frames, all free. Ranges may be sparse, are never taken away, and may be added while others are
 * used.
 *
 * Parameters: ctx; first, the first frame number; count, frames, above 0; memory, RMAP_PAGE_DESC_SIZE * count bytes
 * aligned to RMAP_PAGE_DESC_ALIGN for the descriptors, or NULL for the library's own.
 * Returns: RMAP_OK; RMAP_ERR_NOMEM; RMAP_ERR_EXISTS when a frame is there already; RMAP_ERR_INVAL for an empty range,
 * one that ends above 2^52, or misaligned memory.
 * Ownership: memory is the context's until rmap_free, and the program does not touch it.
 * Context: any thread. Calls the allocator.
 */
enum rmap_status rmap_pages_add(struct rmap_ctx *ctx, uint64_t first, uint64_t count, void *memory);

/**
 * Finds the descriptor of a frame.
 *
 * Parameters: ctx; pfn, the frame number.
 * Returns: the descriptor; NULL when no range has the frame, or ctx is NULL.
 * Ownership: the context's, valid until rmap_free.
 * Context: any thread, any locks held. Takes no lock.
 */
struct rmap_page *rmap_page(const struct rmap_ctx *ctx, uint64_t pfn);

/**
 * Tells the frame number of a page.
 *
 * Parameters: page.
 * Returns: the frame number; UINT64_MAX when page is NULL.
 * Ownership: nothing.
 * Context: any thread, any locks held. Takes no lock.
 */
uint64_t rmap_page_pfn(const struct rmap_page *page);

/**
 * Tells how many page-table entries map a page: by itself, or as a part of its compound page.
 *
 * Parameters: page.
 * Returns: the number; 0 when page is NULL. Of the past at once, unless the page-table locks of its mappings are held.
 * Ownership: nothing.
 * Context: any thread, any locks held. Takes no lock.
 */
uint32_t rmap_page_mapcount(const struct rmap_page *page);

/**
 * Tells whether anything maps a page, or any page of its compound page.
 *
 * Parameters: page.
 * Returns: true or false; false when page is NULL. Of the past at once, as rmap_page_mapcount.
 * Ownership: nothing.
 * Context: any thread, any locks held. Takes no lock.
 */
bool rmap_page_is_mapped(const struct rmap_page *page);

/**
 * Tells the page offset of a page: in its file, or as its anonymous VMA counted it when it was first mapped.
 *
 * Parameters: page.
 * Returns: the offset, in pages; 0 when page is NULL. Certain only under the page lock.
 * Ownership: nothing.
 * Context: any thread, any locks held. Takes no lock.
 */
uint64_t rmap_page_index(const struct rmap_page *page);

/**
 * Tells how many references a page has.
 *
 * Parameters: page.
 * Returns: the number; 0 for a free frame, or when page is NULL. Of the past at once.
 * Ownership: nothing.
 * Context: any thread, any locks held. Takes no lock.
 */
uint32_t rmap_page_refcount(const struct rmap_page *page);

/**
 * Makes the first reference to a free frame: the program's frame allocator hands it out.
 *
 * Parameters: page, free, not a tail.
 * Returns: RMAP_OK; RMAP_ERR_BUSY when it has references or is mapped or belongs to somebody; RMAP_ERR_INVAL for a
 * tail.
 * Ownership: the caller owns one reference.
 * Context: the frame is the caller's alone. Takes no lock.
 */
enum rmap_status rmap_page_claim(struct rmap_page *page);

/**
 * Makes the descriptor of a page that nobody refers to any more that of a free frame: what it belonged to, its flags,
 * its private word. A compound page is taken apart.
 *
 * The frame may be handed out again only after this, and an anon_vma that the page belonged to may be given up only
 * after this.
 *
 * Parameters: ctx; page, of a compound page the head.
 * Returns: RMAP_OK; RMAP_ERR_BUSY when it has references, is mapped, pinned, locked, or in a file; RMAP_ERR_INVAL for
 * a tail; RMAP_ERR_FOREIGN for a page of another context.
 * Ownership: the frame is the caller's, free.
 * Context: the frame is the caller's alone, as after rmap_page_put said so. Takes no lock.
 */
enum rmap_status rmap_page_release(struct rmap_ctx *ctx, struct rmap_page *page);

/**
 * Takes one more reference to a page, of a compound page to the whole.
 *
 * Parameters: page.
 * Returns: RMAP_OK; RMAP_ERR_STALE when the frame is free.
 * Ownership: the caller owns the reference.
 * Context: any thread, any locks held. Takes no lock.
 */
enum rmap_status rmap_page_get(struct rmap_page *page);

/**
 * Gives a reference back.
 *
 * Parameters: page; last, receives whether it was the last.
 * Returns: RMAP_OK; RMAP_ERR_STALE when the frame is free already.
 * Ownership: the reference is gone. When it was the last, the caller owns the frame alone, and frees it with
 * rmap_page_release.
 * Context: any thread, any locks held. Takes no lock.
 */
enum rmap_status rmap_page_put(struct rmap_page *page, bool *last);

/**
 * Takes the page lock, waiting for it; of a compound page the head's.
 *
 * Parameters: page.
 * Returns: RMAP_OK.
 * Ownership: the lock is this thread's, until rmap_page_unlock.
 * Context: lock order: after mmap_lock, before everything else; this thread holds no other page lock (else
 * rmap_page_lock_nested). Waits.
 */
enum rmap_status rmap_page_lock(struct rmap_page *page);

/**
 * Takes the second page lock of two, waiting for it.
 *
 * Parameters: page, of a higher frame number than the first.
 * Returns: RMAP_OK.
 * Ownership: the lock is this thread's, until rmap_page_unlock.
 * Context: this thread holds the page lock of a lower frame number. Waits.
 */
enum rmap_status rmap_page_lock_nested(struct rmap_page *page);

/**
 * Takes the page lock if nobody holds it.
 *
 * Parameters: page.
 * Returns: RMAP_OK; RMAP_ERR_AGAIN when somebody holds it.
 * Ownership: on success the lock is this thread's, until rmap_page_unlock.
 * Context: any thread, any locks held. Does not wait.
 */
enum rmap_status rmap_page_trylock(struct rmap_page *page);

/**
 * Releases the page lock.
 *
 * Parameters: page.
 * Returns: RMAP_OK; RMAP_ERR_LOCK when nobody holds the lock.
 * Ownership: the lock is gone.
 * Context: the thread that took it.
 */
enum rmap_status rmap_page_unlock(struct rmap_page *page);

/**
 * Pins a page for access that goes on while page tables change, as direct I/O does: takes a reference and a pin.
 *
 * Parameters: page.
 * Returns: RMAP_OK; RMAP_ERR_STALE when the frame is free; RMAP_ERR_AGAIN when an anonymous page is shared, or on its
 * way there: fault it for writing, and try again.
 * Ownership: the caller owns the pin with its reference, until rmap_page_unpin. While pinned, fork copies the page
 * instead of sharing it.
 * Context: the caller holds a reference or the page-table lock of a mapping. Takes no lock.
 */
enum rmap_status rmap_page_pin(struct rmap_page *page);

/**
 * Gives a pin and its reference back.
 *
 * Parameters: page; last, receives whether its reference was the last.
 * Returns: RMAP_OK; RMAP_ERR_STALE when the page is not pinned.
 * Ownership: as for rmap_page_put.
 * Context: any thread, any locks held. Takes no lock.
 */
enum rmap_status rmap_page_unpin(struct rmap_page *page, bool *last);

/**
 * Tells the flags of a page, bits of RMAP_PG_*.
 *
 * Parameters: page.
 * Returns: the flags of this moment; 0 when page is NULL.
 * Ownership: nothing.
 * Context: any thread, any locks held. Takes no lock.
 */
uint32_t rmap_page_flags(const struct rmap_page *page);

/**
 * Sets flags of a page in one step.
 *
 * Parameters: page; flags, bits of RMAP_PG_* without LOCKED and WAITERS.
 * Returns: RMAP_OK; RMAP_ERR_INVAL for other bits.
 * Ownership: nothing.
 * Context: what each flag asks for: RMAP_PG_ANON_EXCLUSIVE the page-table lock, RMAP_PG_SWAP_CACHE the page lock.
 */
enum rmap_status rmap_page_set_flags(struct rmap_page *page, uint32_t flags);

/**
 * Clears flags of a page in one step.
 *
 * Parameters: page; flags, bits of RMAP_PG_* without LOCKED and WAITERS.
 * Returns: RMAP_OK; RMAP_ERR_INVAL for other bits.
 * Ownership: nothing.
 * Context: as for rmap_page_set_flags.
 */
enum rmap_status rmap_page_clear_flags(struct rmap_page *page, uint32_t flags);

/**
 * Tells the program's word of a page; the swap slot of a page in the swap cache.
 *
 * Parameters: page.
 * Returns: the word; 0 when page is NULL.
 * Ownership: nothing.
 * Context: the page lock held, or the frame the caller's alone.
 */
uint64_t rmap_page_private(const struct rmap_page *page);

/**
 * Sets the program's word of a page.
 *
 * Parameters: page; value.
 * Returns: RMAP_OK.
 * Ownership: nothing.
 * Context: the page lock held, or the frame the caller's alone.
 */
enum rmap_status rmap_page_set_private(struct rmap_page *page, uint64_t value);

/**
 * Makes 2^order frames one compound page: the first is the head, the others are tails. References, pins, page lock and
 * what it belongs to are the head's.
 *
 * Parameters: ctx; pfn, the head's frame number, a multiple of 2^order; order, 1 to 9.
 * Returns: RMAP_OK; RMAP_ERR_INVAL for a bad order, alignment, or frames that are not in one range; RMAP_ERR_BUSY when
 * one is mapped or compound already.
 * Ownership: nothing.
 * Context: the frames are the caller's alone and not reachable. Takes no lock.
 */
enum rmap_status rmap_page_make_compound(struct rmap_ctx *ctx, uint64_t pfn, uint32_t order);

/**
 * Takes a compound page apart.
 *
 * Parameters: ctx; pfn, the head's frame number.
 * Returns: RMAP_OK; RMAP_ERR_INVAL when it is no head; RMAP_ERR_BUSY when it is mapped.
 * Ownership: nothing.
 * Context: the frames are the caller's alone and not reachable. Takes no lock.
 */
enum rmap_status rmap_page_break_compound(struct rmap_ctx *ctx, uint64_t pfn);

/**
 * Finds the head of the compound page that a page belongs to; the page itself if it belongs to none.
 *
 * Parameters: page.
 * Returns: the head; NULL when page is NULL.
 * Ownership: the context's.
 * Context: any thread; a reference held, so that the page is not taken apart. Takes no lock.
 */
struct rmap_page *rmap_page_head(struct rmap_page *page);

/**
 * Makes an empty address space.
 *
 * Parameters: ctx; ops, its page-table functions, which are copied; table, passed to each of them; private_data, the
 * program's; out, receives the address space.
 * Returns: RMAP_OK; RMAP_ERR_NOMEM; RMAP_ERR_INVAL when the size of ops is too small; RMAP_ERR_NULL also when a
 * function that is not optional is missing.
 * Ownership: the address space is the program's, until rmap_mm_free; table stays valid until then.
 * Context: any thread. Calls the allocator.
 */
enum rmap_status rmap_mm_new(struct rmap_ctx *ctx,
                             const struct rmap_pte_ops *ops,
                             void *table,
                             void *private_data,
                             struct rmap_mm **out);

/**
 * Frees an address space. It has no VMAs, and its mmap_lock is free.
 *
 * Parameters: mm, or NULL, which is nothing to do.
 * Returns: RMAP_OK; RMAP_ERR_BUSY when it has VMAs or its mmap_lock is held; RMAP_ERR_LOCK when this thread holds a
 * lock of librmap's.
 * Ownership: on success mm is gone, and its page tables are the program's alone.
 * Context: no other thread uses mm, no locks held. Calls the allocator's free.
 */
enum rmap_status rmap_mm_free(struct rmap_mm *mm);

/**
 * Tells the program's pointer of an address space.
 *
 * Parameters: mm.
 * Returns: the pointer; NULL when mm is NULL.
 * Ownership: the program's.
 * Context: any thread, any locks held, callbacks too. Takes no lock.
 */
void *rmap_mm_private(const struct rmap_mm *mm);

/**
 * Tells how many VMAs an address space has.
 *
 * Parameters: mm.
 * Returns: the number; 0 when mm is NULL. Of the past at once, unless mmap_lock is held.
 * Ownership: nothing.
 * Context: any thread, any locks held. Takes no lock.
 */
size_t rmap_mm_nr_vmas(const struct rmap_mm *mm);

/**
 * Takes mmap_lock for reading, waiting for it.
 *
 * Parameters: mm.
 * Returns: RMAP_OK.
 * Ownership: the lock is this thread's, until rmap_mm_read_unlock.
 * Context: lock order: the outermost lock; not held by this thread already, for reading neither. Waits.
 */
enum rmap_status rmap_mm_read_lock(struct rmap_mm *mm);

/**
 * Takes mmap_lock for reading if nobody holds or awaits it for writing.
 *
 * Parameters: mm.
 * Returns: RMAP_OK; RMAP_ERR_AGAIN when it would have to wait.
 * Ownership: on success the lock is this thread's, until rmap_mm_read_unlock.
 * Context: any locks held but this one. Does not wait.
 */
enum rmap_status rmap_mm_read_trylock(struct rmap_mm *mm);

/**
 * Releases mmap_lock held for reading.
 *
 * Parameters: mm.
 * Returns: RMAP_OK; RMAP_ERR_LOCK when nobody holds it for reading.
 * Ownership: the lock is gone.
 * Context: the thread that took it.
 */
enum rmap_status rmap_mm_read_unlock(struct rmap_mm *mm);

/**
 * Takes mmap_lock for writing, waiting for it.
 *
 * Parameters: mm.
 * Returns: RMAP_OK.
 * Ownership: the lock is this thread's, until rmap_mm_write_unlock.
 * Context: lock order: the outermost lock; this thread holds no other mmap_lock (else rmap_mm_write_lock_nested).
 * Waits.
 */
enum rmap_status rmap_mm_write_lock(struct rmap_mm *mm);

/**
 * Takes the second mmap_lock of two for writing: the child's in fork.
 *
 * Parameters: mm, the child.
 * Returns: RMAP_OK.
 * Ownership: the lock is this thread's, until rmap_mm_write_unlock.
 * Context: this thread holds the parent's mmap_lock. Waits.
 */
enum rmap_status rmap_mm_write_lock_nested(struct rmap_mm *mm);

/**
 * Takes mmap_lock for writing if nobody holds it.
 *
 * Parameters: mm.
 * Returns: RMAP_OK; RMAP_ERR_AGAIN when it would have to wait.
 * Ownership: on success the lock is this thread's, until rmap_mm_write_unlock.
 * Context: any locks held. Does not wait.
 */
enum rmap_status rmap_mm_write_trylock(struct rmap_mm *mm);

/**
 * Releases mmap_lock held for writing. When that was the last lock of librmap's that this thread holds, frees VMAs
 * whose grace period is over.
 *
 * Parameters: mm.
 * Returns: RMAP_OK; RMAP_ERR_LOCK when nobody holds it for writing.
 * Ownership: the lock is gone.
 * Context: the thread that took it. May call the allocator's free, after the lock is released.
 */
enum rmap_status rmap_mm_write_unlock(struct rmap_mm *mm);

/**
 * Begins a fork. Then, for each VMA of the parent that the child gets: rmap_vma_fork, and for each of its entries,
 * under both page-table locks, rmap_page_dup.
 *
 * Parameters: child, empty; parent.
 * Returns: RMAP_OK; RMAP_ERR_NOMEM; RMAP_ERR_BUSY when the child has VMAs; RMAP_ERR_INVAL when both are one;
 * RMAP_ERR_FOREIGN for different contexts; RMAP_ERR_LOCK when a lock is not held.
 * Ownership: nothing.
 * Context: mmap_lock of the parent held for writing (rmap_mm_write_lock), then the child's
 * (rmap_mm_write_lock_nested).
 */
enum rmap_status rmap_mm_fork_begin(struct rmap_mm *child, struct rmap_mm *parent);

/**
 * Ends a fork that rmap_mm_fork_begin began: with success, or after the program has unmapped and freed what the child
 * had got.
 *
 * Parameters: child; parent.
 * Returns: RMAP_OK; RMAP_ERR_INVAL, RMAP_ERR_FOREIGN and RMAP_ERR_LOCK as rmap_mm_fork_begin.
 * Ownership: nothing.
 * Context: as for rmap_mm_fork_begin; both locks held since.
 */
enum rmap_status rmap_mm_fork_end(struct rmap_mm *child, struct rmap_mm *parent);

/**
 * Finds a free range.
 *
 * Parameters: mm; low and high, the bounds, page-aligned; bytes, a multiple of RMAP_PAGE_SIZE above 0; topdown,
 * whether to take the highest; addr, receives the start.
 * Returns: RMAP_OK; RMAP_ERR_NOSPACE when there is none; RMAP_ERR_INVAL for unaligned arguments; RMAP_ERR_LOCK when
 * mmap_lock is not held.
 * Ownership: nothing.
 * Context: mmap_lock of mm held; for writing, if the answer is to stay true.
 */
enum rmap_status rmap_mm_find_gap(struct rmap_mm *mm,
                                  uint64_t low,
                                  uint64_t high,
                                  uint64_t bytes,
                                  bool topdown,
                                  uint64_t *addr);

/**
 * Makes a VMA. A VMA that anonymous pages are to be mapped in is prepared with rmap_anon_vma_prepare before the first.
 *
 * Parameters: mm; start and end, page-aligned; flags, bits of RMAP_VM_*, others are kept for the program; file, or
 * NULL; pgoff, the page offset of start in the file, or RMAP_PGOFF_VPN without one; private_data, the program's,
 * inherited by splits, moves and forks; out, receives the VMA.
 * Returns: RMAP_OK; RMAP_ERR_NOMEM; RMAP_ERR_EXISTS when it overlaps another; RMAP_ERR_INVAL for bad bounds, or
 * RMAP_VM_SHARED without a file; RMAP_ERR_FOREIGN for a file of another context; RMAP_ERR_LOCK when mmap_lock is not
 * held.
 * Ownership: the VMA is the address space's, until rmap_vma_free or a merge. It keeps the file's memory alive, not its
 * handle.
 * Context: mmap_lock of mm held for writing, no page lock. Takes i_mmap_rwsem. Calls the allocator.
 */
enum rmap_status rmap_vma_new(struct rmap_mm *mm,
                              uint64_t start,
                              uint64_t end,
                              uint64_t flags,
                              struct rmap_file *file,
                              uint64_t pgoff,
                              void *private_data,
                              struct rmap_vma **out);

/**
 * Frees a VMA, after its grace period.
 *
 * Parameters: mm; vma, one of its VMAs, with nothing mapped in it.
 * Returns: RMAP_OK; RMAP_ERR_FOREIGN for a VMA of another address space; RMAP_ERR_LOCK when mmap_lock is not held.
 * Ownership: vma is gone. Its page tables are freed only after this.
 * Context: mmap_lock of mm held for writing, no page lock. Takes i_mmap_rwsem and the anon_vma root, so that no walk
 * is in the VMA when it returns.
 */
enum rmap_status rmap_vma_free(struct rmap_mm *mm, struct rmap_vma *vma);

/**
 * Cuts a VMA in two. It keeps the part below, a new one gets the part above.
 *
 * Parameters: mm; vma, one of its VMAs; addr, page-aligned, inside it and not its start; out, receives the part above.
 * Returns: RMAP_OK; RMAP_ERR_NOMEM; RMAP_ERR_INVAL for a bad address; RMAP_ERR_FOREIGN and RMAP_ERR_LOCK as
 * rmap_vma_free.
 * Ownership: as for rmap_vma_new.
 * Context: mmap_lock of mm held for writing, no page lock. Takes i_mmap_rwsem and the anon_vma root. Calls the
 * allocator, not under these.
 */
enum rmap_status rmap_vma_split(struct rmap_mm *mm, struct rmap_vma *vma, uint64_t addr, struct rmap_vma **out);

/**
 * Tells whether two VMAs may become one: adjacent in address and page offset, equal in flags, file, private pointer
 * and name, and not parted by a fork.
 *
 * Parameters: mm; low and high, two of its VMAs.
 * Returns: true or false; false for any misuse.
 * Ownership: nothing.
 * Context: mmap_lock of mm held for writing.
 */
bool rmap_vma_can_merge(struct rmap_mm *mm, const struct rmap_vma *low, const struct rmap_vma *high);

/**
 * Makes one VMA of two.
 *
 * Parameters: mm; low and high, two of its VMAs for which rmap_vma_can_merge says true.
 * Returns: RMAP_OK; RMAP_ERR_NOMEM; RMAP_ERR_INVAL when they may not be merged; RMAP_ERR_FOREIGN and RMAP_ERR_LOCK as
 * rmap_vma_free.
 * Ownership: low is both; high is gone.
 * Context: mmap_lock of mm held for writing, no page lock. Takes i_mmap_rwsem and the anon_vma root. Calls the
 * allocator, not under these.
 */
enum rmap_status rmap_vma_merge(struct rmap_mm *mm, struct rmap_vma *low, struct rmap_vma *high);

/**
 * Changes the bounds of a VMA at either end. An address that it keeps keeps its page offset.
 *
 * Parameters: mm; vma, one of its VMAs, with nothing mapped in what it gives up; start and end, page-aligned, meeting
 * the old range.
 * Returns: RMAP_OK; RMAP_ERR_NOMEM; RMAP_ERR_INVAL for bad bounds; RMAP_ERR_EXISTS when it would overlap another;
 * RMAP_ERR_FOREIGN and RMAP_ERR_LOCK as rmap_vma_free.
 * Ownership: nothing.
 * Context: mmap_lock of mm held for writing, no page lock. Takes i_mmap_rwsem and the anon_vma root. Calls the
 * allocator, not under these.
 */
enum rmap_status rmap_vma_adjust(struct rmap_mm *mm, struct rmap_vma *vma, uint64_t start, uint64_t end);

/**
 * Moves the boundary between two adjacent VMAs. What is mapped there changes hands.
 *
 * Parameters: mm; low and high, two of its VMAs that could be merged but for flags, private pointer and name;
 * boundary, page-aligned, inside the one that gives.
 * Returns: RMAP_OK; RMAP_ERR_NOMEM; RMAP_ERR_INVAL for a bad boundary, or VMAs that do not fit; RMAP_ERR_FOREIGN and
 * RMAP_ERR_LOCK as rmap_vma_free.
 * Ownership: nothing.
 * Context: mmap_lock of mm held for writing, no page lock. Takes i_mmap_rwsem and the anon_vma root. Calls the
 * allocator, not under these.
 */
enum rmap_status rmap_vma_shift(struct rmap_mm *mm,
                                struct rmap_vma *low,
                                struct rmap_vma *high,
                                uint64_t boundary_addr);

/**
 * Makes the VMA that entries of another will move to (mremap): the same page offsets at other addresses, tied to the
 * same anon_vmas.
 *
 * Then, between rmap_vma_move_lock and rmap_vma_move_unlock of source, move the entries: set each at its new address,
 * tell it if it maps a page (rmap_page_moved), clear the old one. Then rmap_vma_free the source, or what is left of
 * it.
 *
 * Parameters: mm; source, one of its VMAs; from, the address in it whose page offset the copy begins with; start and
 * end, where the copy lies, page-aligned; out, receives the copy.
 * Returns: RMAP_OK; RMAP_ERR_NOMEM; RMAP_ERR_EXISTS when it overlaps another; RMAP_ERR_INVAL for bad bounds, or from
 * outside source; RMAP_ERR_FOREIGN and RMAP_ERR_LOCK as rmap_vma_free.
 * Ownership: as for rmap_vma_new.
 * Context: mmap_lock of mm held for writing, no page lock. Takes i_mmap_rwsem and the anon_vma root. Calls the
 * allocator, not under these.
 */
enum rmap_status rmap_vma_move(struct rmap_mm *mm,
                               struct rmap_vma *source,
                               uint64_t from,
                               uint64_t start,
                               uint64_t end,
                               struct rmap_vma **out);

/**
 * Keeps walks away from a VMA and its copy while entries move from one to the other.
 *
 * Parameters: mm; source, one of its VMAs.
 * Returns: RMAP_OK; RMAP_ERR_FOREIGN and RMAP_ERR_LOCK as rmap_vma_free.
 * Ownership: i_mmap_rwsem of its file and its anon_vma root, as far as it has them, are this thread's until
 * rmap_vma_move_unlock.
 * Context: mmap_lock of mm held for writing until after the unlock; no page lock. Waits. Until the unlock this thread
 * calls nothing that walks or changes a layout.
 */
enum rmap_status rmap_vma_move_lock(struct rmap_mm *mm, struct rmap_vma *source);

/**
 * Lets walks in again.
 *
 * Parameters: mm; source, as for rmap_vma_move_lock.
 * Returns: RMAP_OK; RMAP_ERR_FOREIGN; RMAP_ERR_LOCK when mmap_lock is not held, or the VMA's file is not locked for
 * moving.
 * Ownership: the locks are gone.
 * Context: the thread that called rmap_vma_move_lock; mmap_lock held for writing since.
 */
enum rmap_status rmap_vma_move_unlock(struct rmap_mm *mm, struct rmap_vma *source);

/**
 * Makes the child's copy of a parent's VMA in a fork: same bounds, file and private pointer, flags without
 * RMAP_VM_LOCKED. Walks visit it after the parent's.
 *
 * Parameters: child, the address space that gets the copy; parent, the one that is forked; vma, one of the parent's;
 * out, receives the copy.
 * Returns: RMAP_OK; RMAP_ERR_NOMEM; RMAP_ERR_EXISTS when the range is not free; RMAP_ERR_FOREIGN for a VMA of another
 * address space, or different contexts; RMAP_ERR_INVAL when both are one; RMAP_ERR_LOCK when a lock is not held.
 * Ownership: the copy is the child's, as for rmap_vma_new.
 * Context: between rmap_mm_fork_begin and rmap_mm_fork_end. Entries are copied only after this. Takes i_mmap_rwsem and
 * the anon_vma root. Calls the allocator, not under these.
 */
enum rmap_status rmap_vma_fork(struct rmap_mm *child,
                               struct rmap_mm *parent,
                               struct rmap_vma *vma,
                               struct rmap_vma **out);

/**
 * Finds the VMA that an address lies in.
 *
 * Parameters: mm; addr; out, receives the VMA.
 * Returns: RMAP_OK; RMAP_ERR_NOT_MAPPED when there is none; RMAP_ERR_LOCK when mmap_lock is not held.
 * Ownership: the VMA is the address space's; the handle is good while mmap_lock is held.
 * Context: mmap_lock of mm held.
 */
enum rmap_status rmap_vma_find(struct rmap_mm *mm, uint64_t addr, struct rmap_vma **out);

/**
 * Finds the first VMA that ends after an address (the kernel's find_vma). Asked with the end of each VMA found,
 * beginning with 0, it finds all.
 *
 * Parameters: mm; addr; out, receives the VMA.
 * Returns: RMAP_OK; RMAP_ERR_NOT_MAPPED when there is none; RMAP_ERR_LOCK when mmap_lock is not held.
 * Ownership: as for rmap_vma_find.
 * Context: mmap_lock of mm held.
 */
enum rmap_status rmap_vma_find_next(struct rmap_mm *mm, uint64_t addr, struct rmap_vma **out);

/**
 * Tells all of a VMA at once.
 *
 * Parameters: vma; out, receives the figures.
 * Returns: RMAP_OK.
 * Ownership: mm and file in it are not new references.
 * Context: a lock that keeps the VMA in place: its mmap_lock, or an anon_vma or file lock that leads to it, as in
 * callbacks of walks.
 */
enum rmap_status rmap_vma_get_info(const struct rmap_vma *vma, struct rmap_vma_info *out);

/**
 * Tells the first byte of a VMA.
 *
 * Parameters: vma.
 * Returns: the address; 0 when vma is NULL.
 * Ownership: nothing.
 * Context: as for rmap_vma_get_info.
 */
uint64_t rmap_vma_start(const struct rmap_vma *vma);

/**
 * Tells the first byte after a VMA.
 *
 * Parameters: vma.
 * Returns: the address; 0 when vma is NULL.
 * Ownership: nothing.
 * Context: as for rmap_vma_get_info.
 */
uint64_t rmap_vma_end(const struct rmap_vma *vma);

/**
 * Tells the flags of a VMA.
 *
 * Parameters: vma.
 * Returns: bits of RMAP_VM_*, and the program's own; 0 when vma is NULL.
 * Ownership: nothing.
 * Context: as for rmap_vma_get_info; under an anon_vma or file lock only, of the past at once.
 */
uint64_t rmap_vma_flags(const struct rmap_vma *vma);

/**
 * Tells the address space of a VMA.
 *
 * Parameters: vma.
 * Returns: the address space; NULL when vma is NULL.
 * Ownership: not a new reference.
 * Context: as for rmap_vma_get_info.
 */
struct rmap_mm *rmap_vma_mm(const struct rmap_vma *vma);

/**
 * Tells the program's pointer of a VMA.
 *
 * Parameters: vma.
 * Returns: the pointer; NULL when vma is NULL.
 * Ownership: the program's.
 * Context: as for rmap_vma_get_info; under an anon_vma or file lock only, of the past at once.
 */
void *rmap_vma_private(const struct rmap_vma *vma);

/**
 * Changes the program's pointer of a VMA.
 *
 * Parameters: mm; vma, one of its VMAs; private_data, the pointer.
 * Returns: RMAP_OK; RMAP_ERR_FOREIGN and RMAP_ERR_LOCK as rmap_vma_free.
 * Ownership: the old pointer is the program's; callbacks of walks may still have read it.
 * Context: mmap_lock of mm held for writing.
 */
enum rmap_status rmap_vma_set_private(struct rmap_mm *mm, struct rmap_vma *vma, void *private_data);

/**
 * Changes the flags of a VMA.
 *
 * Parameters: mm; vma, one of its VMAs; flags, bits of RMAP_VM_*, others are kept for the program.
 * Returns: RMAP_OK; RMAP_ERR_INVAL when RMAP_VM_SHARED would change; RMAP_ERR_FOREIGN and RMAP_ERR_LOCK as
 * rmap_vma_free.
 * Ownership: nothing.
 * Context: mmap_lock of mm held for writing.
 */
enum rmap_status rmap_vma_set_flags(struct rmap_mm *mm, struct rmap_vma *vma, uint64_t flags);

/**
 * Names a VMA (PR_SET_VMA_ANON_NAME). VMAs of different names are not merged.
 *
 * Parameters: mm; vma, one of its VMAs; name, or NULL for none.
 * Returns: RMAP_OK; RMAP_ERR_NOMEM; RMAP_ERR_FOREIGN and RMAP_ERR_LOCK as rmap_vma_free.
 * Ownership: name is copied.
 * Context: mmap_lock of mm held for writing. Calls the allocator.
 */
enum rmap_status rmap_vma_set_name(struct rmap_mm *mm, struct rmap_vma *vma, const char *name);

/**
 * Tells the name of a VMA.
 *
 * Parameters: mm; vma, one of its VMAs; buffer and size, where it is written to, cut off if need be, with a
 * terminating NUL, when size is above 0; length, receives its length.
 * Returns: RMAP_OK, with length 0 for a VMA without a name; RMAP_ERR_FOREIGN for a VMA of another address space;
 * RMAP_ERR_LOCK when mmap_lock is not held.
 * Ownership: the buffer is the program's.
 * Context: mmap_lock of mm held.
 */
enum rmap_status rmap_vma_name(struct rmap_mm *mm,
                               const struct rmap_vma *vma,
                               char *buffer,
                               size_t size,
                               size_t *length);

/**
 * Makes sure that anonymous pages may be mapped in a VMA. Called before the page-table lock is taken.
 *
 * Parameters: vma.
 * Returns: RMAP_OK; RMAP_ERR_NOMEM; RMAP_ERR_LOCK when mmap_lock is not held.
 * Ownership: nothing.
 * Context: mmap_lock of its address space held, for reading suffices; no page-table lock. May take the anon_vma root
 * of a neighbour. Calls the allocator, not under it.
 */
enum rmap_status rmap_anon_vma_prepare(struct rmap_vma *vma);

/**
 * Counts the first mapping of a page that nobody else can reach: it is this VMA's alone, and exclusive.
 *
 * Parameters: page, that belongs to nobody; vma, prepared; addr, of the entry, page-aligned, in vma; level, one of
 * enum rmap_level.
 * Returns: RMAP_OK; RMAP_ERR_INVAL for a bad address or level, or a VMA that is not prepared; RMAP_ERR_BUSY when the
 * page is mapped or belongs to somebody; RMAP_ERR_FOREIGN for a page of another context.
 * Ownership: the mapping owns a reference to the page, which the caller gives it (rmap_page_claim's, or one more).
 * Context: the page-table lock of the entry held, mmap_lock held. Allocates nothing:
 * memory is reserved before (rmap_reserve; RMAP_ERR_NOMEM when the engine needs it and it was not).
 */
enum rmap_status rmap_page_add_new_anon(struct rmap_page *page, struct rmap_vma *vma, uint64_t addr, uint32_t level);

/**
 * Counts a mapping of a page that was anonymous before, or comes back from swap. A page that belongs to nobody gets
 * the anchor of the VMA if it is exclusive, else the oldest that the VMA knows, so that no relative who may have it
 * too is missed.
 *
 * Parameters: page; vma, prepared, of the family that the page belongs to; addr and level as for
 * rmap_page_add_new_anon; exclusive, whether no other address space can have the page.
 * Returns: RMAP_OK; RMAP_ERR_INVAL as rmap_page_add_new_anon, or for a page of a file; RMAP_ERR_LOCK when the page is
 * not locked; RMAP_ERR_FOREIGN for a page of another context.
 * Ownership: the mapping owns a reference to the page, which the caller gives it.
 * Context: the page lock and the page-table lock of the entry held, mmap_lock held. Allocates nothing:
 * memory is reserved before (rmap_reserve; RMAP_ERR_NOMEM when the engine needs it and it was not).
 */
enum rmap_status rmap_page_add_anon(struct rmap_page *page,
                                    struct rmap_vma *vma,
                                    uint64_t addr,
                                    bool exclusive,
                                    uint32_t level);

/**
 * Makes a page the VMA's alone: copy-on-write found that no other address space maps it. From now on walks visit only
 * this VMA and what it is forked into.
 *
 * Parameters: page, anonymous; vma, prepared, the last to map it; addr, where it maps it.
 * Returns: RMAP_OK; RMAP_ERR_INVAL for a bad address, a VMA that is not prepared, or a page that is not anonymous;
 * RMAP_ERR_LOCK when the page is not locked; RMAP_ERR_FOREIGN for a page of another context.
 * Ownership: nothing.
 * Context: the page lock and the page-table lock of the entry held, mmap_lock held. Allocates nothing.
 */
enum rmap_status rmap_page_move_anon(struct rmap_page *page, struct rmap_vma *vma, uint64_t addr);

/**
 * Counts the mapping that fork copies. An exclusive anonymous page is exclusive no more: write-protect both entries.
 *
 * Parameters: page, mapped by the parent; child, the child's VMA; addr, of the entry in it; level, one of enum
 * rmap_level.
 * Returns: RMAP_OK; RMAP_ERR_BUSY when the page is pinned and exclusive: copy it for the child instead;
 * RMAP_ERR_NOT_MAPPED when nothing maps the page; RMAP_ERR_INVAL for a bad address or level; RMAP_ERR_FOREIGN for a
 * page of another context.
 * Ownership: the mapping owns a reference to the page, which the caller gives it (rmap_page_get).
 * Context: the page-table locks of both entries held, the parent's first. Allocates nothing:
 * memory is reserved before (rmap_reserve; RMAP_ERR_NOMEM when the engine needs it and it was not).
 */
enum rmap_status rmap_page_dup(struct rmap_page *page, struct rmap_vma *child, uint64_t addr, uint32_t level);

/**
 * Tells that an entry moves from one VMA to its copy (rmap_vma_move): it is set at the new address, and still there at
 * the old one. No count changes.
 *
 * Parameters: page, that both entries map; source and old, where it comes from; copy and new_addr, where it goes. Both
 * VMAs of one address space.
 * Returns: RMAP_OK; RMAP_ERR_NOT_MAPPED when nothing maps the page; RMAP_ERR_INVAL for a bad address, or VMAs of
 * different address spaces; RMAP_ERR_FOREIGN for a page of another context.
 * Ownership: the mapping keeps its reference to the page.
 * Context: the page-table locks of both entries and rmap_vma_move_lock of source held. Allocates nothing.
 */
enum rmap_status rmap_page_moved(struct rmap_page *page,
                                 struct rmap_vma *source,
                                 uint64_t old,
                                 struct rmap_vma *copy,
                                 uint64_t new_addr);

/**
 * Uncounts a mapping whose entry was cleared. What the page belongs to stays, as a hint, until rmap_page_release.
 *
 * Parameters: page; vma; addr and level, as they were counted; last, or NULL, receives whether nothing maps the page
 * (any page of its compound page) any more.
 * Returns: RMAP_OK; RMAP_ERR_NOT_MAPPED when no such mapping is counted; RMAP_ERR_INVAL for a bad address or level;
 * RMAP_ERR_FOREIGN for a page of another context.
 * Ownership: the mapping's reference is the caller's again; rmap_page_put gives it back.
 * Context: the page-table lock of the entry held. Allocates nothing.
 */
enum rmap_status rmap_page_remove(struct rmap_page *page,
                                  struct rmap_vma *vma,
                                  uint64_t addr,
                                  uint32_t level,
                                  bool *last);

/**
 * Makes a file. Shared anonymous memory is a file without a name.
 *
 * Parameters: ctx; pages, its size; anonymous, whether it is shared anonymous memory, whose pages go to swap;
 * private_data, the program's; out, receives the file.
 * Returns: RMAP_OK; RMAP_ERR_NOMEM.
 * Ownership: the file is the program's, until rmap_file_free.
 * Context: any thread. Calls the allocator.
 */
enum rmap_status rmap_file_new(struct rmap_ctx *ctx,
                               uint64_t pages,
                               bool anonymous,
                               void *private_data,
                               struct rmap_file **out);

/**
 * Frees a file.
 *
 * Parameters: file, or NULL, which is nothing to do.
 * Returns: RMAP_OK; RMAP_ERR_BUSY when a VMA maps it or a page belongs to it; RMAP_ERR_LOCK when this thread holds a
 * lock of librmap's.
 * Ownership: on success file is gone.
 * Context: no other thread uses file, no locks held. Takes i_mmap_rwsem for reading. Calls the allocator's free.
 */
enum rmap_status rmap_file_free(struct rmap_file *file);

/**
 * Tells the program's pointer of a file.
 *
 * Parameters: file.
 * Returns: the pointer; NULL when file is NULL.
 * Ownership: the program's.
 * Context: any thread, any locks held, callbacks too. Takes no lock.
 */
void *rmap_file_private(const struct rmap_file *file);

/**
 * Tells the size of a file, in pages.
 *
 * Parameters: file.
 * Returns: the size; 0 when file is NULL.
 * Ownership: nothing.
 * Context: any thread, any locks held. Takes no lock.
 */
uint64_t rmap_file_pages(const struct rmap_file *file);

/**
 * Sets the size of a file. Pages beyond it are the program's to unmap and remove.
 *
 * Parameters: file; pages, its new size.
 * Returns: RMAP_OK.
 * Ownership: nothing.
 * Context: any thread. Takes no lock.
 */
enum rmap_status rmap_file_set_pages(struct rmap_file *file, uint64_t pages);

/**
 * Puts a page into a file.
 *
 * Parameters: file; page, that belongs to nobody, referred to by the caller; pgoff, its page offset.
 * Returns: RMAP_OK; RMAP_ERR_NOMEM; RMAP_ERR_EXISTS when the file has a page there; RMAP_ERR_BUSY when the page
 * belongs to somebody; RMAP_ERR_LOCK when it is not locked; RMAP_ERR_STALE when its frame is free; RMAP_ERR_FOREIGN
 * for a page of another context; RMAP_ERR_INVAL for a tail.
 * Ownership: the file takes a reference of its own.
 * Context: the page lock held. Takes the lock of the page cache. Calls the allocator, not under it.
 */
enum rmap_status rmap_file_add_page(struct rmap_file *file, struct rmap_page *page, uint64_t pgoff);

/**
 * Takes a page out of a file.
 *
 * Parameters: file; page, one of its pages.
 * Returns: RMAP_OK; RMAP_ERR_FOREIGN when it is not; RMAP_ERR_BUSY when it is mapped; RMAP_ERR_LOCK when it is not
 * locked.
 * Ownership: the file's reference is the caller's; rmap_page_put gives it back.
 * Context: the page lock held. May call the allocator.
 */
enum rmap_status rmap_file_remove_page(struct rmap_file *file, struct rmap_page *page);

/**
 * Finds the page at an offset of a file.
 *
 * Parameters: file; pgoff; out, receives the page.
 * Returns: RMAP_OK; RMAP_ERR_NOT_MAPPED when the file has no page there.
 * Ownership: the caller owns a new reference. That the page is still there is certain only under its lock: compare
 * rmap_page_index again.
 * Context: lock order: after the page lock. Takes the lock of the file's page cache.
 */
enum rmap_status rmap_file_find_page(struct rmap_file *file, uint64_t pgoff, struct rmap_page **out);

/**
 * Counts a mapping of a file's page.
 *
 * Parameters: page, of the file that vma maps, at the offset that it maps at addr; vma; addr and level as for
 * rmap_page_add_new_anon.
 * Returns: RMAP_OK; RMAP_ERR_INVAL for a bad address or level, or another page than vma maps there; RMAP_ERR_FOREIGN
 * for a page of another context.
 * Ownership: the mapping owns a reference to the page, which the caller gives it.
 * Context: the page-table lock of the entry held, mmap_lock held; the page lock, or another way to know that the page
 * stays in its file. Allocates nothing: memory is reserved before (rmap_reserve; RMAP_ERR_NOMEM when the engine needs
 * it and it was not).
 */
enum rmap_status rmap_page_add_file(struct rmap_page *page, struct rmap_vma *vma, uint64_t addr, uint32_t level);

/**
 * Finds the anon_vma of a page and takes a reference to it, without a lock. It stays the page's, or of its family,
 * while the reference lives.
 *
 * Parameters: ctx; page; out, receives the anon_vma.
 * Returns: RMAP_OK; RMAP_ERR_NOT_MAPPED when the page is not mapped, or not anonymous; RMAP_ERR_FOREIGN for a page of
 * another context; RMAP_ERR_NOT_SUPPORTED when the context's engine is not anon_vma.
 * Ownership: the caller owns the reference, until rmap_anon_vma_put.
 * Context: any thread, any locks held; a reference to the page. Waits for nobody, allocates nothing.
 */
enum rmap_status rmap_page_get_anon_vma(struct rmap_ctx *ctx, struct rmap_page *page, struct rmap_anon_vma **out);

/**
 * Gives a reference to an anon_vma back.
 *
 * Parameters: ctx; anon_vma.
 * Returns: RMAP_OK; RMAP_ERR_STALE when nobody refers to it any more.
 * Ownership: the reference is gone.
 * Context: any thread, any locks held. Takes no lock.
 */
enum rmap_status rmap_anon_vma_put(struct rmap_ctx *ctx, struct rmap_anon_vma *anon_vma);

/**
 * Locks the tree of an anon_vma for reading, waiting for it.
 *
 * Parameters: ctx; anon_vma, referred to by the caller; lock, receives what rmap_anon_vma_unlock_read needs.
 * Returns: RMAP_OK; RMAP_ERR_STALE when nobody refers to it any more.
 * Ownership: the lock is this thread's, until rmap_anon_vma_unlock_read. The reference stays the caller's, and is
 * needed until then.
 * Context: lock order: after mmap_lock, page lock and i_mmap_rwsem, before page-table locks; not held by this thread
 * already. Waits.
 */
enum rmap_status rmap_anon_vma_lock_read(struct rmap_ctx *ctx,
                                         struct rmap_anon_vma *anon_vma,
                                         struct rmap_anon_vma_lock *lock);

/**
 * Finds the anon_vma of a page and locks its tree for reading, waiting for it. While it is locked, no VMA that maps
 * the page is unlinked.
 *
 * Parameters: ctx; page; lock, receives what rmap_walk_locked and rmap_anon_vma_unlock_read need.
 * Returns: RMAP_OK; RMAP_ERR_NOT_MAPPED when the page is not mapped, or not anonymous; RMAP_ERR_FOREIGN for a page of
 * another context; RMAP_ERR_NOT_SUPPORTED when the context's engine is not anon_vma.
 * Ownership: the lock is this thread's, until rmap_anon_vma_unlock_read.
 * Context: a reference to the page; lock order as for rmap_anon_vma_lock_read. Waits.
 */
enum rmap_status rmap_page_lock_anon_vma_read(struct rmap_ctx *ctx,
                                              struct rmap_page *page,
                                              struct rmap_anon_vma_lock *lock);

/**
 * As rmap_page_lock_anon_vma_read, without waiting.
 *
 * Parameters: ctx; page; lock, as there.
 * Returns: RMAP_OK; RMAP_ERR_AGAIN when it would have to wait; RMAP_ERR_NOT_MAPPED and RMAP_ERR_FOREIGN as there.
 * Ownership: as there.
 * Context: a reference to the page; not held by this thread already. Does not wait.
 */
enum rmap_status rmap_page_trylock_anon_vma_read(struct rmap_ctx *ctx,
                                                 struct rmap_page *page,
                                                 struct rmap_anon_vma_lock *lock);

/**
 * Unlocks the tree of an anon_vma.
 *
 * Parameters: lock, as one of the locking functions filled it.
 * Returns: RMAP_OK; RMAP_ERR_LOCK when it says that nothing is locked.
 * Ownership: the lock is gone, and lock says so.
 * Context: the thread that locked it.
 */
enum rmap_status rmap_anon_vma_unlock_read(struct rmap_anon_vma_lock *lock);

/**
 * Gets the memory that the engine may need for mappings of this thread's. Only RMAP_ENGINE_PTE_CHAIN needs any: with
 * the others this does nothing, at the cost of a call.
 *
 * Parameters: ctx; mappings, how many entries this thread is about to count (rmap_page_add_new_anon,
 * rmap_page_add_anon, rmap_page_add_file, rmap_page_dup). One of RMAP_LEVEL_ENTIRE counts as one, and one more for
 * each page.
 * Returns: RMAP_OK; RMAP_ERR_NOMEM.
 * Ownership: the memory is this thread's until it has called rmap_unreserve for as many mappings.
 * Context: no page-table, anon_vma or i_mmap lock held; mmap_lock and page locks may be. Calls the allocator.
 */
enum rmap_status rmap_reserve(struct rmap_ctx *ctx, size_t mappings);

/**
 * Gives back what rmap_reserve got for mappings that were made meanwhile, or will not be.
 *
 * Parameters: ctx, as for rmap_reserve; mappings, as many as were reserved, or some of them.
 * Returns: RMAP_OK; RMAP_ERR_INVAL when this thread has not reserved for so many.
 * Ownership: what was not used is everybody's.
 * Context: the thread that reserved; any locks held.
 */
enum rmap_status rmap_unreserve(struct rmap_ctx *ctx, size_t mappings);

/**
 * Visits every VMA that may map a page, parents before children.
 *
 * Parameters: ctx; page, of a compound page any; control, how; end, or NULL, receives how it ended.
 * Returns: RMAP_OK, also when it was stopped or there was nobody to visit; RMAP_ERR_AGAIN with RMAP_WALK_TRY, when it
 * would have to wait: nobody was visited; RMAP_ERR_LOCK when the page is not locked; RMAP_ERR_INVAL when the control's
 * size is too small; RMAP_ERR_NOT_SUPPORTED for an unknown flag; RMAP_ERR_FOREIGN for a page of another context.
 * Ownership: VMAs shown are good until the function returns to the walk.
 * Context: the page lock held, a reference to the page; no anon_vma, i_mmap or page-table lock. Waits.
 */
enum rmap_status rmap_walk(struct rmap_ctx *ctx,
                           struct rmap_page *page,
                           const struct rmap_walk_control *control,
                           enum rmap_walk_end *end);

/**
 * As rmap_walk, for a caller that has locked the anon_vma of an anonymous page.
 *
 * Parameters: ctx; page; lock, filled by a locking function on this thread; control, whose anon_lock and flags are not
 * used; end, or NULL, receives how it ended.
 * Returns: RMAP_OK; RMAP_ERR_LOCK when the page or lock is not locked; else as rmap_walk.
 * Ownership: the lock stays the caller's.
 * Context: the page lock and the lock held.
 */
enum rmap_status rmap_walk_locked(struct rmap_ctx *ctx,
                                  struct rmap_page *page,
                                  const struct rmap_anon_vma_lock *lock,
                                  const struct rmap_walk_control *control,
                                  enum rmap_walk_end *end);

/**
 * Lists the entries that map a page.
 *
 * Parameters: ctx; page, of a compound page any; out, room for cap entries, or NULL when cap is 0; cap; n, receives
 * how many there are, which may be more than cap.
 * Returns: RMAP_OK; RMAP_ERR_LOCK when the page is not locked; RMAP_ERR_FOREIGN for a page of another context.
 * Ownership: address spaces and VMAs in the list are not new references: they are good while the program knows that
 * they are there, as when it holds their mmap_lock.
 * Context: as for rmap_walk. Takes page-table locks.
 */
enum rmap_status rmap_page_mappings(struct rmap_ctx *ctx,
                                    struct rmap_page *page,
                                    struct rmap_mapping *out,
                                    size_t cap,
                                    size_t *n);

/**
 * Tries to take a page out of every page table, putting the references of its mappings.
 *
 * A file's page leaves nothing behind. An anonymous page leaves its swap entry, and must therefore be in the swap
 * cache (RMAP_PG_SWAP_CACHE, and its slot in rmap_page_private), or be lazily freed and clean. A page that is pinned,
 * or mapped by a VMA with RMAP_VM_LOCKED, stays mapped there; entries replaced until then stay replaced, they fault
 * back.
 *
 * Parameters: ctx; page, of a compound page any; flags, bits of RMAP_TTU_*; hooks, or NULL; unmapped, receives whether
 * nothing maps the page any more.
 * Returns: RMAP_OK, also when the page stays mapped; RMAP_ERR_LOCK when it is not locked; RMAP_ERR_BUSY when it has no
 * reference beside its mappings'; RMAP_ERR_NOT_SUPPORTED for an unknown flag; RMAP_ERR_INVAL when the size of hooks is
 * too small; RMAP_ERR_FOREIGN for a page of another context.
 * Ownership: each mapping that goes gives its reference back. The caller's own stays.
 * Context: the page lock held, a reference to the page; no anon_vma, i_mmap or page-table lock. Waits, takes
 * page-table locks.
 */
enum rmap_status rmap_try_to_unmap(struct rmap_ctx *ctx,
                                   struct rmap_page *page,
                                   uint32_t flags,
                                   const struct rmap_unmap_hooks *hooks,
                                   bool *unmapped);

/**
 * Tests and clears the young bit of every mapping of a page. Ends early at a VMA with RMAP_VM_LOCKED.
 *
 * Parameters: ctx; page, of a compound page any; out, receives what was found.
 * Returns: RMAP_OK; RMAP_ERR_LOCK when the page is not locked; RMAP_ERR_FOREIGN for a page of another context.
 * Ownership: nothing.
 * Context: the page lock held, a reference to the page. Does not wait for the anon_vma's or the file's lock; takes
 * page-table locks.
 */
enum rmap_status rmap_page_referenced(struct rmap_ctx *ctx, struct rmap_page *page, struct rmap_referenced *out);

/**
 * Takes the write and dirty bits of every mapping of a page by a VMA with RMAP_VM_SHARED, so that the next write is
 * noticed.
 *
 * Parameters: ctx; page, of a compound page any; cleaned, or NULL, receives how many mappings had either: if any, the
 * page is dirty.
 * Returns: RMAP_OK; RMAP_ERR_LOCK when the page is not locked; RMAP_ERR_FOREIGN for a page of another context.
 * Ownership: nothing.
 * Context: the page lock held, a reference to the page; no anon_vma, i_mmap or page-table lock. Waits, takes
 * page-table locks.
 */
enum rmap_status rmap_page_mkclean(struct rmap_ctx *ctx, struct rmap_page *page, uint32_t *cleaned);

/**
 * Draws the reverse map of a page, in the language of Graphviz (dot -Tsvg makes a picture of it): the page with its
 * mapping word, and what that leads to; what the engine keeps for it, with anon_vma the chains of the VMAs and all
 * anon_vmas in them; the VMAs that a walk visits; and the entries at the candidate addresses, those that map the page
 * with a thick border, the others dashed. Names in it are small and in order of appearance, so equal states make equal
 * texts.
 *
 * Parameters: ctx; page, of a compound page any; caption, a text to stand above it, or NULL; out and size, where it is
 * written to, cut off if need be, with a terminating NUL, when size is above 0; length, receives its length, which may
 * be more than fits. Other threads may make it another until the next call.
 * Returns: RMAP_OK, also when it was cut off; RMAP_ERR_LOCK when the page is not locked; RMAP_ERR_FOREIGN for a page
 * of another context; RMAP_ERR_NOMEM.
 * Ownership: the buffer is the program's.
 * Context: the page lock held, a reference to the page; no anon_vma, i_mmap or page-table lock. Waits. Takes
 * page-table locks. Calls the allocator, under the page lock.
 */
enum rmap_status rmap_dump_dot(struct rmap_ctx *ctx,
                               struct rmap_page *page,
                               const char *caption,
                               char *out,
                               size_t size,
                               size_t *length);

/**
 * Fills a configuration with the defaults: the engine anon_vma, 65,536 frames with contents, no swap, faults on files
 * map 16 pages, addresses from 64 KiB to 128 TiB, nothing charged, librmap's own memory.
 *
 * Parameters: config, to be filled; size, sizeof(struct rmap_machine_config) in the program.
 * Returns: RMAP_OK; RMAP_ERR_INVAL when no version of the struct is so small.
 * Ownership: the struct is the program's.
 * Context: any. Takes no lock.
 */
enum rmap_status rmap_machine_config_init(struct rmap_machine_config *config, size_t size);

/**
 * Makes a machine.
 *
 * Parameters: config, or NULL for the defaults; out, receives the machine.
 * Returns: RMAP_OK; RMAP_ERR_NOMEM; RMAP_ERR_NOT_SUPPORTED for an unknown engine, flag, or kind of contents or swap;
 * RMAP_ERR_INVAL for a size that is too small, an allocator of one function, one charge function without the other,
 * addresses or frame numbers out of range, a fault_around that is no power of two, or RMAP_SWAP_NOWHERE with contents;
 * RMAP_ERR_IO when the swap file cannot be had.
 * Ownership: the machine is the program's, until rmap_machine_free. config is copied.
 * Context: any thread, no locks held. Calls the allocator.
 */
enum rmap_status rmap_machine_new(const struct rmap_machine_config *config, struct rmap_machine **out);

/**
 * Frees a machine and all its memory.
 *
 * Parameters: machine, or NULL, which is nothing to do.
 * Returns: RMAP_OK; RMAP_ERR_BUSY when an address space or a file is left; RMAP_ERR_LOCK when this thread holds a lock
 * of librmap's.
 * Ownership: on success the machine is gone in any build: a later use is undefined behaviour. A swap file of the
 * program's stays.
 * Context: no other thread uses the machine, no locks held. Calls the allocator.
 */
enum rmap_status rmap_machine_free(struct rmap_machine *machine);

/**
 * Tells the figures of a machine.
 *
 * Parameters: machine; stats, its size set, receives the figures.
 * Returns: RMAP_OK; RMAP_ERR_NOMEM; RMAP_ERR_INVAL when no version of the struct is so small; RMAP_ERR_LOCK from a
 * callback, or when this thread holds a lock of librmap's.
 * Ownership: the struct is the program's.
 * Context: any thread, no locks held. Takes each mmap_lock for reading. Calls the allocator.
 */
enum rmap_status rmap_machine_stats(const struct rmap_machine *machine, struct rmap_machine_stats *stats);

/**
 * Checks everything that is true of a machine at rest: what the reverse map finds against a scan of all page tables,
 * counts of mappings and references, figures, swap slots.
 *
 * Parameters: machine; reason, room for size bytes, or NULL, receives what is wrong as an English sentence, cut to
 * fit; size.
 * Returns: RMAP_OK; RMAP_ERR_INTERNAL when something is wrong, which is a bug in librmap, or the program has broken a
 * rule that is not checked: then alone the reason is written; RMAP_ERR_NOMEM; RMAP_ERR_LOCK from a callback, or when
 * this thread holds a lock of librmap's.
 * Ownership: nothing.
 * Context: no other thread uses the machine, no locks held. Calls the allocator.
 */
enum rmap_status rmap_machine_check(struct rmap_machine *machine, char *reason, size_t size);

/**
 * Tells how many frames of a machine are free: as the figure of rmap_machine_stats, without its cost.
 *
 * Parameters: machine.
 * Returns: the number; 0 when machine is NULL.
 * Ownership: nothing.
 * Context: any thread, any locks held, callbacks too. Takes no lock.
 */
uint64_t rmap_machine_free_frames(const struct rmap_machine *machine);

/**
 * Makes an empty address space.
 *
 * Parameters: machine; out, receives the address space.
 * Returns: RMAP_OK; RMAP_ERR_NOMEM; RMAP_ERR_LOCK from a callback, or when this thread holds a lock of librmap's.
 * Ownership: the address space is the program's, until rmap_machine_exit or rmap_machine_exec.
 * Context: any thread, no locks held. Calls the allocator.
 */
enum rmap_status rmap_machine_mm_new(struct rmap_machine *machine, struct rmap_machine_mm **out);

/**
 * Makes a copy of an address space, which shares every private page with it until either writes the page. Regions with
 * MADV_DONTFORK are left out, those with MADV_WIPEONFORK are empty in the copy; locked ones are not locked there.
 * Pinned pages are copied at once.
 *
 * Parameters: mm; out, receives the copy.
 * Returns: RMAP_OK; RMAP_ERR_NOMEM when memory or frames ran out, or the charge function refused; RMAP_ERR_LOCK from a
 * callback, or when this thread holds a lock of librmap's.
 * Ownership: the copy is the program's, until rmap_machine_exit or rmap_machine_exec.
 * Context: any thread, no locks held. Takes mmap_lock for writing. Calls the allocator, the charge functions, and
 * `open` of regions.
 */
enum rmap_status rmap_machine_fork(struct rmap_machine_mm *mm, struct rmap_machine_mm **out);

/**
 * Puts an empty address space in the place of one: the program starts another.
 *
 * Parameters: mm; out, receives the new address space; it may point to mm.
 * Returns: RMAP_OK; RMAP_ERR_NOMEM; RMAP_ERR_LOCK from a callback, or when this thread holds a lock of librmap's.
 * Ownership: on success mm is gone, as by rmap_machine_exit, and the new one is the program's.
 * Context: no other thread uses mm, no locks held. Takes mmap_lock for writing. Calls the allocator, `uncharge`, and
 * `close` of regions.
 */
enum rmap_status rmap_machine_exec(struct rmap_machine_mm *mm, struct rmap_machine_mm **out);

/**
 * Ends an address space. Everything in it goes; pages that others map stay theirs.
 *
 * Parameters: mm, or NULL, which is nothing to do.
 * Returns: RMAP_OK; RMAP_ERR_LOCK from a callback, or when this thread holds a lock of librmap's.
 * Ownership: on success mm is gone.
 * Context: no other thread uses mm, no locks held. Takes mmap_lock for writing. Calls the allocator's free,
 * `uncharge`, and `close` of regions.
 */
enum rmap_status rmap_machine_exit(struct rmap_machine_mm *mm);

/**
 * Tells the number of an address space, which no other of its machine ever has: mappings and charges name it so.
 *
 * Parameters: mm.
 * Returns: the number; 0 when mm is NULL, which is nobody's number.
 * Ownership: nothing.
 * Context: any thread, any locks held, callbacks too. Takes no lock.
 */
uint64_t rmap_machine_mm_id(const struct rmap_machine_mm *mm);

/**
 * Tells the figures of an address space, each of its own moment while other threads work.
 *
 * Parameters: mm; counters, its size set, receives the figures.
 * Returns: RMAP_OK; RMAP_ERR_INVAL when no version of the struct is so small.
 * Ownership: the struct is the program's.
 * Context: any thread, any locks held, callbacks too. Takes no lock.
 */
enum rmap_status rmap_machine_counters(const struct rmap_machine_mm *mm, struct rmap_machine_counters *counters);

/**
 * Makes a file. Its pages are read when they are first touched, and stay in memory until rmap_machine_swap_out takes
 * them or the file goes. Nothing is ever written back: a page that was written stays until the file goes.
 *
 * Parameters: machine; pages, its size; read_page, or NULL, then pages begin as zero; arg, passed to read_page; out,
 * receives the file.
 * Returns: RMAP_OK; RMAP_ERR_NOMEM; RMAP_ERR_LOCK from a callback, or when this thread holds a lock of librmap's.
 * Ownership: the file is the program's, until rmap_machine_file_free; read_page stays callable until then.
 * Context: any thread, no locks held. Calls the allocator.
 */
enum rmap_status rmap_machine_file_new(struct rmap_machine *machine,
                                       uint64_t pages,
                                       rmap_machine_read_page read_page,
                                       void *arg,
                                       struct rmap_machine_file **out);

/**
 * Makes shared memory: a file without a name, whose pages begin as zero.
 *
 * Parameters: machine; pages, its size; out, receives the file.
 * Returns: RMAP_OK; RMAP_ERR_NOMEM; RMAP_ERR_LOCK from a callback, or when this thread holds a lock of librmap's.
 * Ownership: the file is the program's, until rmap_machine_file_free.
 * Context: any thread, no locks held. Calls the allocator.
 */
enum rmap_status rmap_machine_shmem_new(struct rmap_machine *machine, uint64_t pages, struct rmap_machine_file **out);

/**
 * Frees a file, and what it has in memory.
 *
 * Parameters: file, or NULL, which is nothing to do.
 * Returns: RMAP_OK; RMAP_ERR_BUSY when a region maps it; RMAP_ERR_LOCK from a callback, or when this thread holds a
 * lock of librmap's.
 * Ownership: on success file is gone.
 * Context: no other thread uses file, no locks held. Takes i_mmap_rwsem for reading. Calls the allocator's free.
 */
enum rmap_status rmap_machine_file_free(struct rmap_machine_file *file);

/**
 * Tells the size of a file, in pages.
 *
 * Parameters: file.
 * Returns: the size; 0 when file is NULL.
 * Ownership: nothing.
 * Context: any thread, any locks held, callbacks too. Takes no lock.
 */
uint64_t rmap_machine_file_pages(const struct rmap_machine_file *file);

/**
 * Maps a range: mmap.
 *
 * Parameters: mm; request, what and where; addr, receives where it begins.
 * Returns: RMAP_OK; RMAP_ERR_INVAL for a length of 0, an overflow, bad prot, contradicting flags, a fixed address
 * within a page, or a size of the request or its ops that is too small; RMAP_ERR_NOT_SUPPORTED for an unknown flag;
 * RMAP_ERR_NOSPACE when no gap is large enough, or the fixed range leaves the address space; RMAP_ERR_ACCESS when it
 * begins too low, or the file may not be written; RMAP_ERR_EXISTS with FIXED_NOREPLACE, when something is there;
 * RMAP_ERR_FOREIGN for a file of another machine; RMAP_ERR_NOMEM; RMAP_ERR_LOCK from a callback, or when this thread
 * holds a lock of librmap's. FIXED with a file over regions leaves the range empty if other threads use up the memory
 * that was set aside. Pages that cannot be faulted in at once are no error.
 * Ownership: request is copied. The region keeps file in use.
 * Context: any thread, no locks held. Takes mmap_lock for writing. Calls the allocator, the charge functions, and
 * functions of regions.
 */
enum rmap_status rmap_machine_mmap(struct rmap_machine_mm *mm, const struct rmap_map_request *request, uint64_t *addr);

/**
 * Unmaps a range: munmap. Holes are no error.
 *
 * Parameters: mm; addr and len, the range; len is rounded up to pages.
 * Returns: RMAP_OK; RMAP_ERR_INVAL when addr is within a page, or the range is empty or leaves the address space;
 * RMAP_ERR_NOMEM when there is no memory to cut a region; RMAP_ERR_LOCK from a callback, or when this thread holds a
 * lock of librmap's.
 * Ownership: nothing.
 * Context: any thread, no locks held. Takes mmap_lock for writing. Calls the allocator, `uncharge`, and functions of
 * regions.
 */
enum rmap_status rmap_machine_munmap(struct rmap_machine_mm *mm, uint64_t addr, uint64_t len);

/**
 * Changes what a range permits: mprotect. It ends at the first region that refuses, and at a hole; what lies below is
 * done then.
 *
 * Parameters: mm; addr and len, the range; prot, bits of RMAP_VM_READ, RMAP_VM_WRITE, RMAP_VM_EXEC.
 * Returns: RMAP_OK; RMAP_ERR_INVAL when addr is within a page, the range overflows, or prot has other bits;
 * RMAP_ERR_NOT_MAPPED at a hole; RMAP_ERR_ACCESS when a region may never permit it; RMAP_ERR_NOMEM when there is no
 * memory to cut a region; RMAP_ERR_LOCK from a callback, or when this thread holds a lock of librmap's.
 * Ownership: nothing.
 * Context: as for rmap_machine_mmap.
 */
enum rmap_status rmap_machine_mprotect(struct rmap_machine_mm *mm, uint64_t addr, uint64_t len, uint64_t prot);

/**
 * Makes a range smaller, larger, or moves it with its pages: mremap.
 *
 * Parameters: mm; old and old_len, the range; old_len 0 maps the pages of a shared region a second time; new_len;
 * flags, bits of RMAP_MREMAP_*; new_addr, where to with FIXED, and with DONTUNMAP a hint, of which 0 is none; addr,
 * receives where it is.
 * Returns: RMAP_OK; RMAP_ERR_INVAL for addresses within a page, a new_len of 0, an overflow, contradicting flags,
 * ranges that overlap, or a private range mapped a second time; RMAP_ERR_NOT_SUPPORTED for an unknown flag;
 * RMAP_ERR_NOT_MAPPED when nothing is at old, its region ends within the range, or may not grow; RMAP_ERR_NOSPACE when
 * it cannot grow in place and may not move, or no gap is large enough; RMAP_ERR_ACCESS when new_addr is too low;
 * RMAP_ERR_NOMEM; RMAP_ERR_LOCK from a callback, or when this thread holds a lock of librmap's. With FIXED and equal
 * lengths the range may span several regions, and an error leaves those moved that came first.
 * Ownership: nothing.
 * Context: as for rmap_machine_mmap.
 */
enum rmap_status rmap_machine_mremap(struct rmap_machine_mm *mm,
                                     uint64_t old,
                                     uint64_t old_len,
                                     uint64_t new_len,
                                     uint32_t flags,
                                     uint64_t new_addr,
                                     uint64_t *addr);

/**
 * Says where the heap begins, and that it is empty. What was mapped for an earlier one stays.
 *
 * Parameters: mm; addr, its first byte.
 * Returns: RMAP_OK; RMAP_ERR_LOCK from a callback, or when this thread holds a lock of librmap's.
 * Ownership: nothing.
 * Context: any thread, no locks held. Takes mmap_lock for writing.
 */
enum rmap_status rmap_machine_set_brk_start(struct rmap_machine_mm *mm, uint64_t addr);

/**
 * Moves the end of the heap: brk.
 *
 * Parameters: mm; addr, the first byte after it; end, receives where it ends: as before, if addr lies below its start,
 * something is in the way, or memory ran out.
 * Returns: RMAP_OK; RMAP_ERR_LOCK from a callback, or when this thread holds a lock of librmap's.
 * Ownership: nothing.
 * Context: as for rmap_machine_mmap.
 */
enum rmap_status rmap_machine_brk(struct rmap_machine_mm *mm, uint64_t addr, uint64_t *end);

/**
 * Says what is to become of a range: madvise. A hole is passed over, and reported when the rest is done.
 *
 * Parameters: mm; addr and len, the range; advice, Linux's number: MADV_DONTNEED 4 and MADV_FREE 8 let pages go,
 * DONTFORK 10, DOFORK 11, WIPEONFORK 18 and KEEPONFORK 19 say what a fork copies, POPULATE_READ 22 and POPULATE_WRITE
 * 23 fault pages in, DONTNEED_LOCKED 24 is as DONTNEED, GUARD_INSTALL 102 and GUARD_REMOVE 103 make and end ranges
 * where every access fails, MERGEABLE 12, UNMERGEABLE 13, HUGEPAGE 14, NOHUGEPAGE 15, DONTDUMP 16 and DODUMP 17 set a
 * region's flag; NORMAL 0, RANDOM 1, SEQUENTIAL 2, WILLNEED 3, COLD 20 and PAGEOUT 21 do nothing.
 * Returns: RMAP_OK; RMAP_ERR_INVAL when addr is within a page, the range overflows, or a region is not of the kind
 * that the advice is for: what lies below it is done; RMAP_ERR_NOT_MAPPED when there is a hole; RMAP_ERR_NOT_SUPPORTED
 * for an unknown advice; RMAP_ERR_NOMEM when there is no memory to cut a region; of the POPULATEs, as
 * rmap_machine_fault; RMAP_ERR_LOCK from a callback, or when this thread holds a lock of librmap's.
 * Ownership: nothing.
 * Context: as for rmap_machine_mmap.
 */
enum rmap_status rmap_machine_madvise(struct rmap_machine_mm *mm, uint64_t addr, uint64_t len, uint32_t advice);

/**
 * Keeps the pages of a range in memory: mlock, or mlock2 with MLOCK_ONFAULT.
 *
 * Parameters: mm; addr and len, the range, widened to pages; onfault, whether pages are faulted in only as they are
 * needed, else at once.
 * Returns: RMAP_OK; RMAP_ERR_NOT_MAPPED at a hole, and what lies below it is locked; RMAP_ERR_INVAL when the range
 * overflows; RMAP_ERR_NOMEM when there is no memory to cut a region, or a page could not be had: then the range is
 * locked nevertheless; RMAP_ERR_LOCK from a callback, or when this thread holds a lock of librmap's.
 * Ownership: nothing.
 * Context: as for rmap_machine_mmap.
 */
enum rmap_status rmap_machine_mlock(struct rmap_machine_mm *mm, uint64_t addr, uint64_t len, bool onfault);

/**
 * Ends what rmap_machine_mlock began: munlock.
 *
 * Parameters: mm; addr and len, the range, widened to pages.
 * Returns: RMAP_OK; RMAP_ERR_NOT_MAPPED at a hole, and what lies below it is done; RMAP_ERR_INVAL when the range
 * overflows; RMAP_ERR_NOMEM when there is no memory to cut a region; RMAP_ERR_LOCK from a callback, or when this
 * thread holds a lock of librmap's.
 * Ownership: nothing.
 * Context: as for rmap_machine_mmap.
 */
enum rmap_status rmap_machine_munlock(struct rmap_machine_mm *mm, uint64_t addr, uint64_t len);

/**
 * Keeps the pages of all regions in memory: mlockall. What cannot be locked for want of memory stays as it is.
 *
 * Parameters: mm; current, whether the regions there are; future, whether those to come; onfault, as for
 * rmap_machine_mlock.
 * Returns: RMAP_OK; RMAP_ERR_INVAL when neither is asked for; RMAP_ERR_LOCK from a callback, or when this thread holds
 * a lock of librmap's.
 * Ownership: nothing.
 * Context: as for rmap_machine_mmap.
 */
enum rmap_status rmap_machine_mlockall(struct rmap_machine_mm *mm, bool current, bool future, bool onfault);

/**
 * Ends what rmap_machine_mlock and rmap_machine_mlockall began, for the regions there are and those to come:
 * munlockall.
 *
 * Parameters: mm.
 * Returns: RMAP_OK; RMAP_ERR_LOCK from a callback, or when this thread holds a lock of librmap's.
 * Ownership: nothing.
 * Context: as for rmap_machine_mmap.
 */
enum rmap_status rmap_machine_munlockall(struct rmap_machine_mm *mm);

/**
 * Names the anonymous regions of a range: PR_SET_VMA_ANON_NAME. Regions of different names do not merge. Holes are as
 * for rmap_machine_madvise.
 *
 * Parameters: mm; addr and len, the range; name, at most 79 bytes, printable and without any of \ ` $ [ ]; NULL takes
 * the names away.
 * Returns: RMAP_OK; RMAP_ERR_INVAL when addr is within a page, the range overflows, or the name is bad;
 * RMAP_ERR_NOT_MAPPED when there is a hole; RMAP_ERR_NOT_SUPPORTED at a region of a file, and what lies below it is
 * done; RMAP_ERR_NOMEM; RMAP_ERR_LOCK from a callback, or when this thread holds a lock of librmap's.
 * Ownership: name is copied.
 * Context: as for rmap_machine_mmap.
 */
enum rmap_status rmap_machine_set_name(struct rmap_machine_mm *mm, uint64_t addr, uint64_t len, const char *name);

/**
 * Does what an access does that the page tables do not allow: a page fault.
 *
 * Parameters: mm; addr; access, one of RMAP_ACCESS_*.
 * Returns: RMAP_OK: the access works, or is to be tried again, because another thread changed the entry meanwhile;
 * RMAP_ERR_NOT_MAPPED when no region is there; RMAP_ERR_ACCESS when it does not permit the access; RMAP_ERR_BUS when
 * nothing stands behind the address; RMAP_ERR_NOSPACE when a stack may not grow so far; RMAP_ERR_NOMEM when memory or
 * frames ran out, or the charge function refused; RMAP_ERR_UNSTABLE when the address space is being torn down;
 * RMAP_ERR_IO when swap could not be read; RMAP_ERR_INVAL for an unknown access; what the program's functions answer;
 * RMAP_ERR_LOCK from a callback, or when this thread holds a lock of librmap's.
 * Ownership: nothing.
 * Context: any thread, no locks held; the function `missing` may call it. Takes mmap_lock for reading, for writing
 * when a stack grows, and page locks. Calls the allocator, the charge functions, and functions of regions and files.
 */
enum rmap_status rmap_machine_fault(struct rmap_machine_mm *mm, uint64_t addr, uint32_t access);

/**
 * Reads memory of an address space as its program does, faulting as needed.
 *
 * Parameters: mm; addr; buf, receives len bytes; it may be NULL when len is 0; len.
 * Returns: RMAP_OK; else as rmap_machine_fault, and what lies before the page that failed is in buf.
 * Ownership: nothing.
 * Context: as for rmap_machine_fault.
 */
enum rmap_status rmap_machine_read(struct rmap_machine_mm *mm, uint64_t addr, void *buf, size_t len);

/**
 * Writes memory of an address space as its program does, faulting as needed.
 *
 * Parameters: mm; addr; buf, len bytes; it may be NULL when len is 0; len.
 * Returns: RMAP_OK; else as rmap_machine_fault, and what lies before the page that failed is written.
 * Ownership: nothing.
 * Context: as for rmap_machine_fault.
 */
enum rmap_status rmap_machine_write(struct rmap_machine_mm *mm, uint64_t addr, const void *buf, size_t len);

/**
 * Fills a missing page of a region with RMAP_MAP_UFFD_MISSING: UFFDIO_COPY.
 *
 * Parameters: mm; addr, on a page boundary; page, RMAP_PAGE_SIZE bytes.
 * Returns: RMAP_OK; RMAP_ERR_EXISTS when something is there; RMAP_ERR_INVAL when addr is within a page, or the region
 * is not of the kind; RMAP_ERR_NOT_SUPPORTED when it maps a file that is not shared memory; else as
 * rmap_machine_fault.
 * Ownership: the bytes are copied.
 * Context: as for rmap_machine_fault.
 */
enum rmap_status rmap_machine_uffd_copy(struct rmap_machine_mm *mm, uint64_t addr, const void *page);

/**
 * Fills a missing page of a region with RMAP_MAP_UFFD_MISSING with zeros: UFFDIO_ZEROPAGE.
 *
 * Parameters: mm; addr, on a page boundary.
 * Returns: RMAP_OK; else as rmap_machine_uffd_copy; RMAP_ERR_NOT_SUPPORTED for every region with a file.
 * Ownership: nothing.
 * Context: as for rmap_machine_fault.
 */
enum rmap_status rmap_machine_uffd_zeropage(struct rmap_machine_mm *mm, uint64_t addr);

/**
 * Pins the page at an address, faulting it in as needed: until it is unpinned it stays in its frame and is what the
 * program sees there. A fork copies it at once.
 *
 * Parameters: mm; addr; write, whether its holder writes it; out, receives the pin.
 * Returns: RMAP_OK; RMAP_ERR_NOT_SUPPORTED for an anonymous page that a shared region without a file has in common
 * with relatives; else as rmap_machine_fault.
 * Ownership: the pin is the program's, until rmap_machine_unpin.
 * Context: as for rmap_machine_fault.
 */
enum rmap_status rmap_machine_pin(struct rmap_machine_mm *mm,
                                  uint64_t addr,
                                  bool write,
                                  struct rmap_machine_pinned *out);

/**
 * Ends a pin. The address space may be gone.
 *
 * Parameters: machine; pinned, filled by rmap_machine_pin on this machine.
 * Returns: RMAP_OK; RMAP_ERR_STALE when nothing is pinned; RMAP_ERR_FOREIGN for a frame of another machine;
 * RMAP_ERR_LOCK from a callback, or when this thread holds a lock of librmap's.
 * Ownership: on success the pin is gone, and its members say so; a copy of it is not to be used.
 * Context: any thread, no locks held. May call the allocator's free.
 */
enum rmap_status rmap_machine_unpin(struct rmap_machine *machine, struct rmap_machine_pinned *pinned);

/**
 * Tells which frame is mapped at an address.
 *
 * Parameters: mm; addr; pfn, receives the frame, the zero page's for memory that was only read.
 * Returns: RMAP_OK; RMAP_ERR_NOT_MAPPED when none is: nothing was touched there, or the page is in swap.
 * Ownership: nothing: the frame stays there only as long as nobody changes the address space, or swaps out.
 * Context: any thread, any locks held, callbacks too. Takes no lock.
 */
enum rmap_status rmap_machine_pfn(const struct rmap_machine_mm *mm, uint64_t addr, uint64_t *pfn);

/**
 * Takes a page out of memory, if it may go: an anonymous one to swap, the clean one of a file for good. Who touches it
 * faults it back. Pages that are pinned or locked, dirty ones of files, and those of shared memory stay.
 *
 * Parameters: machine; pfn, the frame; gone, receives whether it is free now, or as soon as nobody looks at it any
 * more.
 * Returns: RMAP_OK, also when the page stays; RMAP_ERR_FOREIGN when it is no frame of the machine; RMAP_ERR_NOSPACE
 * when swap is full; RMAP_ERR_IO when it could not be written, RMAP_ERR_NOMEM when swap in memory could not be had:
 * the page is where it was; RMAP_ERR_LOCK from a callback, or when this thread holds a lock of librmap's.
 * Ownership: nothing.
 * Context: any thread, no locks held. Takes the page lock, anon_vma or i_mmap locks for reading, and page-table locks.
 * Calls the allocator, and `uncharge`.
 */
enum rmap_status rmap_machine_swap_out(struct rmap_machine *machine, uint64_t pfn, bool *gone);

/**
 * Lists the entries that map a frame, by a walk of the reverse map. The zero page has none.
 *
 * Parameters: machine; pfn, the frame; out, room for cap entries, or NULL when cap is 0; cap; n, receives how many
 * there are, which may be more than cap. If they all fit they are in order of address space and address.
 * Returns: RMAP_OK; RMAP_ERR_FOREIGN when it is no frame of the machine; RMAP_ERR_LOCK from a callback, or when this
 * thread holds a lock of librmap's.
 * Ownership: nothing.
 * Context: any thread, no locks held. Takes the page lock, anon_vma or i_mmap locks for reading, and page-table locks.
 */
enum rmap_status rmap_machine_page_mappings(struct rmap_machine *machine,
                                            uint64_t pfn,
                                            struct rmap_machine_mapping *out,
                                            size_t cap,
                                            size_t *n);

/**
 * Lists the entries that map a frame, by reading all page tables: what rmap_machine_page_mappings must find.
 *
 * Parameters: as for rmap_machine_page_mappings.
 * Returns: RMAP_OK; RMAP_ERR_FOREIGN when it is no frame of the machine; RMAP_ERR_NOMEM; RMAP_ERR_LOCK from a
 * callback, or when this thread holds a lock of librmap's.
 * Ownership: nothing.
 * Context: no locks held; while other threads change page tables the answer is of no one moment. Calls the allocator.
 */
enum rmap_status rmap_machine_oracle_mappings(struct rmap_machine *machine,
                                              uint64_t pfn,
                                              struct rmap_machine_mapping *out,
                                              size_t cap,
                                              size_t *n);

/**
 * Draws the reverse map of a frame: as rmap_dump_dot does.
 *
 * Parameters: machine; pfn, the frame; the rest as for rmap_dump_dot.
 * Returns: RMAP_OK, also when it was cut off; RMAP_ERR_NOT_MAPPED when the frame is free; RMAP_ERR_FOREIGN when it is
 * no frame of the machine; RMAP_ERR_NOMEM; RMAP_ERR_LOCK from a callback, or when this thread holds a lock of
 * librmap's.
 * Ownership: the buffer is the program's.
 * Context: any thread, no locks held. Takes the page lock, anon_vma or i_mmap locks for reading, and page-table locks.
 * Calls the allocator, under the page lock.
 */
enum rmap_status rmap_machine_dump_dot(struct rmap_machine *machine,
                                       uint64_t pfn,
                                       const char *caption,
                                       char *out,
                                       size_t size,
                                       size_t *length);

/**
 * Fills the configuration of a replay with the defaults: snapshots beside the trace, the engine anon_vma, frames for 4
 * GiB, nobody told. Members that later versions append are not touched: who knows them sets them, and `size`.
 *
 * Parameters: config, to be filled.
 * Returns: RMAP_OK.
 * Ownership: the struct is the program's.
 * Context: any. Takes no lock.
 */
enum rmap_status rmap_replay_config_init(struct rmap_replay_config *config);

/**
 * Replays a trace in a machine of its own, from its first event to its last. At each mark the state is compared with
 * the kernel's snapshot label.gz, or label.snap.gz, if there is one, and every mapped page is walked and held against
 * all page tables.
 *
 * Parameters: config, what; stats, its size set, or NULL, receives what happened; error, room for error_size bytes, or NULL,
 * receives why it failed, "file:line: reason" for a line of the trace or of a snapshot, cut to fit; error_size.
 * Returns: RMAP_OK, also when a mark does not hold; RMAP_ERR_INVAL for a trace or snapshot that cannot be read, a line
 * in it that is wrong or cannot be done, a snapshot that is missing in the directory named, or a size that is too
 * small; RMAP_ERR_NOT_SUPPORTED for an unknown engine or flag; RMAP_ERR_NOMEM; RMAP_ERR_NULL without a trace;
 * RMAP_ERR_LOCK from a callback, or when this thread holds a lock of librmap's. In each of these cases the error is
 * written.
 * Ownership: nothing.
 * Context: any thread, no locks held. Reads files. Takes librmap's own memory, and ends the process when there is none
 * for what it remembers of the trace: the one exception to the rule.
 */
enum rmap_status rmap_replay(const struct rmap_replay_config *config,
                             struct rmap_replay_stats *stats,
                             char *error,
                             size_t error_size);

/**
 * Draws the reverse map of the page that a process has at an address: as rmap_dump_dot does, with a caption that names
 * trace, mark, address and process.
 *
 * Parameters: state, of the mark; pid, a process or thread of the mark; addr, anywhere in the page; out, size and
 * length as for rmap_dump_dot.
 * Returns: RMAP_OK, also when it was cut off; RMAP_ERR_INVAL when the mark has no such process; RMAP_ERR_NOT_MAPPED
 * when it has no page of its own or of a file in memory there; RMAP_ERR_NOMEM; RMAP_ERR_LOCK when this thread holds a
 * lock of librmap's.
 * Ownership: the buffer is the program's.
 * Context: inside the mark function that was handed the state, on its thread, no locks held.
 */
enum rmap_status rmap_replay_dump_dot(const struct rmap_replay_state *state,
                                      uint32_t pid,
                                      uint64_t addr,
                                      char *out,
                                      size_t size,
                                      size_t *length);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* RMAP_H */
