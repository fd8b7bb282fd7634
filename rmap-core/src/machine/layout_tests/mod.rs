//! Changes of layout: named cases, failures of every allocation, and random operations against a model.

mod cases;
mod failures;
mod model;
mod moves;
mod others;
mod rig;
