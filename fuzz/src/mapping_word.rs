//! The packed words: what is stored is what is read, in every state and for every value that a state can have.
//!
//! The mapping word says to whom a page belongs (`page/mapping.rs`), the word of an entry what a page table maps
//! (`machine/pte_word.rs`). Both are asked through what the library makes public of them.

use arbitrary::Arbitrary;
use core::ptr::NonNull;
use rmap_core::base::alloc::Heap;
use rmap_core::base::types::{Pfn, VirtAddr};
use rmap_core::machine::page_table::RadixTable;
use rmap_core::page::Page;
use rmap_core::page::mapping::Mapping;
use rmap_core::page::pte::{LockedTable, MigrationEntry, PageTable, Pte, PteFlags, SwapEntry};
use std::collections::BTreeMap;

/// A state of the mapping word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Arbitrary)]
pub enum Owner {
    Nobody,
    File(u64),
    Anon(u64),
    Ksm(u64),
}

impl Owner {
    /// An anchor is aligned to four bytes, and is somewhere.
    fn mapping(self) -> Mapping {
        let anchor = |address: u64| {
            let address = (address as usize & !3).max(4);
            NonNull::new(core::ptr::without_provenance_mut::<()>(address)).expect("not 0")
        };
        match self {
            Self::Nobody => Mapping::None,
            Self::File(address) => Mapping::File(anchor(address)),
            Self::Anon(address) => Mapping::Anon(anchor(address)),
            Self::Ksm(address) => Mapping::Ksm(anchor(address)),
        }
    }
}

/// A state of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Arbitrary)]
pub enum Entry {
    Nothing,
    Present { pfn: u64, flags: u8 },
    Special { pfn: u64 },
    Swap { slot: u64, exclusive: bool },
    Migration { pfn: u64, write: bool, exclusive: bool, young: bool, dirty: bool },
    Marker(u64),
}

impl Entry {
    fn pte(self) -> Pte {
        let number = |n: u64| n & ((1 << 52) - 1);
        match self {
            Self::Nothing => Pte::None,
            Self::Present { pfn, flags } => {
                Pte::present(Pfn(number(pfn)), PteFlags::from_bits_truncate(flags) - PteFlags::LARGE)
            }
            Self::Special { pfn } => Pte::Special { pfn: Pfn(number(pfn)) },
            Self::Swap { slot, exclusive } => Pte::Swap(SwapEntry { slot: number(slot), exclusive }),
            Self::Migration { pfn, write, exclusive, young, dirty } => {
                Pte::Migration(MigrationEntry { pfn: Pfn(number(pfn)), write, exclusive, young, dirty })
            }
            Self::Marker(value) => Pte::Marker(value >> 3),
        }
    }
}

/// A page of four tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Arbitrary)]
pub struct PageNumber(u16);

impl PageNumber {
    fn vpn(self) -> u64 {
        u64::from(self.0) % 2048
    }
    fn addr(self) -> VirtAddr {
        VirtAddr::from_vpn(self.vpn())
    }
}

/// What is done to the words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Arbitrary)]
pub enum Step {
    /// The page belongs to another.
    Store(Owner),
    /// The second look of a look-up.
    IsStill(Owner),
    /// An entry is installed, in place of what is there.
    Set { page: PageNumber, entry: Entry },
    /// It is emptied.
    Clear { page: PageNumber },
    /// Its young bit is cleared.
    Age { page: PageNumber },
    /// Its write and dirty bits are taken.
    Clean { page: PageNumber },
    /// Its write bit is taken.
    Protect { page: PageNumber },
}

/// Runs the steps.
pub fn run(steps: &[Step]) {
    let heap = Heap::global().expect("memory");
    let page = Page::new(Pfn(7));
    let table = RadixTable::new(&heap).expect("memory");
    let mut owner = Mapping::None;
    let mut entries = BTreeMap::new();
    for step in steps {
        match *step {
            Step::Store(new) => {
                owner = new.mapping();
                page.mapping().store(owner);
            }
            Step::IsStill(other) => assert_eq!(page.mapping().is_still(other.mapping()), owner == other.mapping()),
            Step::Set { page, entry } => {
                let addr = page.addr();
                table.alloc(addr).expect("memory");
                let mut locked = table.lock(addr, false).expect("just made");
                // A present entry is replaced only by one of the same frame, else it is cleared before.
                locked.clear_flush(addr);
                locked.set(addr, entry.pte());
                entries.insert(page.vpn(), entry.pte());
            }
            Step::Clear { page } => {
                let was =
                    table.lock(page.addr(), false).map_or(Pte::None, |mut locked| locked.clear_flush(page.addr()));
                assert_eq!(was, entries.remove(&page.vpn()).unwrap_or(Pte::None));
            }
            Step::Age { page } => change(&table, &mut entries, page, PteFlags::YOUNG, |locked, addr| {
                Some(locked.test_and_clear_young(addr))
            }),
            Step::Clean { page } => {
                change(&table, &mut entries, page, PteFlags::WRITE | PteFlags::DIRTY, |locked, addr| {
                    Some(locked.mkclean(addr))
                });
            }
            Step::Protect { page } => change(&table, &mut entries, page, PteFlags::WRITE, |locked, addr| {
                locked.wrprotect(addr);
                None
            }),
        }
        assert_eq!(page.mapping().load(), owner);
        assert!(page.mapping().is_still(owner));
        assert_eq!(owner.is_anon(), matches!(owner, Mapping::Anon(_) | Mapping::Ksm(_)));
    }
    let mut rest = entries.into_iter().map(|(vpn, entry)| (VirtAddr::from_vpn(vpn), entry));
    let mut rest = rest.by_ref().filter(|(_, entry)| *entry != Pte::None).inspect(|(addr, entry)| {
        assert_eq!(table.load(*addr), *entry);
    });
    table.for_each(VirtAddr(0), VirtAddr(1 << 47), |addr, entry| assert_eq!(rest.next(), Some((addr, entry))));
    assert_eq!(rest.next(), None);
    drop(table);
    assert_eq!(heap.in_use(), 0);
}

/// Takes bits of a present entry, and of the model's; the method may tell whether any was set.
fn change(
    table: &RadixTable,
    entries: &mut BTreeMap<u64, Pte>,
    page: PageNumber,
    bits: PteFlags,
    take: impl FnOnce(&mut dyn LockedTable, VirtAddr) -> Option<bool>,
) {
    let addr = page.addr();
    let Some(mut locked) = table.lock(addr, false) else { return };
    let took = take(&mut locked, addr);
    let mut had = false;
    if let Some(Pte::Present { flags, .. }) = entries.get_mut(&page.vpn()) {
        had = flags.intersects(bits);
        *flags -= bits;
    }
    assert!(took.is_none_or(|took| took == had));
    assert_eq!(locked.get(addr), entries.get(&page.vpn()).copied().unwrap_or(Pte::None));
}
