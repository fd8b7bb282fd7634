//! The C programs beside this file, compiled as C and C++ against the header and the libraries just built, and run.
//!
//! Each is compiled as C99 and C17, C++11 and C++20 without a warning, and run linked to the static library; as C99
//! also linked to the shared one, and under valgrind. `RMAP_VALGRIND=0` leaves valgrind out, `RMAP_VALGRIND=1` makes it
//! an error not to have it; else its absence is said. `CC` and `CXX` name other compilers.
//!
//! `RMAP_C_SANITIZER` asks for a sanitizer instead (see `.ci/sanitizers`): the programs are then compiled for it, as
//! C99, and linked to the static library. So is `canary`, whose defects must be reported.

use rmap_core::engine::any::EngineKind;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

const STRICT: [&str; 6] = ["-Wall", "-Wextra", "-Wpedantic", "-Werror", "-g", "-O1"];
/// What the static library needs of the system.
const SYSTEM: [&str; 5] = ["-lgcc_s", "-lpthread", "-lm", "-ldl", "-lc"];

#[derive(Clone, Copy)]
enum Link {
    Static,
    Shared,
}

/// What to compile the programs for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sanitizer {
    /// With a library that was compiled for it too.
    Address,
    /// With a library that was compiled for it too.
    Thread,
    /// With the plain library, and AddressSanitizer for the program's own code.
    Undefined,
}

impl Sanitizer {
    /// The one that is asked for.
    fn wanted() -> Option<Self> {
        let wish = std::env::var("RMAP_C_SANITIZER").ok()?;
        match wish.as_str() {
            "address" => Some(Self::Address),
            "thread" => Some(Self::Thread),
            "undefined" => Some(Self::Undefined),
            _ => panic!("RMAP_C_SANITIZER={wish}: address, thread or undefined"),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::Thread => "thread",
            Self::Undefined => "undefined",
        }
    }

    /// The flags to compile with.
    fn flags(self) -> &'static [&'static str] {
        match self {
            Self::Address => &["-fsanitize=address", "-fno-omit-frame-pointer"],
            Self::Thread => &["-fsanitize=thread", "-fno-omit-frame-pointer"],
            Self::Undefined => &["-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
        }
    }

    /// What to link with. The runtime is the Rust compiler's where the library needs one as well: one that the C
    /// compiler brings need not know all that a newer compiler calls.
    fn link(self) -> Vec<String> {
        let runtime = match self {
            Self::Address => "_rt.asan.a",
            Self::Thread => "_rt.tsan.a",
            Self::Undefined => return self.flags().iter().map(ToString::to_string).collect(),
        };
        let mut rustc = Command::new(std::env::var("RUSTC").unwrap_or_else(|_| String::from("rustc")));
        rustc.args(["--print", "target-libdir"]);
        let dir = run(rustc);
        let found = std::fs::read_dir(dir.trim()).expect("the compiler's libraries").find_map(|entry| {
            let path = entry.expect("an entry of a directory").path();
            path.to_str().filter(|path| path.ends_with(runtime)).map(String::from)
        });
        let found = found.unwrap_or_else(|| panic!("no *{runtime} in {dir}"));
        ["-Wl,--whole-archive", &found, "-Wl,--no-whole-archive", "-lrt"].map(String::from).to_vec()
    }

    /// Which defect of `canary` is which report.
    fn canaries(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Address => &[
                ("use-after-free", "heap-use-after-free"),
                ("library-use-after-free", "heap-use-after-free"),
                ("leak", "detected memory leaks"),
            ],
            Self::Thread => &[("race", "data race"), ("library-race", "data race")],
            Self::Undefined => &[("overflow", "signed integer overflow"), ("use-after-free", "heap-use-after-free")],
        }
    }
}

fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Where cargo has put this test, and the libraries with it.
fn libraries() -> PathBuf {
    let exe = std::env::current_exe().expect("a test knows where it is");
    let deps = exe.parent().expect("a file lies in a directory").to_path_buf();
    assert!(deps.join("librmap.a").exists() && deps.join("librmap.so").exists(), "no libraries in {}", deps.display());
    deps
}

