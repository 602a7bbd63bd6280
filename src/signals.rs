//! Delays signals that end the process while a refresh token is in progress, and delivers them afterwards.
//!
//! Handlers are installed only during that time, and the previous handlers get the signals in the end.

#[cfg(unix)]
pub use self::unix::{hold, release};
#[cfg(windows)]
pub use self::windows::{hold, release};

#[cfg(unix)]
mod unix {
    #![expect(unsafe_code, reason = "signal handlers are the C library's")]

    use std::io::{PipeReader, Read as _, pipe};
    use std::mem::MaybeUninit;
    use std::os::fd::IntoRawFd as _;
    use std::ptr;
    use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};
    use std::sync::{LazyLock, Mutex};
    use std::thread::Thread;
    use std::time::Duration;

    use libc::{c_int, sigaction, sigset_t};
    use qwen_base::lock;

    use super::super::process_end::shutdown;

    /// Signals that users, terminals and service managers send to end a process.
    const ENDING: [c_int; 4] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT];
    /// Signals that are delayed only if they would end the process, so not if the runtime has a handler for them.
    #[cfg(target_os = "linux")]
    const OTHERS: [c_int; 9] = [
        libc::SIGUSR1,
        libc::SIGUSR2,
        libc::SIGALRM,
        libc::SIGXCPU,
        libc::SIGPROF,
        libc::SIGVTALRM,
        libc::SIGIO,
        libc::SIGPWR,
        libc::SIGSTKFLT,
    ];
    #[cfg(not(target_os = "linux"))]
    const OTHERS: [c_int; 6] =
        [libc::SIGUSR1, libc::SIGUSR2, libc::SIGALRM, libc::SIGXCPU, libc::SIGPROF, libc::SIGVTALRM];
    const COUNT: usize = ENDING.len() + OTHERS.len();

    /// Interval in which the handlers are checked during a section.
    const CHECK_INTERVAL: Duration = Duration::from_millis(2);

    /// Flags of our handler.
    const FLAGS: c_int = libc::SA_RESTART | libc::SA_ONSTACK;

    /// The previous handler of each signal, which gets the delayed signal afterwards; `None` for signals that are not delayed.
    static PREVIOUS: Mutex<[Option<Action>; COUNT]> = Mutex::new([const { None }; COUNT]);
    static IS_HOLDING: AtomicBool = AtomicBool::new(false);
    /// One bit for each delayed signal.
    static PENDING: AtomicU32 = AtomicU32::new(0);
    /// The first delayed signal, or 0.
    static FIRST: AtomicI32 = AtomicI32::new(0);
    /// The write end of the pipe that wakes the watcher, or -1.
    static WAKE: AtomicI32 = AtomicI32::new(-1);

    struct Action(sigaction);

    // SAFETY: it has a function pointer and flags, which belong to the process and not to a thread.
    unsafe impl Send for Action {}

    /// Called when the first section begins.
    pub fn hold() {
        static CHECKER: LazyLock<Option<Thread>> = LazyLock::new(|| {
            start_watcher();
            start_checker()
        });
        let Some(checker) = &*CHECKER else { return };
        if WAKE.load(Ordering::SeqCst) < 0 {
            // Without a watcher, a signal could be delayed forever.
            return;
        }
        let mut previous = lock(&PREVIOUS);
        IS_HOLDING.store(true, Ordering::SeqCst);
        take_over(&mut previous);
        drop(previous);
        checker.unpark();
    }

    fn signals() -> impl Iterator<Item = c_int> {
        ENDING.into_iter().chain(OTHERS)
    }

    /// Replaces the handlers of all signals that would end the process.
    fn take_over(previous: &mut [Option<Action>; COUNT]) {
        for (signal, previous) in signals().zip(previous) {
            let Some(current) = current_action(signal) else { continue };
            let is_ours = current.0.sa_sigaction == handler();
            if is_ours && previous.is_some() && !is_set_again(&current) {
                continue;
            }
            let action = current.0.sa_sigaction;
            // Ignored signals, as under nohup, don't end the process.
            let ends_process =
                is_ours || action == libc::SIG_DFL || (ENDING.contains(&signal) && action != libc::SIG_IGN);
            if ends_process && set_action(signal, &ours()) {
                // If our handler is still there from an earlier section, the default action is restored afterwards.
                *previous = Some(if is_ours { default_action() } else { current });
            }
        }
    }

    /// Checks the handlers during sections. JavaScript may remove the last listener of a signal, for which Node sets the
    /// default, or add one, which replaces our handler.
    fn start_checker() -> Option<Thread> {
        let check = || {
            loop {
                let mut previous = lock(&PREVIOUS);
                let is_holding = IS_HOLDING.load(Ordering::SeqCst);
                if is_holding {
                    take_over(&mut previous);
                }
                drop(previous);
                if is_holding {
                    std::thread::sleep(CHECK_INTERVAL);
                } else {
                    std::thread::park();
                }
            }
        };
        let checker = std::thread::Builder::new().name("qwen-auth-hold".to_owned()).spawn(check).ok()?;
        Some(checker.thread().clone())
    }

    /// Called when the last section ends or its time is up. Delivers delayed signals.
    pub fn release() {
        let mut previous = lock(&PREVIOUS);
        for (signal, previous) in signals().zip(previous.iter_mut()) {
            let Some(before) = previous.take() else { continue };
            let Some(current) = current_action(signal) else { continue };
            // A handler that other code has set meanwhile stays.
            if current.0.sa_sigaction == handler() {
                let before = if is_set_again(&current) { default_action() } else { before };
                set_action(signal, &before);
            }
        }
        IS_HOLDING.store(false, Ordering::SeqCst);
        drop(previous);
        deliver();
    }

    fn deliver() {
        let (pending, first) = (PENDING.swap(0, Ordering::SeqCst), FIRST.swap(0, Ordering::SeqCst));
        let mut signals: Vec<_> = signals().collect();
        signals.sort_by_key(|signal| *signal != first);
        for signal in signals.into_iter().filter(|signal| pending & bit(*signal) != 0) {
            // SAFETY: the arguments are two numbers.
            unsafe { libc::kill(libc::getpid(), signal) };
        }
    }

    /// Ends the delay when the time of a section is up.
    fn start_watcher() {
        let Ok((mut reader, writer)) = pipe() else { return };
        let watch = move || {
            while is_woken(&mut reader) {
                shutdown().wait();
                release();
                // A signal handler may keep the process alive.
                shutdown().resume();
            }
        };
        if std::thread::Builder::new().name("qwen-auth-end".to_owned()).spawn(watch).is_ok() {
            WAKE.store(writer.into_raw_fd(), Ordering::SeqCst);
        }
    }

    fn is_woken(reader: &mut PipeReader) -> bool {
        reader.read_exact(&mut [0]).is_ok()
    }

    const fn bit(signal: c_int) -> u32 {
        1 << signal
    }

    /// Runs on any thread at any point, so it only sets numbers and writes a byte.
    extern "C" fn note(signal: c_int) {
        if !IS_HOLDING.load(Ordering::SeqCst) {
            // The handler that replaced ours has called it; no signal is being delayed.
            return;
        }
        let _ = FIRST.compare_exchange(0, signal, Ordering::SeqCst, Ordering::SeqCst);
        PENDING.fetch_or(bit(signal), Ordering::SeqCst);
        let errno = errno();
        // SAFETY: `write` may be called in a signal handler. The pipe is never closed, and the byte is static. `errno`
        // belongs to the thread and is restored for the interrupted code.
        unsafe {
            let before = *errno;
            libc::write(WAKE.load(Ordering::SeqCst), ptr::from_ref(&0_u8).cast(), 1);
            *errno = before;
        }
    }

    fn errno() -> *mut c_int {
        // SAFETY: it returns the address of a thread-local number.
        #[cfg(target_os = "linux")]
        unsafe {
            libc::__errno_location()
        }
        // SAFETY: as above.
        #[cfg(not(target_os = "linux"))]
        unsafe {
            libc::__error()
        }
    }

    fn handler() -> usize {
        note as extern "C" fn(c_int) as usize
    }

    /// True if Bun has restored our handler with other flags, as it does when the program removes its last listener.
    fn is_set_again(current: &Action) -> bool {
        current.0.sa_sigaction == handler() && current.0.sa_flags & FLAGS != FLAGS
    }

    fn default_action() -> Action {
        action(libc::SIG_DFL, 0)
    }

    fn ours() -> Action {
        action(handler(), FLAGS)
    }

    fn action(handler: usize, flags: c_int) -> Action {
        // SAFETY: all zeros is a valid action, and the C library empties the mask.
        unsafe {
            let mut action: sigaction = MaybeUninit::zeroed().assume_init();
            action.sa_sigaction = handler;
            action.sa_flags = flags;
            let mut mask = MaybeUninit::<sigset_t>::zeroed().assume_init();
            libc::sigemptyset(&raw mut mask);
            action.sa_mask = mask;
            Action(action)
        }
    }

    fn current_action(signal: c_int) -> Option<Action> {
        let mut current = MaybeUninit::<sigaction>::zeroed();
        // SAFETY: nothing is set. The action is written to memory of its size, and read only on success.
        unsafe {
            let status = sigaction(signal, ptr::null(), current.as_mut_ptr());
            (status == 0).then(|| Action(current.assume_init()))
        }
    }

    fn set_action(signal: c_int, action: &Action) -> bool {
        // SAFETY: the action was created here or returned by the C library, and its handler stays loaded.
        unsafe { sigaction(signal, &raw const action.0, ptr::null_mut()) == 0 }
    }
}

#[cfg(windows)]
mod windows {
    #![expect(unsafe_code, reason = "the console's handlers are the system's")]

    use std::sync::Once;

    use super::super::process_end::shutdown;

    #[link(name = "kernel32")]
    unsafe extern "system" {
        fn SetConsoleCtrlHandler(handler: extern "system" fn(u32) -> i32, add: i32) -> i32;
    }

    /// Called when the first section begins.
    pub fn hold() {
        static INSTALLED: Once = Once::new();
        INSTALLED.call_once(|| {
            // SAFETY: the handler may run on a thread of its own, as Windows does. If it can't be installed, closing
            // the console is not delayed.
            let _ = unsafe { SetConsoleCtrlHandler(on_event, 1) };
        });
    }

    /// Does nothing: [`on_event`] returns when the last section ends.
    pub fn release() {}

    /// Handles Ctrl-C, Ctrl-Break, closing of the console and logoff: waits, then leaves the event to earlier handlers.
    extern "system" fn on_event(_event: u32) -> i32 {
        let shutdown = shutdown();
        shutdown.wait();
        shutdown.resume();
        0
    }
}
