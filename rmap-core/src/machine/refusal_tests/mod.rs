//! G4 for the whole machine: every public operation, each of its allocations made to fail in turn, on every engine.
//!
//! [`digest`] is all that a program or an embedder can see of a machine. `scene` is the machine that the operations of
//! `operations` act on. A method of [`Machine`](super::Machine) that is in neither of the lists there fails a test.

mod digest;
mod operations;
mod panics;
mod scene;
