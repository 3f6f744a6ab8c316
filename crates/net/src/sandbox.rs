//! The thread that serves one sandbox.

use crate::host::Caller;
use crate::journal::{Journal, Recorder};
use crate::ledger::Ledger;
use crate::link::{Input, Output, Received};
use crate::packets::FlowId;
use crate::policy::Rules;
use crate::stack::{Context, Stack};
use crate::udp;
use forkd_linux_sys::fds::EventFd;
use forkd_protocol::net::{Inherited, Policy, WireStats};
use rustix::event::{Timespec, epoll};
use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::time::Duration;

const WIRE_TOKEN: u64 = 0;
const COMMAND_TOKEN: u64 = 1;
/// Frames that are taken from the guest before the host's sockets have their turn.
const FRAMES_PER_TURN: usize = 64;
const EVENTS_PER_TURN: usize = 128;
/// Pause after a fault of this program, so that a guest that can cause one does not keep a processor busy.
const AFTER_FAULT: Duration = Duration::from_millis(200);
const STACK_BYTES: usize = 512 << 10;

/// The sandbox that a thread serves.
pub struct Seat {
    pub sandbox: String,
    pub wire: Arc<OwnedFd>,
    pub ledger: Arc<File>,
    pub resolvers: Arc<Vec<SocketAddr>>,
    pub journal: Arc<Journal>,
}

/// Asked of the thread of a sandbox.
enum Command {
    Bind(String, Policy),
    SetPolicy(Policy, Sender<u32>),
    Mark(Sender<Inherited>),
    Stats(Sender<WireStats>),
    Call(u16, Caller),
}

/// The thread of a sandbox. Dropping it ends the thread.
pub struct Sandbox {
    commands: Option<Sender<Command>>,
    wake: Arc<EventFd>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Sandbox {
    /// Starts to serve. Connections that the wire's last process or the sandbox's source has left open are reset.
    pub fn start(seat: Seat, policy: Policy, inherited: Inherited) -> io::Result<Sandbox> {
        let wake = Arc::new(EventFd::new()?);
        let (commands, receiver) = channel();
        let server = Server {
            seat,
            policy,
            inherited,
            wake: wake.clone(),
            commands: receiver,
        };
        let thread = std::thread::Builder::new()
            .name("sandbox".into())
            .stack_size(STACK_BYTES);
        Ok(Sandbox {
            commands: Some(commands),
            wake,
            thread: Some(thread.spawn(move || server.run())?),
        })
    }

    pub fn bind(&self, sandbox: String, policy: Policy) {
        self.send(Command::Bind(sandbox, policy));
    }

    /// Returns how many flows the policy has ended; `None` if the thread has ended.
    pub fn set_policy(&self, policy: Policy) -> Option<u32> {
        self.ask(|to| Command::SetPolicy(policy, to))
    }

    pub fn mark(&self) -> Option<Inherited> {
        self.ask(Command::Mark)
    }

    pub fn stats(&self) -> Option<WireStats> {
        self.ask(Command::Stats)
    }

    pub fn call(&self, port: u16, caller: Caller) {
        self.send(Command::Call(port, caller));
    }

    fn send(&self, command: Command) {
        // Fails only if the thread has ended.
        let _ = self.commands.as_ref().map(|commands| commands.send(command));
        self.wake.signal();
    }

    fn ask<T>(&self, command: impl FnOnce(Sender<T>) -> Command) -> Option<T> {
        let (to, from) = channel();
        self.send(command(to));
        from.recv().ok()
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.commands = None;
        self.wake.signal();
        if let Some(thread) = self.thread.take() {
            // The thread's panics have been caught.
            let _ = thread.join();
        }
    }
}

struct Server {
    seat: Seat,
    policy: Policy,
    inherited: Inherited,
    wake: Arc<EventFd>,
    commands: Receiver<Command>,
}

impl Server {
    fn run(mut self) {
        loop {
            match catch_unwind(AssertUnwindSafe(|| self.serve())) {
                Ok(Ok(())) => return,
                Ok(Err(error)) => forkd_log::line(&self.seat.sandbox, &format!("its network has failed: {error}")),
                Err(_) => forkd_log::line(
                    &self.seat.sandbox,
                    "its network begins anew after a fault of this program",
                ),
            }
            // The connections are in the ledger, so the next turn resets them.
            std::thread::sleep(AFTER_FAULT);
            if self.catch_up().is_none() {
                return;
            }
        }
    }

    /// Takes what was asked meanwhile. `None` if the sandbox is to be closed. Requests for an answer fail.
    fn catch_up(&mut self) -> Option<()> {
        loop {
            match self.commands.try_recv() {
                Ok(Command::Bind(sandbox, policy)) => (self.seat.sandbox, self.policy) = (sandbox, policy),
                Ok(Command::SetPolicy(policy, _)) => self.policy = policy,
                Ok(_) => {}
                Err(TryRecvError::Empty) => return Some(()),
                Err(TryRecvError::Disconnected) => return None,
            }
        }
    }

