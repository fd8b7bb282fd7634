//! `include/rmap.h` is what the source says.
//!
//! Written anew by `RMAP_WRITE_HEADER=1 cargo test -p rmap-ffi --test header`.

use std::path::Path;

#[test]
fn the_committed_header_is_what_the_source_says() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = cbindgen::Config::from_file(here.join("cbindgen.toml")).expect("cbindgen.toml");
    let bindings = cbindgen::Builder::new()
        .with_config(config)
        .with_src(here.join("src/lib.rs"))
        .generate()
        .expect("the sources parse");
    let mut generated = Vec::new();
    bindings.write(&mut generated);
    let generated = String::from_utf8(generated).expect("a header is text");

    let place = here.join("../include/rmap.h");
    if std::env::var_os("RMAP_WRITE_HEADER").is_some() {
        std::fs::write(&place, &generated).expect("include/rmap.h is writable");
    }
    let committed = std::fs::read_to_string(&place).unwrap_or_default();
    let differs = generated.lines().zip(committed.lines()).position(|(new, old)| new != old);
    assert!(
        generated == committed,
        "include/rmap.h is not what the source says, from line {}: RMAP_WRITE_HEADER=1 cargo test --test header writes it",
        1 + differs.unwrap_or(generated.lines().count().min(committed.lines().count())),
    );
}
