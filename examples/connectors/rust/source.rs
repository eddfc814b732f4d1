// Feeds the numbers from 1 to 1000 to a source of Wallaroo, by nothing but
// the standard library: rustc source.rs && ./source.  The address and the
// cookie come from the environment, see wallaroo-connectors(7).
mod wire;

use std::net::TcpStream;
use std::time::Duration;
use wire::*;

const STREAM: u64 = 7; // its number, the same after each start
const LAST: u64 = 1000;

enum End {
    Done,
    Refused(String),
    Elsewhere(String),
}

// One connection, until it ends.
fn session(place: &str) -> Result<End> {
    let mut conn = TcpStream::connect(place)?;
    let hello = Frame::new(HELLO)
        .text("0.0.1")
        .text(&env("WALLAROO_CONNECTOR_COOKIE"))
        .text("numbers in Rust")
        .text(&env("WALLAROO_CONNECTOR_NAME"));
    hello.send(&mut conn)?;
    let (tag, mut body) = read(&mut conn)?;
    if tag == ERROR {
        return Ok(End::Refused(body.text()?));
    }
    let mut credits = body.u32()? as i64;
    let (mut ask, mut open, mut ended) = (true, false, false);
    let mut at = 0; // what is sent next
    loop {
        if credits > 0 && (ask || (open && !ended)) {
            let out = if ask {
                ask = false;
                Frame::new(NOTIFY).u64(STREAM).text("numbers").u64(0)
            } else if at <= LAST {
                let body = at.to_string();
                at += 1;
                let out = Frame::new(MESSAGE).u64(STREAM).u64(at - 1);
                out.u64(0).text("").bytes(body.as_bytes())
            } else {
                ended = true;
                Frame::new(EOS).u64(STREAM)
            };
            credits -= 1;
            out.send(&mut conn)?;
            continue;
        }
        let (tag, mut body) = read(&mut conn)?;
        match tag {
            NOTIFY_ACK => {
                open = body.u8()? == 1;
                body.u64()?;
                let point = body.u64()?;
                at = if point == NOTHING { 1 } else { point + 1 };
            }
            ACK => {
                credits += body.u32()? as i64;
                for _ in 0..body.u32()? {
                    let (id, safe) = (body.u64()?, body.u64()?);
                    if id == STREAM && ended && safe == at - 1 {
                        return Ok(End::Done);
                    }
                }
                ask = !open; // it was refused: it may be free now
            }
            RESTART => {
                let n = body.u32().unwrap_or(0) as usize;
                let place = body.take(n)?.to_vec();
                return Ok(End::Elsewhere(String::from_utf8(place)?));
            }
            ERROR => return Err(body.text()?.into()),
            _ => return Err(format!("a frame with tag {}", tag).into()),
        }
    }
}

fn main() {
    let first = env("WALLAROO_CONNECTOR_ADDRESS");
    let mut place = first.clone();
    let mut wait = Duration::from_millis(100);
    loop {
        let end = session(&place);
        place = first.clone();
        match end {
            Ok(End::Done) => return,
            Ok(End::Refused(why)) => {
                eprintln!("refused: {}", why);
                std::process::exit(100);
            }
            Ok(End::Elsewhere(other)) => {
                wait = Duration::from_millis(100);
                if !other.is_empty() {
                    place = other;
                }
            }
            Err(why) => eprintln!("connecting again: {}", why),
        }
        std::thread::sleep(wait);
        wait = std::cmp::min(wait * 2, Duration::from_secs(2));
    }
}
