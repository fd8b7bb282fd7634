//! What fuzz targets do with their input.
mod access;
mod check;
mod countdown;
pub mod engines_agree;
pub mod interval_tree;
mod layout;
pub mod mapping_word;
mod model;
pub mod op;
pub mod runner;
pub mod trace_parser;
