//! Tests of the whole program: guests are TCP/IP stacks and hand-made frames at the other end of real wires, and the internet
//! is made of servers and a resolver on loopback.

mod closed;
mod forks;
mod guest;
mod hostile;
mod inbound;
mod internet;
mod names;
mod program;
mod restart;
mod tls;
mod udp;
