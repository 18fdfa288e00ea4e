//! What a broker says of itself before anybody logs in. The client keeps that to itself, so it is asked
//! for once more, on a connection that goes no further.

use std::{str::FromStr as _, time::Duration};

use lapin::uri::{AMQPScheme, AMQPUri};
use secrecy::ExposeSecret as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::config;

/// Of AMQP 0-9-1.
const HEADER: &[u8] = b"AMQP\x00\x00\x09\x01";
/// A greeting has some 500 bytes.
const GREETING_MAX: u32 = 64 * 1024;

/// Product and version, such as `RabbitMQ` and `3.10.8`; `None` where it can't be had: over TLS, or from a
/// broker that says it in another way.
pub async fn greeting(broker: &config::Broker, within: Duration) -> Option<(String, String)> {
    let uri = AMQPUri::from_str(broker.url.expose_secret()).ok()?;
    if uri.scheme != AMQPScheme::AMQP {
        return None;
    }
    let (host, port) = (uri.authority.host, uri.authority.port);
    let asked = tokio::time::timeout(within, ask(&host, port)).await;
    let frame = asked.ok()?.ok()?;
    let properties = server_properties(&frame)?;
    let property = |name: &str| {
        let found = properties.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.clone())
    };
    Some((property("product")?, property("version")?))
}

/// The payload of the first frame.
async fn ask(host: &str, port: u16) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect((host, port)).await?;
    stream.write_all(HEADER).await?;
    let mut head = [0; 7];
    stream.read_exact(&mut head).await?;
    let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]);
    let mut payload = vec![0; size.min(GREETING_MAX) as usize];
    stream.read_exact(&mut payload).await?;
    Ok(payload)
}

/// The texts of the table in `connection.start`: class 10, method 10, two bytes of version, the table.
fn server_properties(payload: &[u8]) -> Option<Vec<(String, String)>> {
    let mut rest = payload.strip_prefix(&[0, 10, 0, 10])?.get(2..)?;
    let mut table = sized(&mut rest)?;
    let mut found = Vec::new();
    while let Some((length, after)) = table.split_first() {
        let (name, after) = after.split_at_checked(usize::from(*length))?;
        let (kind, after) = after.split_first()?;
        table = after;
        match kind {
            b'S' => {
                let value = sized(&mut table)?;
                found.push((text(name), text(value)));
            }
            b'F' | b'A' => drop(sized(&mut table)?),
            b't' => table = table.get(1..)?,
            // Whatever else: what is known by here must do.
            _ => break,
        }
    }
    Some(found)
}

fn sized<'a>(from: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (size, rest) = from.split_first_chunk::<4>()?;
    let (value, rest) = rest.split_at_checked(u32::from_be_bytes(*size) as usize)?;
    *from = rest;
    Some(value)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(table: &[u8]) -> Vec<u8> {
        let size = u32::try_from(table.len()).unwrap().to_be_bytes();
        [&[0, 10, 0, 10, 0, 9], &size[..], table].concat()
    }

    #[test]
    fn texts_are_found_between_tables_and_flags() {
        let table =
            b"\x04capsF\x00\x00\x00\x05\x01at\x01\x00\x02upt\x01\x07versionS\x00\x00\x00\x033.9";
        let found = server_properties(&start(table)).unwrap();
        assert_eq!(found, [("version".to_owned(), "3.9".to_owned())]);
    }

    #[test]
    fn a_greeting_that_is_cut_anywhere_is_none_at_all_and_no_panic() {
        let whole = start(b"\x07versionS\x00\x00\x00\x033.9");
        for end in 0..whole.len() {
            assert_eq!(server_properties(&whole[..end]), None, "{end}");
        }
        assert_eq!(server_properties(b"HTTP/1.1 400 Bad Request"), None);
    }
}
