//! Searches every interleaving of two of our processes and the qwen CLI on one expired token, with crashes at every step,
//! a lock that an exiting CLI removes, and a login in between. The decisions are the product's own functions. If one of
//! its mechanisms is left out, the search finds the fault that it prevents.

use std::collections::{HashMap, HashSet};

use qwen_accounts::{Token, is_abandoned, may_replace, was_brought};
use qwen_base::Secret;

/// Tokens are numbered as they are issued. Number 0 has expired.
type Number = u8;
/// The token of another login, which must not be overwritten.
const LOGIN: Number = 100;
/// In place of a token: a refused CLI has removed the file.
const GONE: Number = 200;
const NOW: u64 = 1_000_000_000;

fn token(number: Number) -> Token {
    Token {
        access_token: Secret::new(format!("access-{number}")),
        refresh_token: Some(Secret::new(format!("refresh-{number}"))),
        token_type: "Bearer".to_owned(),
        resource_url: None,
        scope: None,
        expires_at: if number == 0 || number == GONE { NOW - 1 } else { NOW + 3_600_000 },
    }
}

/// Next step of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Step {
    /// Look at the file without a lock.
    Look,
    /// Try the kernel lock.
    TakeKernelLock,
    /// Try the CLI's lock file, under the kernel lock.
    TakeLockFile,
    /// Read the file again, under both locks.
    ReadAgain,
    Redeem(Number),
    /// Keep the lock file, and write if the file still holds the redeemed token.
    Write {
        spent: Number,
        redeemed: Number,
    },
    /// Wait for a CLI that took the lock meanwhile, and restore the file if it removed it.
    Outlast(Number),
    RemoveLockFile,
    FreeKernelLock,
    Done,
    /// It was refused, or could not write. It asks again when the file changes.
    Failed,
    Dead,
}