    /// Serves until the sandbox is closed or its VMM has ended.
    fn serve(&mut self) -> io::Result<()> {
        let mut stack = self.stack()?;
        let mut input = Input::new();
        let mut events = vec![empty_event(); EVENTS_PER_TURN];
        let (mut patience, mut is_readable) = (Some(Duration::ZERO), true);
        loop {
            stack.context.output.flush();
            if stack.context.output.is_gone() {
                stack.end();
                return Ok(());
            }
            if is_readable && !stack.context.output.is_full() {
                patience = Some(Duration::ZERO);
            }
            for event in wait(&stack.context, &mut events, patience)? {
                let (token, flags) = (event.data.u64(), event.flags);
                let has_ended = flags.intersects(epoll::EventFlags::HUP | epoll::EventFlags::ERR);
                let readable = has_ended || flags.intersects(epoll::EventFlags::IN | epoll::EventFlags::RDHUP);
                let writable = has_ended || flags.contains(epoll::EventFlags::OUT);
                match token {
                    WIRE_TOKEN => is_readable |= readable,
                    COMMAND_TOKEN => {
                        self.wake.clear();
                        if self.obey(&mut stack).is_none() {
                            stack.end();
                            return Ok(());
                        }
                    }
                    udp::FIRST_TOKEN..=0xffff_ffff_ffff => stack.udp.wake(token),
                    _ => stack.tcp.wake(FlowId::of_token(token), readable, writable),
                }
            }
            for _ in 0..FRAMES_PER_TURN {
                if !is_readable || stack.context.output.is_full() {
                    break;
                }
                match input.receive(stack.context.output.as_fd()) {
                    Received::Frame(frame) => stack.ingress(frame),
                    Received::NoFrame => stack.context.stats.frames_refused += 1,
                    Received::Nothing => is_readable = false,
                    Received::Gone => {
                        stack.end();
                        return Ok(());
                    }
                }
            }
            let udp = stack.udp.serve(&mut stack.context);
            let tcp = stack.tcp.serve(&mut stack.context);
            patience = udp.into_iter().chain(tcp).min();
        }
    }

    fn stack(&mut self) -> io::Result<Stack> {
        let (mut ledger, left) = Ledger::open(&self.seat.ledger)?;
        let inherited = std::mem::take(&mut self.inherited);
        ledger.inherit(inherited.names);
        // Policies were checked when they came.
        let rules = Rules::new(self.policy.clone()).unwrap_or_default();
        let recorder = Recorder::new(self.seat.sandbox.clone(), self.seat.journal.clone());
        let output = Output::new(self.seat.wire.clone());
        let context = Context::new(output, rules, ledger, recorder, self.seat.resolvers.clone())?;
        context.watch(&context.output, WIRE_TOKEN)?;
        context.watch(&*self.wake, COMMAND_TOKEN)?;
        let mut stack = Stack::new(context);
        stack.reset(&left);
        stack.reset(&inherited.connections);
        Ok(stack)
    }

    /// Does what was asked. `None` if the sandbox is to be closed.
    fn obey(&mut self, stack: &mut Stack) -> Option<()> {
        loop {
            // An answer whose receiver has gone is not needed.
            let _ = match self.commands.try_recv() {
                Ok(Command::Bind(sandbox, policy)) => {
                    self.seat.sandbox.clone_from(&sandbox);
                    stack.context.recorder.sandbox = sandbox;
                    self.set_policy(stack, policy);
                    Ok(())
                }
                Ok(Command::SetPolicy(policy, to)) => to.send(self.set_policy(stack, policy)).map_err(drop),
                Ok(Command::Mark(to)) => to.send(stack.mark()).map_err(drop),
                Ok(Command::Stats(to)) => to.send(stack.stats()).map_err(drop),
                Ok(Command::Call(port, caller)) => {
                    stack.tcp.call(port, caller);
                    Ok(())
                }
                Err(TryRecvError::Empty) => return Some(()),
                Err(TryRecvError::Disconnected) => return None,
            };
        }
    }

    fn set_policy(&mut self, stack: &mut Stack, policy: Policy) -> u32 {
        self.policy = policy.clone();
        stack.set_rules(Rules::new(policy).unwrap_or_default())
    }
}

fn empty_event() -> epoll::Event {
    epoll::Event {
        flags: epoll::EventFlags::empty(),
        data: epoll::EventData::new_u64(0),
    }
}

/// Waits for events. `None`: without end.
fn wait<'a>(
    context: &Context,
    events: &'a mut [epoll::Event],
    patience: Option<Duration>,
) -> io::Result<impl Iterator<Item = epoll::Event> + 'a> {
    let patience = patience.map(|patience| Timespec {
        tv_sec: patience.as_secs().try_into().unwrap_or(i64::MAX),
        tv_nsec: patience.subsec_nanos().into(),
    });
    let count = match epoll::wait(&context.epoll, &mut *events, patience.as_ref()) {
        Ok(count) => count,
        Err(rustix::io::Errno::INTR) => 0,
        Err(error) => return Err(error.into()),
    };
    Ok(events[..count].iter().copied())
}
