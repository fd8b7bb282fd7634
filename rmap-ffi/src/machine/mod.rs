//! The machine: a memory manager for programs that bring none. Address spaces with page tables in software, faults,
//! fork, copy-on-write, files and swap, over page frames with contents or without.
//!
//! | file | what it is |
//! |---|---|
//! | `handle` | handles, and what they name |
//! | [`config`] | machines |
//! | [`ops`] | what the program does for regions and files |
//! | [`mm`] | address spaces |
//! | [`layout`] | mapping, unmapping, and everything between |
//! | [`access`] | reads, writes, faults, pins |
//! | [`mod@file`] | files and shared memory |
//! | [`page`] | frames: who maps them, and out they go |

pub mod handle;

// In the order of the header, which blank lines keep.
pub mod config;

pub mod ops;

pub mod mm;

pub mod file;

pub mod layout;

pub mod access;

pub mod page;
