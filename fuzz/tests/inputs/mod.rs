//! The committed inputs of a target: its corpus, which is packed, and its regressions.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Calls `run` with each; says which it was when that panics.
pub fn replay(target: &str, run: impl Fn(&[u8])) {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let unpacked = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(target);
    let _ = fs::remove_dir_all(&unpacked);
    fs::create_dir_all(&unpacked).expect("a folder");
    let packed = here.join("corpus").join(format!("{target}.tar.gz"));
    let tar = Command::new("tar").arg("-xzf").arg(&packed).arg("-C").arg(&unpacked).status();
    assert!(tar.expect("tar").success(), "{} cannot be unpacked", packed.display());
    let corpus = inputs(&unpacked);
    assert!(!corpus.is_empty(), "{} is empty", packed.display());
    for path in corpus.into_iter().chain(inputs(&here.join("regressions").join(target))) {
        struct Said<'a>(&'a Path);
        impl Drop for Said<'_> {
            fn drop(&mut self) {
                if std::thread::panicking() {
                    eprintln!("the input is {}", self.0.display());
                }
            }
        }
        let _said = Said(&path);
        run(&fs::read(&path).expect("an input"));
    }
}

/// The files of a folder, in order; none, if there is no such folder.
fn inputs(folder: &Path) -> Vec<PathBuf> {
    let listed = fs::read_dir(folder).into_iter().flatten();
    let mut paths: Vec<_> = listed.map(|entry| entry.expect("listed").path()).filter(|path| path.is_file()).collect();
    paths.sort();
    paths
}
