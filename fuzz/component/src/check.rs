//! The oracle: what the embedder's tables say, and nothing else.

use crate::embedder::{Embedder, FRAMES, call, frame_of, is_present, ok};
use crate::table::addr_of;
use core::ptr::null_mut;
use rmap::handle::*;
use rmap::page::*;
use rmap::pte_ops::*;
use rmap::walk::*;

/// More than ever map one page.
const MOST: usize = 300;

impl Embedder {
    /// Who maps each frame: address space and address, in order.
    fn scan(&self) -> [Vec<(*mut rmap_mm, u64)>; FRAMES] {
        let mut found = [const { Vec::new() }; FRAMES];
        for space in &self.spaces {
            for (at, pte) in space.table.entries().filter(|(_, pte)| is_present(*pte)) {
                found[frame_of(pte.pfn)].push((space.mm, addr_of(at)));
            }
        }
        found.iter_mut().for_each(|mappings| mappings.sort_unstable());
        found
    }

    /// Every page is mapped where the tables say, and nowhere else.
    pub(crate) fn check(&self) {
        assert!(self.spaces.iter().all(|space| !space.table.is_locked()), "a table is left locked");
        let none = rmap_mapping {
            mm: null_mut(),
            vma: null_mut(),
            addr: 0,
            pte: rmap_pte { kind: 0, flags: 0, pfn: 0, value: 0 },
        };
        let mut list = [none; MOST];
        for (frame, expected) in self.scan().iter().enumerate() {
            let (page, known) = (self.page(frame), &self.frames[frame]);
            let swap = u32::from(self.is_swap_cached(frame));
            let references = expected.len() as u32 + swap + known.pins + u32::from(known.file.is_some());
            assert_eq!(call!(rmap_page_refcount(page)), references, "references of frame {frame}");
            assert_eq!(swap != 0, known.swap_uses != 0, "frame {frame} in swap");
            assert_eq!(call!(rmap_page_mapcount(page)), expected.len() as u32, "mapcount of frame {frame}");
            if expected.is_empty() {
                continue;
            }
            let mut n = 0;
            ok!(rmap_page_trylock(page));
            ok!(rmap_page_mappings(self.ctx, page, list.as_mut_ptr(), MOST, &raw mut n));
            ok!(rmap_page_unlock(page));
            let mut found: Vec<_> = list[..n].iter().map(|mapping| (mapping.mm, mapping.addr)).collect();
            found.sort_unstable();
            assert_eq!(&found, expected, "mappings of frame {frame}");
        }
    }
}
