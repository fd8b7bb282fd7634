//! What the test adds to the system, a swap file and a memory group, and how it goes again, however the test ends.
//!
//! A janitor sets up and takes away: this program again, in a session of its own, at the other end of a pipe. When the
//! test ends, also by a panic, an interrupt or SIGKILL, the pipe has no writer any more, and the janitor takes away
//! what it has set up.

use std::ffi::CString;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

/// The argument that makes this program the janitor.
pub(crate) const JANITOR: &str = "--janitor";

const SWAP_BYTES: usize = 32 << 20;
const PAGE: usize = 4096;

/// What there is, until it is dropped.
pub(crate) struct Extras {
    janitor: Child,
    group: Option<PathBuf>,
    /// What cannot be had here, and why.
    pub(crate) missing: Vec<String>,
}

impl Extras {
    pub(crate) fn set_up() -> io::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        let mut janitor = command.arg(JANITOR).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let answers = janitor.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let mut extras = Self { janitor, group: None, missing: Vec::new() };
        for line in BufReader::new(answers).lines() {
            let line = line?;
            match line.split_once(' ') {
                Some(("group", path)) => extras.group = Some(path.into()),
                Some(("missing", what)) => extras.missing.push(what.into()),
                _ => break,
            }
        }
        Ok(extras)
    }

    /// The group's list of processes.
    pub(crate) fn group_processes(&self) -> Option<PathBuf> {
        self.group.as_ref().map(|group| group.join("cgroup.procs"))
    }

    /// Asks the kernel to take all memory of the group that it can.
    pub(crate) fn reclaim(&self) {
        let Some(group) = &self.group else { return };
        // Version 2, version 1. It fails when not all could be had, which is no failure here.
        let reclaim = group.join("memory.reclaim");
        let _ =
            if reclaim.exists() { fs::write(reclaim, "64M") } else { fs::write(group.join("memory.force_empty"), "0") };
    }
}

impl Drop for Extras {
    fn drop(&mut self) {
        drop(self.janitor.stdin.take());
        let clean = self.janitor.wait().is_ok_and(|status| status.success());
        if !clean {
            eprintln!("live_kernel: the swap file or the memory group could not be taken away");
        }
    }
}

/// The janitor's life. Its answers: `group PATH`, `missing WHAT`, and an empty line.
pub(crate) fn keep_clean() -> i32 {
    // SAFETY: it takes nothing. A terminal's interrupt is not for this process.
    unsafe { libc::setsid() };
    let swap = std::env::temp_dir().join(format!("rmap-live-kernel-{}.swap", std::process::id()));
    let swapping = swap_on(&swap);
    let group = make_group();
    let mut answer = Vec::new();
    match &group {
        Ok(path) => answer.push(format!("group {}\n", path.display())),
        Err(error) => answer.push(format!("missing a memory group ({error}): shared pages do not go to swap\n")),
    }
    if let Err(error) = &swapping {
        answer.push(format!("missing a swap file ({error}): no page goes to swap\n"));
    }
    let mut out = io::stdout();
    let told = out.write_all((answer.concat() + "\n").as_bytes()).and_then(|()| out.flush());
    if told.is_ok() {
        // The end of it is the test's end; nothing is ever written.
        let _ = io::stdin().read(&mut [0]);
    }
    let mut clean = true;
    if swapping.is_ok() {
        clean &= swap_off(&swap).is_ok();
    }
    if let Ok(group) = group {
        clean &= remove_group(&group);
    }
    i32::from(!clean)
}

fn name(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

/// Makes a swap file, and has the kernel use it.
fn swap_on(path: &Path) -> io::Result<()> {
    let made = write_swap(path).and_then(|()| {
        let name = name(path)?;
        // SAFETY: the name ends in 0 and is alive during the call.
        if unsafe { libc::swapon(name.as_ptr(), 0) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    });
    if made.is_err() {
        let _ = fs::remove_file(path);
    }
    made
}

/// A swap area as the kernel wants it: the last page's number and a signature in the first page, and no holes.
fn write_swap(path: &Path) -> io::Result<()> {
    let mut area = vec![0; SWAP_BYTES];
    area[1024..1028].copy_from_slice(&1_u32.to_ne_bytes());
    area[1028..1032].copy_from_slice(&((SWAP_BYTES / PAGE - 1) as u32).to_ne_bytes());
    area[PAGE - 10..PAGE].copy_from_slice(b"SWAPSPACE2");
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(&area)?;
    file.sync_all()
}

fn swap_off(path: &Path) -> io::Result<()> {
    let name = name(path)?;
    // SAFETY: the name ends in 0 and is alive during the call.
    let off = if unsafe { libc::swapoff(name.as_ptr()) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
    off.and_then(|()| fs::remove_file(path))
}

/// A memory group below the one that this process is in, whose limits go on to hold.
fn make_group() -> io::Result<PathBuf> {
    let own = fs::read_to_string("/proc/self/cgroup")?;
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let mounted = |kind: &str, option: &str| {
        mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>()).find_map(|fields| {
            let fits = fields[2] == kind && (option.is_empty() || fields[3].split(',').any(|one| one == option));
            fits.then(|| PathBuf::from(fields[1]))
        })
    };
    let mut error = io::Error::from(io::ErrorKind::NotFound);
    for line in own.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let root = match controllers {
            "" => mounted("cgroup2", ""),
            some if some.split(',').any(|one| one == "memory") => mounted("cgroup", "memory"),
            _ => None,
        };
        let Some(root) = root else { continue };
        let group = root.join(path.trim_start_matches('/')).join(format!("rmap-live-kernel-{}", std::process::id()));
        match fs::create_dir(&group) {
            Err(failed) => error = failed,
            Ok(()) if ["memory.reclaim", "memory.force_empty"].iter().any(|file| group.join(file).exists()) => {
                return Ok(group);
            }
            // A group that counts no memory.
            Ok(()) => fs::remove_dir(&group)?,
        }
    }
    Err(error)
}

/// Its processes end with the test: it is empty soon.
fn remove_group(group: &Path) -> bool {
    (0..500).any(|_| {
        let gone = fs::remove_dir(group).is_ok();
        if !gone {
            thread::sleep(Duration::from_millis(10));
        }
        gone
    })
}
