//! A page-table entry in one word.
//!
//! | bits 2..0 | meaning | bits 63..12 | bits 11..3 |
//! |---|---|---|---|
//! | 0 | nothing; the whole word is 0 | 0 | 0 |
//! | 1 | present | frame | 3 write, 4 young, 5 dirty, 6 soft-dirty, 7 large |
//! | 2 | special | frame | 0 |
//! | 3 | swap | slot | 3 exclusive |
//! | 4 | migration | frame | 3 write, 4 exclusive, 5 young, 6 dirty |
//! | 5 | marker | bits 63..3 are the value | |
//!
//! All words of a table are changed under that table's lock, and read by anybody.

use crate::base::types::{PAGE_SHIFT, Pfn};
use crate::page::pte::{MigrationEntry, Pte, PteFlags, SwapEntry};

/// The word of an entry where nothing is mapped.
pub(super) const NONE: u64 = 0;

const PRESENT: u64 = 1;
const SPECIAL: u64 = 2;
const SWAP: u64 = 3;
const MIGRATION: u64 = 4;
const MARKER: u64 = 5;

const KIND_BITS: u32 = 3;
const KIND: u64 = (1 << KIND_BITS) - 1;

const EXCLUSIVE_SWAP: u64 = 1 << 3;
const WRITE: u64 = 1 << 3;
const EXCLUSIVE: u64 = 1 << 4;
const YOUNG: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;

fn bit(mask: u64, set: bool) -> u64 {
    if set { mask } else { 0 }
}

fn number(value: u64) -> u64 {
    debug_assert!(value < 1 << (u64::BITS - PAGE_SHIFT), "{value:#x} does not fit an entry");
    value << PAGE_SHIFT
}

/// The word of an entry.
#[inline]
pub(super) fn pack(pte: Pte) -> u64 {
    match pte {
        Pte::None | Pte::NoTable => NONE,
        Pte::Present { pfn, flags } => number(pfn.0) | u64::from(flags.bits()) << KIND_BITS | PRESENT,
        Pte::Special { pfn } => number(pfn.0) | SPECIAL,
        Pte::Swap(SwapEntry { slot, exclusive }) => number(slot) | bit(EXCLUSIVE_SWAP, exclusive) | SWAP,
        Pte::Migration(MigrationEntry { pfn, write, exclusive, young, dirty }) => {
            let bits = bit(WRITE, write) | bit(EXCLUSIVE, exclusive) | bit(YOUNG, young) | bit(DIRTY, dirty);
            number(pfn.0) | bits | MIGRATION
        }
        Pte::Marker(value) => {
            debug_assert!(value < 1 << (u64::BITS - KIND_BITS), "{value:#x} does not fit an entry");
            value << KIND_BITS | MARKER
        }
    }
}

/// The entry of a word that `pack` made.
#[inline]
pub(super) fn unpack(word: u64) -> Pte {
    let number = word >> PAGE_SHIFT;
    let has = |mask| word & mask != 0;
    match word & KIND {
        NONE => Pte::None,
        PRESENT => Pte::Present { pfn: Pfn(number), flags: PteFlags::from_bits_truncate((word >> KIND_BITS) as u8) },
        SPECIAL => Pte::Special { pfn: Pfn(number) },
        SWAP => Pte::Swap(SwapEntry { slot: number, exclusive: has(EXCLUSIVE_SWAP) }),
        MIGRATION => Pte::Migration(MigrationEntry {
            pfn: Pfn(number),
            write: has(WRITE),
            exclusive: has(EXCLUSIVE),
            young: has(YOUNG),
            dirty: has(DIRTY),
        }),
        _ => Pte::Marker(word >> KIND_BITS),
    }
}

#[cfg(all(test, not(loom)))]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Any entry that a table can hold for a single page.
    pub(in crate::machine) fn any_pte() -> impl Strategy<Value = Pte> {
        let number = 0..1_u64 << 52;
        prop_oneof![
            Just(Pte::None),
            (number.clone(), any::<u8>()).prop_map(|(pfn, bits)| {
                Pte::present(Pfn(pfn), PteFlags::from_bits_truncate(bits) - PteFlags::LARGE)
            }),
            number.clone().prop_map(|pfn| Pte::Special { pfn: Pfn(pfn) }),
            (number.clone(), any::<bool>()).prop_map(|(slot, exclusive)| Pte::Swap(SwapEntry { slot, exclusive })),
            (number, any::<[bool; 4]>()).prop_map(|(pfn, [write, exclusive, young, dirty])| {
                Pte::Migration(MigrationEntry { pfn: Pfn(pfn), write, exclusive, young, dirty })
            }),
            (0..1_u64 << 61).prop_map(Pte::Marker),
        ]
    }

    proptest! {
        #[test]
        fn every_entry_survives_packing(pte in any_pte()) {
            prop_assert_eq!(unpack(pack(pte)), pte);
            prop_assert_eq!(pack(pte) == NONE, pte.is_none());
        }
    }

    #[test]
    fn a_large_entry_survives_packing_and_no_table_is_nothing() {
        let large = Pte::present(Pfn(512), PteFlags::all());
        assert_eq!(unpack(pack(large)), large);
        assert_eq!(pack(Pte::NoTable), NONE);
    }
}
