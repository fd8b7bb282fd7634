//! Files that nobody uses any more, and the pages that they leave in memory.
//!
//! The machine remembers every file that it made. A file that is in no VMA and whose maker has dropped its reference is
//! *unused*: its pages are freed by the next sweep. Sweeps run when an address space exits, when a new file finds the
//! list full, and when frames run short.

use super::Machine;
use super::system::SoftSystem;
use crate::base::error::Result;
use crate::base::href::Href;
use crate::base::room::lock_with_room;
use crate::base::types::PgOff;
use crate::mm::{File, FileRef};
use crate::page::Page;

/// Page offsets looked at under one hold of a page cache's lock.
const BATCH: usize = 256;

impl<S: SoftSystem> Machine<S> {
    /// Remembers a file that was just made.
    pub(super) fn remember_file(&self, file: &FileRef<S>) -> Result<()> {
        let full = {
            let files = self.files.lock();
            files.len() == files.capacity()
        };
        if full {
            self.sweep_files();
        }
        lock_with_room(&self.files, &self.rmap.arena().heap)?.push(file.clone());
        Ok(())
    }

    /// Frees the pages of files that nobody uses, and the files. Returns how many pages it freed; a page that another
    /// thread has locked is left for the next sweep.
    pub fn sweep_files(&self) -> u64 {
        self.sweep(|file| Href::count(file) == 1)
    }

    /// Frees the pages of all files, which no VMA maps any more: the machine is going.
    pub(super) fn drop_files(&self) {
        self.sweep(|_| true);
        // The list's lock is let go before a file is dropped.
        let last = || self.files.lock().pop();
        while let Some(file) = last() {
            drop(file);
        }
    }

    fn sweep(&self, unused: impl Fn(&FileRef<S>) -> bool) -> u64 {
        let mut freed = 0;
        let mut at = 0;
        loop {
            let file = {
                let files = self.files.lock();
                let Some(next) = files.iter().skip(at).position(&unused) else { return freed };
                at += next;
                // Nobody else can get at an unused file but through this list: unused it stays.
                files[at].clone()
            };
            freed += self.empty_cache(&file);
            // The cache's lock comes before the list's.
            let empty = file.cached_pages() == 0;
            let gone = {
                let mut files = self.files.lock();
                // The list's reference and this one.
                let done = empty && Href::count(&file) == 2;
                match files.get(at) {
                    Some(same) if done && FileRef::same(same, &file) => Some(files.swap_remove(at)),
                    _ => {
                        at += 1;
                        None
                    }
                }
            };
            drop(gone);
        }
    }

    /// Takes all pages out of a file's cache that nothing maps and nobody has locked.
    pub(super) fn empty_cache(&self, file: &File<S>) -> u64 {
        let mut freed = 0;
        loop {
            let mut offsets: [PgOff; BATCH] = [0; BATCH];
            let mut found = 0;
            file.for_each_page(|pgoff, _| {
                if found < BATCH {
                    offsets[found] = pgoff;
                    found += 1;
                }
            });
            let mut removed = 0;
            for pgoff in &offsets[..found] {
                if let Some(page) = file.find_get_page(*pgoff) {
                    removed += u64::from(self.drop_cached(file, page));
                    self.put_page(page);
                }
            }
            freed += removed;
            if removed == 0 || found < BATCH {
                return freed;
            }
        }
    }

    /// Takes a page out of a file's cache unless it is mapped or locked. The caller has a reference.
    fn drop_cached(&self, file: &File<S>, page: &Page) -> bool {
        // A try: the caller may hold another page's lock.
        page.try_lock().is_some_and(|_locked| self.remove_cached(file, page))
    }

    /// Takes a page out of a file's cache unless it is mapped. Page lock held, and the caller has a reference.
    pub(super) fn remove_cached(&self, file: &File<S>, page: &Page) -> bool {
        let removed = file.remove_page(page).is_ok();
        if removed {
            let last = page.put();
            debug_assert!(!last, "the caller has a reference");
        }
        removed
    }
}
