//! Mutants: production functions with one thing wrong, which a model, a test or a fuzz target must notice.
//!
//! A mutant is a condition in the function itself, `mutant("name")`. It is constantly false but in test builds and under
//! the feature `mutants`, where the environment variable `RMAP_MUTANT` switches one on; so one build serves all of them,
//! and what models run is what production runs.

/// Whether the mutant of that name is on.
#[cfg(not(any(test, feature = "mutants")))]
#[inline]
pub(crate) const fn mutant(_name: &str) -> bool {
    false
}

/// Whether the mutant of that name is on.
#[cfg(any(test, feature = "mutants"))]
pub(crate) fn mutant(name: &str) -> bool {
    use std::string::String;
    use std::sync::OnceLock;
    // The standard library's, which models do not see: asking orders nothing.
    static ON: OnceLock<Option<String>> = OnceLock::new();
    ON.get_or_init(|| std::env::var("RMAP_MUTANT").ok()).as_deref() == Some(name)
}
