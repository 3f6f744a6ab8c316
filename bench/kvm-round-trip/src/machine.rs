//! A machine with one processor, which is either stopped or runs in a thread of its own.

use crate::guest::{self, Mode, Word};
use forkd_linux_sys::PAGE_SIZE;
use forkd_linux_sys::kvm::{self, Exit, Kick, Kvm, Processor, Registers};
use forkd_linux_sys::memfd::Mapping;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

/// A guest that runs reports in less.
const PATIENCE: Duration = Duration::from_secs(30);

/// A machine whose processor is stopped.
pub struct Stopped {
    below: Arc<File>,
    memory: Arc<Mapping>,
    processor: Processor,
    _machine: kvm::Machine,
}

impl Stopped {
    /// A machine whose memory is a private mapping of the file `below`.
    pub fn over(kvm: &Kvm, below: Arc<File>) -> io::Result<Stopped> {
        let memory = Arc::new(Mapping::private(&below, guest::PAGES as usize * PAGE_SIZE)?);
        let machine = kvm.create_machine(memory.clone())?;
        let processor = machine.create_processor()?;
        Ok(Stopped {
            below,
            memory,
            processor,
            _machine: machine,
        })
    }

    /// Creates a machine that begins with the guest's first step.
    pub fn fresh(kvm: &Kvm, mode: Mode) -> io::Result<Stopped> {
        let mut machine = Stopped::over(kvm, Arc::new(guest::memory(mode)?))?;
        let mut registers = machine.registers()?;
        guest::start(mode, &mut registers);
        machine.set_registers(&registers)?;
        Ok(machine)
    }

    /// The memory that the machine was made of.
    pub fn below(&self) -> &Arc<File> {
        &self.below
    }

    pub fn memory(&self) -> &Mapping {
        &self.memory
    }

    /// All of its memory.
    pub fn bytes(&self) -> &[u8] {
        self.memory.bytes(0, self.memory.len())
    }

    pub fn registers(&self) -> io::Result<Registers> {
        self.processor.registers()
    }

    pub fn set_registers(&mut self, registers: &Registers) -> io::Result<()> {
        self.processor.set_registers(registers)
    }

    pub fn run(self) -> Running {
        let kick = self.processor.kick();
        let (sender, reports) = mpsc::channel();
        Running {
            kick,
            reports,
            thread: Some(std::thread::spawn(move || run(self, &sender))),
        }
    }
}

/// Runs the guest until it is kicked or has failed.
fn run(mut machine: Stopped, reports: &Sender<u32>) -> io::Result<Stopped> {
    loop {
        let exit = machine.processor.run()?;
        match guest::word(exit) {
            Some(Word::Steps(steps)) => {
                // The receiver may be gone.
                let _ = reports.send(steps);
            }
            Some(Word::WrongPage(address)) => {
                return Err(io::Error::other(format!(
                    "the guest found a wrong page at {address:#x}"
                )));
            }
            None if exit == Exit::Kicked => return Ok(machine),
            None => return Err(io::Error::other(format!("the guest has stopped: {exit:x?}"))),
        }
    }
}

/// A machine whose processor runs. Dropping it ends the machine.
pub struct Running {
    kick: Kick,
    reports: Receiver<u32>,
    thread: Option<JoinHandle<io::Result<Stopped>>>,
}

impl Running {
    /// Waits for the next `count` reports of the steps that the guest has completed.
    /// Fails, and says why, when the guest has ended.
    pub fn reports(&mut self, count: usize) -> io::Result<Vec<u32>> {
        let reports: Vec<u32> = (0..count)
            .map_while(|_| self.reports.recv_timeout(PATIENCE).ok())
            .collect();
        if reports.len() == count {
            return Ok(reports);
        }
        self.end()?;
        Err(io::Error::other(format!("the guest has not got on for {PATIENCE:?}")))
    }

    /// Stops the processor between two instructions.
    pub fn stop(mut self) -> io::Result<Stopped> {
        self.end()
    }

    fn end(&mut self) -> io::Result<Stopped> {
        self.kick.kick();
        let thread = self.thread.take().expect("a machine is ended once");
        thread.join().expect("the processor's thread does not panic")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.thread.is_some() {
            // Whatever it has to say comes too late.
            let _ = self.end();
        }
    }
}