/// The qwen CLI, which ignores the kernel lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum CliStep {
    Look,
    TakeLockFile,
    ReadAgain,
    Redeem(Number),
    Write(Number),
    /// It was refused, and removes the file.
    RemoveFile,
    RemoveLockFile,
    Done,
    Dead,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Holder {
    Ours(usize),
    Cli,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[expect(clippy::struct_excessive_bools, reason = "each is a thing that did or did not happen")]
struct World {
    /// The token in `oauth_creds.json`.
    file: Number,
    /// The one refresh token that the server still takes.
    live: Number,
    issued: Number,
    kernel_lock: Option<usize>,
    lock_file: Option<Holder>,
    ours: [Step; 2],
    cli: CliStep,
    /// Events that may still happen.
    crashes: u8,
    cli_exits: u8,
    /// Times that the CLI may still take a removed lock of ours before we do.
    quick: u8,
    logins: u8,
    /// The processes that have seen the CLI's lock.
    has_waited: [bool; 2],
    /// The process whose lock the CLI has taken.
    is_stolen: [bool; 2],
    /// A process died with tokens that only it had, or before it could restore them. No program can prevent
    /// that.
    is_lost: bool,
    /// The CLI is at work and its lock is gone. Later processes can't know.
    is_unseen: bool,
    /// The CLI may have taken our lock before we did.
    was_quick: bool,
    /// An unavoidable fault followed from that.
    is_unlucky: bool,
    /// A redeemed token was offered again.
    redeemed_again: bool,
    /// A login was overwritten, or a newer token was replaced by an older one.
    overwritten: bool,
}

/// The product's mechanisms; each can be left out.
#[derive(Debug, Clone, Copy)]
#[expect(clippy::struct_excessive_bools, reason = "each is there or left out")]
struct Mechanisms {
    kernel_lock: bool,
    lock_file: bool,
    read_again: bool,
    compare_before_write: bool,
    knows_own_locks: bool,
    write: bool,
    last_look: bool,
    retake: bool,
    patience: bool,
    outlasting: bool,
}

const ALL: Mechanisms = Mechanisms {
    kernel_lock: true,
    lock_file: true,
    read_again: true,
    compare_before_write: true,
    knows_own_locks: true,
    write: true,
    last_look: true,
    retake: true,
    patience: true,
    outlasting: true,
};

impl CliStep {
    /// Under its lock, if it is still there.
    fn is_at_work(self) -> bool {
        matches!(self, Self::ReadAgain | Self::Redeem(_) | Self::Write(_) | Self::RemoveFile)
    }
}

impl World {
    fn start() -> Self {
        Self {
            file: 0,
            live: 0,
            issued: 0,
            kernel_lock: None,
            lock_file: None,
            ours: [Step::Look; 2],
            cli: CliStep::Look,
            crashes: 0,
            cli_exits: 0,
            quick: 0,
            logins: 0,
            has_waited: [false; 2],
            is_stolen: [false; 2],
            is_lost: false,
            is_unseen: false,
            was_quick: false,
            is_unlucky: false,
            redeemed_again: false,
            overwritten: false,
        }
    }

    /// `can_know` is true if the process could know that another one redeems too.
    fn redeem(&mut self, number: Number, can_know: bool) -> Option<Number> {
        if number != self.live {
            self.redeemed_again |= can_know;
            self.is_unlucky |= self.is_unseen && !can_know;
            return None;
        }
        self.issued += 1;
        self.live = self.issued;
        Some(self.issued)
    }

    /// A process of ours writes.
    fn put(&mut self, number: Number) {
        self.overwritten |= self.file == LOGIN || self.file != GONE && number < self.file;
        self.file = number;
    }

    /// Our process that holds the lock file and watches it.
    fn holder_at_work(&self) -> Option<usize> {
        (0..2).find(|who| {
            self.lock_file == Some(Holder::Ours(*who))
                && matches!(self.ours[*who], Step::Redeem(_) | Step::Write { .. } | Step::Outlast(_))
        })
    }

    /// True if the lock file and the credentials file are unchanged.
    fn may_send(&self, who: usize, spent: Number, with: Mechanisms) -> bool {
        (!with.lock_file || self.lock_file == Some(Holder::Ours(who))) && self.file == spent
    }

    fn step_of_ours(&self, who: usize, with: Mechanisms) -> Option<Self> {
        let mut next = self.clone();
        let brought = |file: Number| was_brought(&token(file), &token(0), None, NOW);
        next.ours[who] = match self.ours[who] {
            // After a failure this is the user's next request.
            Step::Look | Step::Failed if brought(self.file) => Step::Done,
            Step::Look => Step::TakeKernelLock,
            Step::TakeKernelLock if !with.kernel_lock => Step::TakeLockFile,
            Step::TakeKernelLock => match self.kernel_lock {
                // A waiting process looks at the file meanwhile.
                Some(_) if brought(self.file) => Step::Done,
                Some(_) => return None,
                None => {
                    next.kernel_lock = Some(who);
                    Step::TakeLockFile
                }
            },
            Step::TakeLockFile if !with.lock_file => Step::ReadAgain,
            Step::TakeLockFile => {
                let abandoned = self.lock_file.is_some_and(|holder| {
                    let is_ours = matches!(holder, Holder::Ours(_)) && with.knows_own_locks;
                    // A live holder keeps its lock fresh; a dead one's lock gets stale.
                    let is_stale = holder == Holder::Cli && self.cli == CliStep::Dead;
                    is_abandoned(is_ours, true, is_stale)
                });
                if self.lock_file.is_none() || abandoned {
                    next.lock_file = Some(Holder::Ours(who));
                    Step::ReadAgain
                } else {
                    next.has_waited[who] |= self.lock_file == Some(Holder::Cli);
                    // The kernel lock is not held during the wait for the CLI's lock.
                    next.kernel_lock = self.kernel_lock.filter(|holder| *holder != who);
                    Step::Look
                }
            }
            Step::ReadAgain if with.read_again && brought(self.file) => Step::RemoveLockFile,
            // A lock that vanished without a new token may belong to a CLI that is at work.
            Step::ReadAgain if with.patience && self.has_waited[who] && self.cli.is_at_work() => return None,
            Step::ReadAgain if self.file == GONE => Step::RemoveLockFile,
            Step::ReadAgain => Step::Redeem(if with.read_again { self.file } else { 0 }),
            // After a sleep the process looks again before it sends.
            Step::Redeem(spent) if with.last_look && !self.may_send(who, spent, with) => {
                next.kernel_lock = self.kernel_lock.filter(|holder| *holder != who);
                next.lock_file = self.lock_file.filter(|holder| *holder != Holder::Ours(who));
                next.is_stolen[who] = false;
                Step::Look
            }
            Step::Redeem(spent) => match next.redeem(spent, !self.is_unseen || self.has_waited[who]) {
                Some(redeemed) => Step::Write { spent, redeemed },
                // Another process was faster: the token on disk is used if it is new.
                None => Step::RemoveLockFile,
            },
            Step::Write { spent, redeemed } => {
                if self.lock_file.is_none() && with.lock_file {
                    next.lock_file = Some(Holder::Ours(who));
                }
                let is_stolen = self.is_stolen[who];
                let secret = token(spent).refresh_token.unwrap();
                if with.write && (!with.compare_before_write || may_replace(&token(self.file), &secret)) {
                    next.put(redeemed);
                }
                if with.outlasting && is_stolen { Step::Outlast(redeemed) } else { Step::RemoveLockFile }
            }
            Step::Outlast(_) if self.lock_file == Some(Holder::Cli) && self.cli != CliStep::Dead => {
                return None;
            }
            Step::Outlast(redeemed) => {
                if self.file == GONE {
                    next.put(redeemed);
                }
                Step::RemoveLockFile
            }
            Step::RemoveLockFile => {
                next.lock_file = self.lock_file.filter(|holder| *holder != Holder::Ours(who));
                Step::FreeKernelLock
            }
            Step::FreeKernelLock => {
                next.kernel_lock = self.kernel_lock.filter(|holder| *holder != who);
                if brought(self.file) { Step::Done } else { Step::Failed }
            }
            Step::Failed | Step::Done | Step::Dead => return None,
        };
        Some(next)
    }

    fn step_of_cli(&self, with: Mechanisms) -> Option<Self> {
        let mut next = self.clone();
        let is_fresh = |file: Number| token(file).is_fresh(NOW);
        next.cli = match self.cli {
            CliStep::Look if is_fresh(self.file) => CliStep::Done,
            CliStep::Look => CliStep::TakeLockFile,
            CliStep::TakeLockFile => match self.lock_file {
                None => {
                    next.lock_file = Some(Holder::Cli);
                    for who in 0..2 {
                        next.is_stolen[who] |= matches!(self.ours[who], Step::Redeem(_) | Step::Write { .. });
                    }
                    CliStep::ReadAgain
                }
                // A dead process's lock gets stale, and the CLI removes it then.
                Some(Holder::Ours(who)) if self.ours[who] == Step::Dead => {
                    next.lock_file = None;
                    CliStep::TakeLockFile
                }
                Some(_) if is_fresh(self.file) => CliStep::Done,
                Some(_) => return None,
            },
            CliStep::ReadAgain if is_fresh(self.file) => CliStep::RemoveLockFile,
            CliStep::ReadAgain if self.file == GONE => CliStep::RemoveLockFile,
            CliStep::ReadAgain => CliStep::Redeem(self.file),
            CliStep::Redeem(spent) => match next.redeem(spent, !self.is_unseen && !self.was_quick) {
                Some(redeemed) => CliStep::Write(redeemed),
                None => CliStep::RemoveFile,
            },
            CliStep::RemoveFile => {
                // It reads the current token.
                next.file = GONE;
                CliStep::RemoveLockFile
            }
            CliStep::Write(redeemed) => {
                // It overwrites any login: that is the CLI's own affair.
                next.file = redeemed;
                CliStep::RemoveLockFile
            }
            CliStep::RemoveLockFile => {
                // It removes the lock, even if another process holds it.
                if !with.retake || self.holder_at_work().is_none() {
                    next.lock_file = None;
                }
                next.is_unseen = false;
                CliStep::Done
            }
            CliStep::Done | CliStep::Dead => return None,
        };
        Some(next)
    }

    /// Events that can happen at any moment.
    fn events(&self, with: Mechanisms) -> Vec<Self> {
        let mut all = Vec::new();
        if self.crashes > 0 {
            for who in 0..2 {
                if matches!(self.ours[who], Step::Done | Step::Failed | Step::Dead) {
                    continue;
                }
                let mut next = self.clone();
                next.crashes -= 1;
                next.is_lost |= matches!(self.ours[who], Step::Write { .. } | Step::Outlast(_));
                next.ours[who] = Step::Dead;
                // The kernel lock dies with its holder, the lock file does not.
                next.kernel_lock = self.kernel_lock.filter(|holder| *holder != who);
                all.push(next);
            }
            if !matches!(self.cli, CliStep::Done | CliStep::Dead) {
                let mut next = self.clone();
                next.crashes -= 1;
                next.is_lost |= matches!(self.cli, CliStep::Write(_));
                next.cli = CliStep::Dead;
                all.push(next);
            }
        }
        if self.cli_exits > 0 && self.lock_file.is_some() {
            let mut next = self.clone();
            next.cli_exits -= 1;
            next.is_unseen |= self.lock_file == Some(Holder::Cli) && self.cli.is_at_work();
            if with.retake && self.holder_at_work().is_some() {
                // Our process takes it again first, or the CLI does.
                all.push(next.clone());
                next.was_quick = true;
            }
            if !next.was_quick || self.quick > 0 {
                next.quick = self.quick.saturating_sub(u8::from(next.was_quick));
                next.lock_file = None;
                all.push(next);
            }
        }
        if self.logins > 0 {
            let mut next = self.clone();
            next.logins -= 1;
            next.file = LOGIN;
            all.push(next);
        }
        all
    }

    /// Faults that must never happen.
    fn violation(&self) -> Option<&'static str> {
        let inside = |step: &Step| {
            !matches!(
                step,
                Step::Look
                    | Step::TakeKernelLock
                    | Step::TakeLockFile
                    | Step::Done
                    | Step::Failed
                    | Step::Dead
            )
        };
        if self.overwritten {
            return Some("a newer token or a login was overwritten");
        }
        if self.ours.iter().filter(|step| inside(step)).count() > 1 {
            return Some("two processes of ours are inside");
        }
        if self.redeemed_again && !self.is_lost {
            return Some("a token was redeemed twice");
        }
        None
    }

    /// Faults at the end, when no step is left.
    fn violation_at_the_end(&self) -> Option<&'static str> {
        let waits = |step: &Step| !matches!(step, Step::Done | Step::Failed | Step::Dead);
        if self.ours.iter().any(waits) || !matches!(self.cli, CliStep::Done | CliStep::Dead) {
            return Some("somebody waits for ever");
        }
        if self.file != LOGIN && !self.is_lost && !self.is_unlucky && self.file != self.live {
            return Some("the newest token is lost");
        }
        if self.ours.contains(&Step::Failed) && !self.is_lost && !self.is_unlucky {
            return Some("somebody is logged out");
        }
        None
    }
}

