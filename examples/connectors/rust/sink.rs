// Takes a sink of Wallaroo into files, each message exactly once, by nothing
// but the standard library: rustc sink.rs && ./sink DIRECTORY.  DIR/STREAM has
// the messages; DIR/STREAM.state says how many bytes of it are valid.  The
// address and the cookie come from the environment.
mod wire;

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{BufReader, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use wire::*;

const DATA: u64 = 1; // the stream that has it

struct Output {
    file: File,
    path: String,
    committed: u64,
    end: u64,   // of what is prepared
    id: String, // of what is prepared; "": nothing is
    length: u64,
    gap: bool,
}

type Shared = Arc<Mutex<Output>>; // locked by the connection that it has
type Outputs = Arc<Mutex<HashMap<String, (Shared, TcpStream)>>>;

impl Output {
    fn new(path: String) -> Result<Output> {
        let file = OpenOptions::new().write(true).create(true).open(&path)?;
        let (id, committed, end) = (String::new(), 0, 0);
        Ok(Output { file, path, committed, end, id, length: 0, gap: false })
    }

    fn open(&mut self) -> Result<()> {
        let path = self.path.clone() + ".state";
        if std::path::Path::new(&path).exists() {
            let text = fs::read_to_string(path)?;
            let mut lines = text.lines().map(|line| line.to_string());
            let mut next = || lines.next().unwrap_or_default();
            self.committed = next().parse()?;
            self.end = next().parse()?;
            self.id = next();
        }
        self.cut()
    }

    // Give up what is neither committed nor prepared.
    fn cut(&mut self) -> Result<()> {
        self.gap = false;
        self.length = if self.id.is_empty() { self.committed } else { self.end };
        Ok(self.file.set_len(self.length)?)
    }

    fn save(&self) -> Result<()> {
        self.file.sync_all()?;
        let new = self.path.clone() + ".new";
        let mut file = File::create(&new)?;
        write!(file, "{}\n{}\n{}\n", self.committed, self.end, self.id)?;
        file.sync_all()?;
        fs::rename(new, self.path.clone() + ".state")?;
        let dir = std::path::Path::new(&self.path).parent();
        Ok(File::open(dir.ok_or("no directory")?)?.sync_all()?)
    }

    fn message(&mut self, offset: u64, body: &[u8]) -> Result<()> {
        if !self.id.is_empty() || offset < self.length {
            return Err(format!("a message at {} cannot be here", offset).into());
        }
        self.gap = self.gap || offset > self.length;
        if !self.gap {
            self.file.write_all_at(body, offset)?;
            self.length += body.len() as u64;
        }
        Ok(())
    }

    fn control(&mut self, tag: u8, f: &mut Fields) -> Result<Option<Frame>> {
        match tag {
            201 => {
                let reply = Frame::inner(202).u64(f.u64()?);
                Ok(Some(match self.id.as_str() {
                    "" => reply.u32(0),
                    id => reply.u32(1).text(id),
                }))
            }
            203 => {
                let (id, n, stream) = (f.text()?, f.u32()?, f.u64()?);
                let (start, end) = (f.u64()?, f.u64()?);
                if !self.id.is_empty() {
                    return Err("a transaction inside another one".into());
                }
                let yes = n == 1 && stream == DATA && !self.gap
                    && start == self.committed && start <= end
                    && end <= self.length;
                if yes {
                    self.id = id.clone();
                    self.end = end;
                    self.save()?;
                }
                Ok(Some(Frame::inner(204).text(&id).u8(yes as u8)))
            }
            205 => {
                let (id, commit) = (f.text()?, f.u8()? == 1);
                if (commit || !self.id.is_empty()) && id != self.id {
                    return Err(format!("{} was not prepared", id).into());
                }
                if commit {
                    self.committed = self.end;
                }
                self.id.clear();
                self.save()?;
                self.cut()?;
                Ok(None)
            }
            _ => Ok(None), // that workers have left, say
        }
    }
}

// The output of this name; whoever had it before loses its connection.
fn take(all: &Outputs, name: &str, conn: &TcpStream) -> Result<Shared> {
    let mut all = all.lock().unwrap();
    if let Some((output, before)) = all.get_mut(name) {
        let _ = before.shutdown(Shutdown::Both);
        *before = conn.try_clone()?;
        return Ok(output.clone());
    }
    let dir = std::env::args().nth(1).ok_or("no directory")?;
    let path = dir + "/" + &name.replace('/', "%2F");
    let output = Arc::new(Mutex::new(Output::new(path)?));
    all.insert(name.to_string(), (output.clone(), conn.try_clone()?));
    Ok(output)
}

fn session(all: &Outputs, conn: &TcpStream) -> Result<()> {
    let (mut input, mut out) = (BufReader::new(conn), conn);
    conn.set_read_timeout(Some(Duration::from_secs(30)))?;
    let (tag, mut f) = read(&mut input)?;
    if tag != HELLO || f.text()? != "v0.0.1" {
        return Err("HELLO of version v0.0.1 must come first".into());
    }
    let (got, cookie) = (f.text()?, env("WALLAROO_CONNECTOR_COOKIE"));
    // In a time that does not tell how much of it is right.
    let pairs = got.bytes().zip(cookie.bytes());
    if got.len() != cookie.len() || pairs.fold(0, |d, (a, b)| d | (a ^ b)) != 0 {
        return Err("Bad cookie".into());
    }
    Frame::new(OK).u32(500).send(&mut out)?;
    let (tag, mut f) = read(&mut input)?;
    if tag != NOTIFY || f.u64()? != DATA {
        return Err("NOTIFY must follow".into());
    }
    let shared = take(all, &f.text()?, conn)?;
    let mut output = shared.lock().unwrap();
    output.open()?;
    Frame::new(NOTIFY_ACK).u8(1).u64(DATA).u64(output.length).send(&mut out)?;
    conn.set_read_timeout(None)?;
    let mut greeted = false;
    loop {
        let (tag, mut f) = read(&mut input)?;
        if tag != MESSAGE {
            return Err(format!("a frame of tag {} cannot be here", tag).into());
        }
        let (stream, offset) = (f.u64()?, f.u64()?);
        f.u64()?;
        f.text()?;
        if stream == 0 {
            let inner = f.u8()?;
            greeted = greeted || inner == 201;
            if let Some(reply) = output.control(inner, &mut f)? {
                reply.send(&mut out)?;
            }
        } else if stream == DATA && greeted {
            output.message(offset, f.rest())?;
        } else {
            return Err("data before the stream is open".into());
        }
    }
}

fn main() -> Result<()> {
    let listener = TcpListener::bind(env("WALLAROO_CONNECTOR_ADDRESS"))?;
    let all = Outputs::default();
    for conn in listener.incoming() {
        let (conn, all) = (conn?, all.clone());
        std::thread::spawn(move || {
            if let Err(why) = session(&all, &conn) {
                eprintln!("a connection ends: {}", why);
                let text = why.to_string();
                let _ = Frame::new(ERROR).text(&text).send(&mut &conn);
            }
            let _ = conn.shutdown(Shutdown::Both);
        });
    }
    Ok(())
}
