//! What a broker says of itself before anybody logs in. The client keeps that to itself, so it is asked
//! for once more, on a connection that goes no further. It is worth that: a broker older than the one this
//! is made for takes the arguments of at-least-once dead-lettering, ignores them, and loses messages.

use std::{str::FromStr as _, time::Duration};

use lapin::protocol::{AMQPClass, connection::AMQPMethod, parse_class};
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
    product_and_version(&asked.ok()?.ok()?)
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

/// What `connection.start` says of the broker.
fn product_and_version(payload: &[u8]) -> Option<(String, String)> {
    let Ok((_, AMQPClass::Connection(AMQPMethod::Start(start)))) = parse_class(payload) else {
        return None;
    };
    let properties = start.server_properties.inner();
    let property = |name| Some(properties.get(name)?.as_long_string()?.to_string());
    Some((property("product")?, property("version")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_greeting_that_is_cut_anywhere_is_none_at_all_and_no_panic() {
        let table = b"\x04capsF\x00\x00\x00\x04\x01at\x01\x07productS\x00\x00\x00\x01R\
                      \x02upt\x01\x07versionS\x00\x00\x00\x033.9";
        let size = u32::try_from(table.len()).unwrap().to_be_bytes();
        let rest = b"\x00\x00\x00\x05PLAIN\x00\x00\x00\x05en_US";
        let whole = [&[0, 10, 0, 10, 0, 9], &size[..], table, rest].concat();
        let found = ("R".to_owned(), "3.9".to_owned());
        assert_eq!(product_and_version(&whole), Some(found));
        for end in 0..whole.len() {
            assert_eq!(product_and_version(&whole[..end]), None, "{end}");
        }
        assert_eq!(product_and_version(b"HTTP/1.1 400 Bad Request"), None);
    }
}
