// Frames of the connector protocol, for source.rs and sink.rs.
#![allow(dead_code)]

use std::io::{Read, Write};

pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

pub const NOTHING: u64 = u64::MAX;
pub const HELLO: u8 = 0;
pub const OK: u8 = 1;
pub const ERROR: u8 = 2;
pub const NOTIFY: u8 = 3;
pub const NOTIFY_ACK: u8 = 4;
pub const MESSAGE: u8 = 5;
pub const ACK: u8 = 6;
pub const RESTART: u8 = 7;
pub const EOS: u8 = 8;

pub fn env(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}

pub struct Frame(Vec<u8>);

impl Frame {
    pub fn new(tag: u8) -> Frame {
        Frame(vec![0, 0, 0, 0, tag])
    }
    pub fn u8(self, n: u8) -> Frame {
        self.bytes(&[n])
    }
    pub fn u32(self, n: u32) -> Frame {
        self.bytes(&n.to_be_bytes())
    }
    pub fn u64(self, n: u64) -> Frame {
        self.bytes(&n.to_be_bytes())
    }
    pub fn text(self, s: &str) -> Frame {
        self.bytes(&(s.len() as u16).to_be_bytes()).bytes(s.as_bytes())
    }
    pub fn bytes(mut self, b: &[u8]) -> Frame {
        self.0.extend_from_slice(b);
        self
    }
    // What is a message on stream 0 of a sink.
    pub fn inner(tag: u8) -> Frame {
        Frame::new(MESSAGE).u64(0).u64(0).u64(0).text("").u8(tag)
    }
    pub fn send(mut self, out: &mut impl Write) -> Result<()> {
        let n = self.0.len() as u32 - 4;
        self.0[..4].copy_from_slice(&n.to_be_bytes());
        Ok(out.write_all(&self.0)?)
    }
}

// The fields of a body, one after the other.
pub struct Fields(pub Vec<u8>, usize);

impl Fields {
    pub fn take(&mut self, n: usize) -> Result<&[u8]> {
        if n > self.0.len() - self.1 {
            return Err("a frame ends inside a field".into());
        }
        self.1 += n;
        Ok(&self.0[self.1 - n..self.1])
    }
    pub fn u8(&mut self) -> Result<u8> {
        Ok(self.take(1)?[0])
    }
    pub fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_be_bytes(self.take(4)?.try_into()?))
    }
    pub fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_be_bytes(self.take(8)?.try_into()?))
    }
    pub fn text(&mut self) -> Result<String> {
        let n = u16::from_be_bytes(self.take(2)?.try_into()?);
        Ok(String::from_utf8(self.take(n as usize)?.to_vec())?)
    }
    pub fn rest(&mut self) -> &[u8] {
        &self.0[self.1..]
    }
}

pub fn read(conn: &mut impl Read) -> Result<(u8, Fields)> {
    let mut head = [0; 4];
    conn.read_exact(&mut head)?;
    let n = u32::from_be_bytes(head) as usize;
    if n < 1 || n > (1 << 20) + 64 {
        return Err(format!("a frame of {} bytes", n).into());
    }
    let mut body = vec![0; n];
    conn.read_exact(&mut body)?;
    Ok((body[0], Fields(body, 1)))
}