/// The compiler for a standard, told to read sources in it.
fn compiler(standard: &str) -> Command {
    let cxx = standard.starts_with("c++");
    let named = std::env::var(if cxx { "CXX" } else { "CC" });
    let mut command = Command::new(named.unwrap_or_else(|_| String::from(if cxx { "c++" } else { "cc" })));
    command.arg(format!("-std={standard}")).args(STRICT).args(["-x", if cxx { "c++" } else { "c" }]);
    command.arg("-I").arg(here().join("../include")).arg("-I").arg(here().join("tests"));
    command.arg("-D_POSIX_C_SOURCE=200809L");
    command
}

/// Runs a command, and shows what it said if it fails.
fn run(mut command: Command) -> String {
    let shown = format!("{command:?}");
    let output = command.output().unwrap_or_else(|error| panic!("{shown}: {error}"));
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{shown}: {}\n{said}", output.status);
    said
}

/// Runs what must fail with a report.
fn reported(command: &mut Command, report: &str) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains(report), "{command:?}: no \"{report}\":\n{said}");
}

fn compile(program: &str, standard: &str, link: Link) -> PathBuf {
    let kind = match link {
        Link::Static => "static",
        Link::Shared => "shared",
    };
    let to = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{program}-{standard}-{kind}"));
    let libraries = libraries();
    let mut command = compiler(standard);
    command.arg(here().join(format!("tests/{program}.c"))).args(["-x", "none", "-o"]).arg(&to);
    match link {
        Link::Static => command.arg(libraries.join("librmap.a")).args(SYSTEM),
        Link::Shared => {
            let rpath = format!("-Wl,-rpath,{}", libraries.display());
            command.arg("-L").arg(&libraries).args(["-lrmap", &rpath, "-lpthread"])
        }
    };
    run(command);
    to
}

/// Whether to use valgrind.
fn valgrind() -> bool {
    let wish = std::env::var("RMAP_VALGRIND").unwrap_or_default();
    let there = Command::new("valgrind").arg("--version").output().is_ok_and(|output| output.status.success());
    assert!(there || wish != "1", "RMAP_VALGRIND=1, and valgrind is not installed");
    if !there {
        eprintln!("SKIPPED: valgrind is not installed");
    }
    there && wish != "0"
}

/// Compiles for a sanitizer, and links.
fn compile_for(sanitizer: Sanitizer, program: &str, source: &Path) -> PathBuf {
    let to = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{program}-{}", sanitizer.name()));
    let object = to.with_extension("o");
    let mut command = compiler("c99");
    command.args(sanitizer.flags()).arg("-c").arg(source).arg("-o").arg(&object);
    run(command);
    let mut command = compiler("c99");
    command.args(["-x", "none"]).arg(&object).arg(libraries().join("librmap.a"));
    run({
        command.args(sanitizer.link()).args(SYSTEM).arg("-o").arg(&to);
        command
    });
    to
}

/// Runs under a sanitizer, with librmap's own memory and with malloc's, of which a sanitizer sees each block.
fn sanitized(sanitizer: Sanitizer, program: &str, engine: EngineKind) {
    let to = compile_for(sanitizer, program, &here().join(format!("tests/{program}.c")));
    for malloc in [false, true] {
        let mut command = Command::new(&to);
        command.current_dir(here()).env("RMAP_TEST_ENGINE", engine.name());
        if malloc {
            command.env("RMAP_TEST_MALLOC", "1");
        }
        run(command);
    }
}

/// Returns what the program said, linked to the static library.
fn everywhere(program: &str) -> String {
    if let Some(sanitizer) = Sanitizer::wanted() {
        sanitized(sanitizer, program, EngineKind::AnonVma);
        return String::new();
    }
    let said: Vec<String> = ["c99", "c17", "c++11", "c++20"]
        .iter()
        .map(|standard| run(Command::new(compile(program, standard, Link::Static))))
        .collect();
    run(Command::new(compile(program, "c99", Link::Shared)));
    under_valgrind(program);
    said.concat()
}

