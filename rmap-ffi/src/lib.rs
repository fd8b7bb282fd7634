//! The C ABI.

pub mod allocator;

/// All that Rust allocates on librmap's behalf: never malloc.
#[global_allocator]
static ALLOCATOR: allocator::SlabAllocator = allocator::SlabAllocator::new();
