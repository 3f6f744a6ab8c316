//! Servers and a resolver on loopback.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// The answers of the resolver for a name.
#[derive(Clone)]
pub enum Known {
    /// The addresses of the name.
    At(Vec<Ipv4Addr>),
    /// Another name's address, by way of these names.
    Alias(Vec<&'static str>, Ipv4Addr),
}

/// A resolver whose answers can change at any time.
#[derive(Clone)]
pub struct Resolver {
    pub address: SocketAddr,
    names: Arc<Mutex<HashMap<String, Known>>>,
}

impl Resolver {
    pub fn start(names: &[(&str, Known)]) -> Resolver {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let resolver = Resolver {
            address: socket.local_addr().expect("an address"),
            names: Arc::default(),
        };
        names.iter().for_each(|(name, known)| resolver.set(name, known.clone()));
        let names = resolver.names.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                let reply = reply(&buffer[..length], &names.lock().expect("no panic"));
                // A guest's query may have been given up.
                let _ = socket.send_to(&reply, from);
            }
        });
        resolver
    }

    pub fn set(&self, name: &str, known: Known) {
        self.names.lock().expect("no panic").insert(name.into(), known);
    }
}

/// A name at 127.0.0.1.
pub fn local(name: &str) -> Resolver {
    Resolver::start(&[(name, Known::At(vec![Ipv4Addr::LOCALHOST]))])
}

fn reply(query: &[u8], names: &HashMap<String, Known>) -> Vec<u8> {
    let mut labels = Vec::new();
    let mut at = 12;
    while query[at] != 0 {
        let length = usize::from(query[at]);
        labels.push(String::from_utf8_lossy(&query[at + 1..at + 1 + length]).into_owned());
        at += 1 + length;
    }
    let question = &query[12..at + 5];
    let known = names.get(&labels.join("."));
    let mut records = Vec::new();
    match known {
        Some(Known::At(addresses)) => addresses
            .iter()
            .for_each(|it| records.push((vec![0xc0, 12], 1u16, it.octets().to_vec()))),
        Some(Known::Alias(aliases, address)) => {
            let mut owner = vec![0xc0, 12];
            for alias in aliases {
                let target = encode(alias);
                records.push((owner, 5, target.clone()));
                owner = target;
            }
            records.push((owner, 1, address.octets().to_vec()));
        }
        None => {}
    }
    let code = if known.is_some() { 0x80 } else { 0x83 };
    let mut reply = [
        &query[..2],
        &[0x81, code, 0, 1, 0, records.len() as u8, 0, 0, 0, 0],
        question,
    ]
    .concat();
    for (owner, kind, data) in records {
        reply.extend(owner);
        reply.extend(kind.to_be_bytes());
        reply.extend([0, 1, 0, 0, 0, 0, 0, data.len() as u8]);
        reply.extend(data);
    }
    reply
}

fn encode(name: &str) -> Vec<u8> {
    let labels = name.split('.');
    let mut bytes: Vec<u8> = labels
        .flat_map(|label| [&[label.len() as u8], label.as_bytes()].concat())
        .collect();
    bytes.push(0);
    bytes
}

/// A server that sends back what it gets, and counts its connections.
pub struct Echo {
    pub address: SocketAddr,
    connections: Arc<AtomicUsize>,
    bytes: Arc<AtomicUsize>,
}

impl Echo {
    pub fn start(at: &str) -> Echo {
        let listener = TcpListener::bind(at).expect("a listener");
        let echo = Echo {
            address: listener.local_addr().expect("an address"),
            connections: Arc::default(),
            bytes: Arc::default(),
        };
        let (connections, bytes) = (echo.connections.clone(), echo.bytes.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                connections.fetch_add(1, Ordering::SeqCst);
                let bytes = bytes.clone();
                std::thread::spawn(move || serve(stream, &bytes));
            }
        });
        echo
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Connections that were made so far.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Bytes that have come so far.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::SeqCst)
    }
}

fn serve(mut stream: TcpStream, bytes: &AtomicUsize) {
    let mut buffer = [0; 64 << 10];
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        bytes.fetch_add(count, Ordering::SeqCst);
        if stream.write_all(&buffer[..count]).is_err() {
            return;
        }
    }
}