/// The same, and with every engine.
fn everywhere_on_every_engine(program: &str) -> String {
    let mut said = everywhere(program);
    for engine in EngineKind::ALL.iter().filter(|engine| **engine != EngineKind::AnonVma) {
        if let Some(sanitizer) = Sanitizer::wanted() {
            sanitized(sanitizer, program, *engine);
            continue;
        }
        let mut command = Command::new(compile(program, "c99", Link::Static));
        command.env("RMAP_TEST_ENGINE", engine.name());
        said += &run(command);
    }
    said
}

fn valgrind_tool(tool: &str) -> Command {
    let mut command = Command::new("valgrind");
    command.args(["-q", "--error-exitcode=99", "--fair-sched=yes", &format!("--tool={tool}")]);
    command
}

fn memcheck() -> Command {
    let mut command = valgrind_tool("memcheck");
    command.arg("--leak-check=full");
    command
}

/// For the order of mutexes: the suppressions say why for no more.
fn helgrind() -> Command {
    let mut command = valgrind_tool("helgrind");
    let suppressions = here().join("../.ci/helgrind.supp");
    command.arg(format!("--suppressions={}", suppressions.display())).arg("--history-level=none");
    command
}

fn under_valgrind(program: &str) {
    if valgrind() {
        let to = compile(program, "c99", Link::Static);
        for mut command in [memcheck(), helgrind()] {
            command.arg(&to).env("RMAP_TEST_ROUNDS", "3000").env("RMAP_TEST_MALLOC", "1");
            run(command);
        }
    }
}

#[test]
fn the_header_is_clean_in_every_standard() {
    for standard in ["c99", "c11", "c17", "c++11", "c++17", "c++20"] {
        let mut command = compiler(standard);
        command.arg("-fsyntax-only").arg(here().join("../include/rmap.h"));
        // The header is the main file here, which a compiler may find odd.
        command.arg("-Wno-unused");
        run(command);
    }
}

#[test]
fn component() {
    everywhere_on_every_engine("component");
}

#[test]
fn embedder() {
    everywhere_on_every_engine("embedder");
}

#[test]
fn misuse() {
    everywhere("misuse");
}

#[test]
fn machine() {
    everywhere_on_every_engine("machine");
}

/// Why a C program does not see it refused.
const TREE_NODES: &str = "asks when the pool of tree nodes is empty, which rmap-core's tests::failures can make it";

/// Functions whose documentation speaks of RMAP_ERR_NOMEM and that no test has seen answer it.
const NOT_REFUSED: &[(&str, &str)] = &[
    ("rmap_mm_fork_begin", "no engine that a C program can choose needs memory for it"),
    (
        "rmap_replay",
        "the trace that it reads is remembered by the standard library, which aborts: its documentation says so",
    ),
    ("rmap_replay_dump_dot", "called in a replay; it shares what draws with rmap_machine_dump_dot"),
    ("rmap_vma_adjust", TREE_NODES),
    ("rmap_vma_merge", TREE_NODES),
    ("rmap_vma_shift", TREE_NODES),
];

/// Functions that answer RMAP_ERR_NOMEM, and those whose documentation says that they may, are the same. Allocations
/// fail in turn, of the program's allocator and of the system.
#[test]
fn what_may_be_refused_memory_is_what_the_header_says() {
    let mut said = everywhere("allocation") + &everywhere_on_every_engine("refusals");
    if Sanitizer::wanted().is_some() {
        return;
    }
    // Its own mmap is neither for a sanitizer nor for valgrind.
    for (standard, link) in [("c99", Link::Static), ("c++20", Link::Static), ("c99", Link::Shared)] {
        said += &run(Command::new(compile("exhaustion", standard, link)));
    }
    let refused: BTreeSet<&str> = said.lines().filter_map(|line| line.strip_prefix("refused: ")).collect();
    let header = std::fs::read_to_string(here().join("../include/rmap.h")).expect("the header");
    let mut documented: BTreeSet<&str> = documented_functions(&header)
        .filter(|(_, text)| {
            let text = text.replace(" * ", "").split_whitespace().collect::<Vec<_>>().join(" ");
            let as_another = ["else as rmap_machine_fault", "else as rmap_machine_uffd_copy"];
            text.contains("RMAP_ERR_NOMEM") || as_another.iter().any(|other| text.contains(other))
        })
        .map(|(name, _)| name)
        .collect();
    for (name, why) in NOT_REFUSED {
        assert!(documented.remove(name) && !refused.contains(name), "{name}: {why}");
    }
    assert_eq!(refused, documented);
}