/// Walks through every possible order from `start`. Returns the number of worlds, or the path to the first fault.
fn search(start: &World, with: Mechanisms) -> Result<usize, String> {
    let mut worlds = vec![start.clone()];
    let mut known = HashMap::from([(start.clone(), 0)]);
    let mut came_from = vec![0];
    // Backward edges without events: events may never happen.
    let mut sources: Vec<Vec<usize>> = vec![Vec::new()];
    let mut ends = Vec::new();
    let mut at = 0;
    while at < worlds.len() {
        let world = worlds[at].clone();
        let steps = [world.step_of_ours(0, with), world.step_of_ours(1, with), world.step_of_cli(with)];
        let steps: Vec<_> = steps.into_iter().flatten().collect();
        let at_the_end = if steps.is_empty() { world.violation_at_the_end() } else { None };
        if let Some(violation) = world.violation().or(at_the_end) {
            return Err(told(violation, &worlds, &came_from, at));
        }
        if steps.is_empty() {
            ends.push(at);
        }
        let count = steps.len();
        for (index, next) in steps.into_iter().chain(world.events(with)).enumerate() {
            let place = *known.entry(next.clone()).or_insert_with(|| {
                worlds.push(next);
                came_from.push(at);
                sources.push(Vec::new());
                worlds.len() - 1
            });
            if index < count {
                sources[place].push(at);
            }
        }
        at += 1;
    }
    // A process in an endless loop waits for ever.
    let mut gets_through: HashSet<usize> = ends.iter().copied().collect();
    while let Some(end) = ends.pop() {
        ends.extend(sources[end].iter().filter(|source| gets_through.insert(**source)));
    }
    match (0..worlds.len()).find(|place| !gets_through.contains(place)) {
        Some(stuck) => Err(told("somebody waits for ever", &worlds, &came_from, stuck)),
        None => Ok(worlds.len()),
    }
}

