//! The processes of the tree. Each does the system calls that it is told to, and nothing else: between two calls it
//! waits at its socket, and what it needs lies outside of the range that is compared.
//!
//! The first is this program again, executed anew, so that no thread and no lock is forked. Every worker has inherited
//! the worker's end of every slot's socket; a forked one listens at its own slot's. The other ends are the test's: when
//! it dies, however, all workers read the end of their sockets, and end.

use crate::ops::SLOTS;
use core::mem::size_of;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::process::{Child, Command, Stdio};

/// The argument that makes this program a worker; the sockets follow.
pub(crate) const WORKER: &str = "--worker";

/// In place of a system call's number: fork; the argument is the child's slot.
const FORK: i64 = -1;
/// End.
const EXIT: i64 = -2;
/// Read a word.
const LOAD: i64 = -3;
/// Write a word.
const STORE: i64 = -4;

/// A system call: its number and its arguments.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(crate) struct Call {
    pub(crate) number: i64,
    pub(crate) args: [u64; 6],
}

/// What became of it: what it returned or the negative error number, and the word that was read.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Answer {
    result: i64,
    value: u64,
}

fn check(result: i64) -> io::Result<i64> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn send<T>(fd: RawFd, message: &T) -> io::Result<()> {
    // SAFETY: `message` is a plain struct of integers without padding, alive during the call.
    let sent = unsafe { libc::send(fd, (&raw const *message).cast(), size_of::<T>(), libc::MSG_NOSIGNAL) };
    check(sent as i64).map(drop)
}

/// `None`: nobody is left at the other end.
fn receive<T: Default>(fd: RawFd) -> io::Result<Option<T>> {
    let mut message = T::default();
    // SAFETY: `T` is a plain struct of integers, which any bytes are a value of.
    let got = unsafe { libc::recv(fd, (&raw mut message).cast(), size_of::<T>(), 0) };
    Ok((check(got as i64)? as usize == size_of::<T>()).then_some(message))
}

/// The life of the first worker and, after each fork, of its child. `sockets` are the arguments of the program.
pub(crate) fn work(sockets: &[String]) -> ! {
    let sockets: Vec<RawFd> = sockets.iter().map(|fd| fd.parse().expect("a file descriptor")).collect();
    let mut pipe = [0; 2];
    // SAFETY: these calls take integers, and `pipe` has room for two.
    unsafe {
        // Small pages only; children are waited for by nobody; a terminal's interrupt is the test's to handle.
        libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0);
        libc::signal(libc::SIGCHLD, libc::SIG_IGN);
        libc::setsid();
        assert_eq!(libc::pipe(pipe.as_mut_ptr()), 0);
    }
    let mut own = sockets[0];
    while let Ok(Some(call)) = receive::<Call>(own) {
        let mut answer = Answer::default();
        match call.number {
            EXIT => break,
            FORK => {
                // SAFETY: this process has one thread.
                answer.result = i64::from(unsafe { libc::fork() });
                if answer.result == 0 {
                    own = sockets[call.args[0] as usize];
                    continue;
                }
            }
            LOAD => answer.result = through_pipe(pipe, call.args[0], &raw mut answer.value as u64),
            STORE => answer.result = through_pipe(pipe, &raw const call.args[1] as u64, call.args[0]),
            number => {
                let args = call.args;
                // SAFETY: the test sends calls that change the compared range, where nothing of this program lies.
                answer.result = unsafe { libc::syscall(number, args[0], args[1], args[2], args[3], args[4], args[5]) };
            }
        }
        if answer.result < 0 {
            answer.result = -i64::from(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO));
        }
        if send(own, &answer).is_err() {
            break;
        }
    }
    // SAFETY: it ends the process; nothing is to be cleaned up.
    unsafe { libc::_exit(0) }
}

/// Copies a word by way of a pipe: the kernel takes the page fault, and a failed one is EFAULT and no signal.
fn through_pipe([out, into]: [RawFd; 2], from: u64, to: u64) -> i64 {
    const WORD: usize = size_of::<u64>();
    // SAFETY: the kernel checks the addresses, which are the compared range's or a word of the caller's.
    unsafe {
        let put = libc::write(into, from as *const libc::c_void, WORD);
        if put < 0 {
            return put as i64;
        }
        let got = libc::read(out, to as *mut libc::c_void, WORD);
        if got < 0 {
            // The word is still there.
            let error = *libc::__errno_location();
            let mut rest = 0_u64;
            libc::read(out, (&raw mut rest).cast(), WORD);
            *libc::__errno_location() = error;
        }
        got as i64
    }
}

/// One process, seen from the test.
pub(crate) struct Process {
    pub(crate) pid: i32,
    pub(crate) pagemap: File,
    pub(crate) maps: File,
    pub(crate) memory: File,
    /// Becomes readable when the process has ended.
    ended: OwnedFd,
}

impl Process {
    fn open(pid: i32) -> io::Result<Self> {
        // SAFETY: it takes integers.
        let ended = check(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })? as RawFd;
        // SAFETY: the descriptor is new, and nobody else's.
        let ended = unsafe { OwnedFd::from_raw_fd(ended) };
        let open = |name: &str| File::open(format!("/proc/{pid}/{name}"));
        Ok(Self { pid, pagemap: open("pagemap")?, maps: open("maps")?, memory: open("mem")?, ended })
    }

    /// Waits until its memory is gone.
    fn wait_for_end(&self) -> io::Result<()> {
        let mut poll = libc::pollfd { fd: self.ended.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one structure, alive during the call.
        match check(i64::from(unsafe { libc::poll(&raw mut poll, 1, 30_000) }))? {
            0 => Err(io::ErrorKind::TimedOut.into()),
            _ => Ok(()),
        }
    }
}