/// The functions of the header, each with the comment above it.
fn documented_functions(header: &str) -> impl Iterator<Item = (&str, &str)> {
    header.split("\n/**").skip(1).filter_map(|part| {
        let (text, declared) = part.split_once("*/")?;
        let declared = declared.split(';').next()?;
        let name = declared.split_once('(')?.0.rsplit([' ', '*']).next()?;
        (name.starts_with("rmap_") && !declared.contains('{')).then_some((name, text))
    })
}

#[test]
fn dot() {
    everywhere_on_every_engine("dot");
}

/// Each defect of the canary is reported, and without one it is clean: so silence elsewhere means something.
#[test]
fn canary() {
    if let Some(sanitizer) = Sanitizer::wanted() {
        let to = compile_for(sanitizer, "canary", &here().join("tests/canary.c"));
        run(Command::new(&to));
        run({
            let mut command = Command::new(&to);
            command.arg("message");
            command
        });
        for (defect, report) in sanitizer.canaries() {
            reported(Command::new(&to).arg(defect), report);
        }
    } else {
        let to = compile("canary", "c99", Link::Static);
        run(Command::new(&to));
        if valgrind() {
            for (defect, report) in [
                ("use-after-free", "Invalid read"),
                ("library-use-after-free", "Invalid read"),
                ("leak", "definitely lost"),
                ("library-leak", "lost"),
            ] {
                reported(memcheck().arg(&to).arg(defect), report);
            }
            reported(helgrind().arg(&to).arg("lock-order"), "lock order");
            // The proof for `.ci/helgrind.supp`: a correct program that they report.
            reported(valgrind_tool("helgrind").arg(&to).arg("message"), "Possible data race");
            reported(valgrind_tool("drd").arg(&to).arg("message"), "Conflicting");
        }
    }
}

/// What stands between the first line that begins with `open`, from byte `from` on, and the fence after it; and where
/// it ends.
fn block<'t>(text: &'t str, open: &str, from: usize) -> (&'t str, usize) {
    let start = from + text[from..].find(open).expect("the block begins") + open.len();
    let end = start + text[start..].find("```").expect("the block ends");
    (text[start..end].trim_start_matches('\n'), end)
}

#[test]
fn the_example_of_the_readme_says_what_it_says() {
    let readme = std::fs::read_to_string(here().join("../README.md")).expect("the README");
    let (program, end) = block(&readme, "```c\n", 0);
    let (expected, _) = block(&readme, "```text\n", end);
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (source, to) = (dir.join("readme.c"), dir.join("readme"));
    std::fs::write(&source, program).expect("a file in the target directory");
    if let Some(sanitizer) = Sanitizer::wanted() {
        assert_eq!(run(Command::new(compile_for(sanitizer, "readme", &source))), expected);
        return;
    }
    let mut command = compiler("c99");
    command.arg(&source).args(["-x", "none", "-o"]).arg(&to).arg(libraries().join("librmap.a")).args(SYSTEM);
    run(command);
    assert_eq!(run(Command::new(&to)), expected);
}

#[test]
fn malloc_is_not_called() {
    if Sanitizer::wanted().is_some() {
        eprintln!("SKIPPED: the program's malloc would stand in place of the sanitizer's");
        return;
    }
    for link in [Link::Static, Link::Shared] {
        run(Command::new(compile("malloc", "c99", link)));
    }
}