/// A fault and the path to it.
fn told(violation: &str, worlds: &[World], came_from: &[usize], place: usize) -> String {
    let mut way = vec![format!("{:?}", worlds[place])];
    let mut at = place;
    while at != 0 {
        at = came_from[at];
        way.push(format!("{:?} {:?}", worlds[at].ours, worlds[at].cli));
    }
    way.reverse();
    format!("{violation}\n{}", way.join("\n"))
}

fn worlds() -> Vec<World> {
    let mut all = Vec::new();
    for crashes in 0..=2 {
        for cli_exits in 0..=1 {
            for logins in 0..=1 {
                for cli in [CliStep::Look, CliStep::Done] {
                    for quick in 0..=cli_exits {
                        all.push(World { cli, crashes, cli_exits, quick, logins, ..World::start() });
                    }
                }
            }
        }
    }
    all
}

#[test]
fn no_interleaving_redeems_twice_or_loses_a_token() {
    let mut count = 0;
    for start in worlds() {
        count += search(&start, ALL).unwrap_or_else(|way| panic!("{way}"));
    }
    assert!(count > 10_000, "only {count} worlds were looked at");
}

#[test]
fn every_mechanism_is_needed() {
    let without: [(&str, Mechanisms); 10] = [
        ("the kernel's lock", Mechanisms { kernel_lock: false, ..ALL }),
        ("the CLI's lock file", Mechanisms { lock_file: false, ..ALL }),
        // Both let a process see another's work before it has the locks.
        ("a second look", Mechanisms { read_again: false, last_look: false, ..ALL }),
        ("the comparison before the write", Mechanisms { compare_before_write: false, ..ALL }),
        ("knowing a dead process's lock", Mechanisms { knows_own_locks: false, ..ALL }),
        ("the write", Mechanisms { write: false, ..ALL }),
        ("the last look", Mechanisms { last_look: false, ..ALL }),
        ("taking the lock again", Mechanisms { retake: false, ..ALL }),
        ("patience with a CLI whose lock is gone", Mechanisms { patience: false, ..ALL }),
        ("outlasting a CLI that got in", Mechanisms { outlasting: false, ..ALL }),
    ];
    for (mechanism, with) in without {
        let found = worlds().iter().any(|start| search(start, with).is_err());
        assert!(found, "nothing is wrong without {mechanism}");
    }
}