/// The tree: a process or none in each slot.
pub(crate) struct Tree {
    sockets: Vec<OwnedFd>,
    processes: Vec<Option<Process>>,
    /// The first process, until it has ended.
    root: Option<Child>,
}

impl Tree {
    /// A tree of one process, which joins the memory group whose list of processes `group` is.
    pub(crate) fn start(group: Option<&std::path::Path>) -> io::Result<Self> {
        // SAFETY: it takes integers.
        check(i64::from(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) }))?;
        let mut sockets = Vec::new();
        let mut theirs = Vec::new();
        for _ in 0..SLOTS {
            let mut pair = [0; 2];
            let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
            // SAFETY: `pair` has room for two.
            check(i64::from(unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, pair.as_mut_ptr()) }))?;
            // SAFETY: both are new, and nobody else's.
            let [own, other] = pair.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
            let patience = libc::timeval { tv_sec: 30, tv_usec: 0 };
            let (size, patience) = (size_of::<libc::timeval>() as u32, (&raw const patience).cast());
            // SAFETY: the option's value is a timeval, alive during the call.
            unsafe { libc::setsockopt(own.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVTIMEO, patience, size) };
            keep_on_exec(&other)?;
            sockets.push(own);
            theirs.push(other);
        }
        let numbers = theirs.iter().map(|fd| fd.as_raw_fd().to_string());
        let root = Command::new(std::env::current_exe()?).arg(WORKER).args(numbers).stdin(Stdio::null()).spawn()?;
        let pid = root.id() as i32;
        let mut tree = Self { sockets, processes: (0..SLOTS).map(|_| None).collect(), root: Some(root) };
        if let Some(group) = group {
            fs::write(group, pid.to_string())?;
        }
        // Answered once it has begun to work.
        tree.talk(0, Call { number: libc::SYS_getpid, ..Call::default() })?.0?;
        tree.processes[0] = Some(Process::open(pid)?);
        Ok(tree)
    }

    pub(crate) fn process(&self, slot: usize) -> &Process {
        self.processes[slot].as_ref().expect("the slot has a process")
    }

    fn talk(&self, slot: usize, call: Call) -> io::Result<(io::Result<i64>, u64)> {
        let fd = self.sockets[slot].as_raw_fd();
        send(fd, &call)?;
        let answer: Answer = receive(fd)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let result = if answer.result < 0 {
            Err(io::Error::from_raw_os_error(-answer.result as i32))
        } else {
            Ok(answer.result)
        };
        Ok((result, answer.value))
    }

    /// A system call; the inner error is the call's own.
    pub(crate) fn call(&self, slot: usize, number: i64, args: [u64; 6]) -> io::Result<io::Result<u64>> {
        Ok(self.talk(slot, Call { number, args })?.0.map(|result| result as u64))
    }

    /// Reads a word. As [`call`](Self::call).
    pub(crate) fn load(&self, slot: usize, addr: u64) -> io::Result<io::Result<u64>> {
        let (done, value) = self.talk(slot, Call { number: LOAD, args: [addr, 0, 0, 0, 0, 0] })?;
        Ok(done.map(|_| value))
    }

    /// Writes a word. As [`call`](Self::call).
    pub(crate) fn store(&self, slot: usize, addr: u64, value: u64) -> io::Result<io::Result<u64>> {
        self.call(slot, STORE, [addr, value, 0, 0, 0, 0])
    }

    pub(crate) fn fork(&mut self, slot: usize, child: usize) -> io::Result<()> {
        let pid = self.call(slot, FORK, [child as u64, 0, 0, 0, 0, 0])??;
        self.processes[child] = Some(Process::open(pid as i32)?);
        Ok(())
    }

    /// Ends a process, and waits until its memory is gone.
    pub(crate) fn exit(&mut self, slot: usize) -> io::Result<()> {
        send(self.sockets[slot].as_raw_fd(), &Call { number: EXIT, ..Call::default() })?;
        let Some(process) = self.processes[slot].take() else { return Ok(()) };
        process.wait_for_end()?;
        self.reap(process.pid);
        Ok(())
    }

    /// Takes what is left of a process that has ended: an orphan is this program's child.
    fn reap(&mut self, pid: i32) {
        match self.root.take_if(|root| root.id() as i32 == pid) {
            Some(mut root) => drop(root.wait()),
            // SAFETY: it takes integers, and a null pointer for a status that nobody wants. Whose parent lives is gone
            // already, and no child.
            None => drop(unsafe { libc::waitpid(pid, core::ptr::null_mut(), libc::WNOHANG) }),
        }
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        // All workers read the end of their sockets.
        self.sockets.clear();
        let processes: Vec<_> = self.processes.iter_mut().filter_map(Option::take).collect();
        for process in &processes {
            // One that does not end has been told to.
            let _ = process.wait_for_end();
        }
        // Only now is every orphan known to be this program's.
        processes.iter().for_each(|process| self.reap(process.pid));
        if let Some(mut root) = self.root.take() {
            let _ = root.wait();
        }
    }
}

/// Lets a file descriptor be inherited by the programs that are executed from now on.
pub(crate) fn keep_on_exec(fd: &impl AsRawFd) -> io::Result<()> {
    // SAFETY: it takes integers.
    check(i64::from(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, 0) })).map(drop)
}
