//! AMQP by hand: what no client library lets anybody send or receive, such as a header name that isn't UTF-8.

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
const HEARTBEAT: u8 = 8;
const END: u8 = 0xCE;

/// Class and method.
const START: [u16; 2] = [10, 10];
const TUNE: [u16; 2] = [10, 30];
const OPENED: [u16; 2] = [10, 41];
const CHANNEL_OPENED: [u16; 2] = [20, 11];
const SELECTED: [u16; 2] = [85, 11];
const ACK: [u16; 2] = [60, 80];
const NACK: [u16; 2] = [60, 120];
const GOT: [u16; 2] = [60, 71];
const GOT_NONE: [u16; 2] = [60, 72];

/// One connection with one channel that confirms.
#[derive(Debug)]
pub(crate) struct RawClient {
    stream: TcpStream,
}

/// A message as its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RawMessage {
    /// The flags and the list of properties, as in the content header.
    pub(crate) properties: Vec<u8>,
    pub(crate) body: Vec<u8>,
}

impl RawMessage {
    /// Persistent JSON with these fields in its header table, of which each is a name and a typed value.
    pub(crate) fn with_headers(table: &[u8], body: &[u8]) -> Self {
        // content-type, headers, delivery-mode.
        let mut properties = 0b1011_0000_0000_0000_u16.to_be_bytes().to_vec();
        short(&mut properties, b"application/json");
        long(&mut properties, table);
        properties.push(2);
        Self {
            properties,
            body: body.to_vec(),
        }
    }
}

/// One field of a header table: its name, and its type's dead letter with its value.
pub(crate) fn header(name: &[u8], value: &[u8]) -> Vec<u8> {
    let mut field = Vec::new();
    short(&mut field, name);
    field.extend(value);
    field
}

impl RawClient {
    /// By `amqp://user:password@host:port/vhost`.
    pub(crate) async fn connect(url: &str) -> Self {
        let url = url::Url::parse(url).expect("a URL");
        let host = url.host_str().expect("a host");
        let address = (host, url.port().unwrap_or(5672));
        let stream = TcpStream::connect(address).await.expect("connected");
        let mut client = Self { stream };
        let greeted = client.stream.write_all(b"AMQP\x00\x00\x09\x01").await;
        greeted.expect("greeted");
        client.expect(&[START]).await;
        let password = url.password().unwrap_or_default();
        let login = format!("\0{}\0{password}", url.username());
        let mut start_ok = vec![0; 4];
        short(&mut start_ok, b"PLAIN");
        long(&mut start_ok, login.as_bytes());
        short(&mut start_ok, b"en_US");
        client.method(0, [10, 11], &start_ok).await;
        client.expect(&[TUNE]).await;
        // One channel, frames of 128 KiB, no heartbeats.
        client.method(0, [10, 31], &[0, 1, 0, 2, 0, 0, 0, 0]).await;
        let vhost = url.path().trim_start_matches('/').replace("%2f", "/");
        let mut open = Vec::new();
        short(&mut open, vhost.as_bytes());
        open.extend([0, 0]);
        client.method(0, [10, 40], &open).await;
        client.expect(&[OPENED]).await;
        client.method(1, [20, 10], &[0]).await;
        client.expect(&[CHANNEL_OPENED]).await;
        client.method(1, [85, 10], &[0]).await;
        client.expect(&[SELECTED]).await;
        client
    }

    /// Returns when the broker has it; whether it took it.
    pub(crate) async fn publish(
        &mut self,
        exchange: &str,
        key: &str,
        message: &RawMessage,
    ) -> bool {
        let mut publish = vec![0, 0];
        short(&mut publish, exchange.as_bytes());
        short(&mut publish, key.as_bytes());
        // Neither mandatory nor immediate: a return would have to be read as well.
        publish.push(0);
        self.method(1, [60, 40], &publish).await;
        let size = message.body.len() as u64;
        let head = [&[0, 60, 0, 0][..], &size.to_be_bytes(), &message.properties].concat();
        self.frame(HEADER, 1, &head).await;
        for part in message.body.chunks(100_000) {
            self.frame(BODY, 1, part).await;
        }
        self.expect(&[ACK, NACK]).await.0 == ACK
    }

    /// The first message of a queue, removed from it.
    pub(crate) async fn take(&mut self, queue: &str) -> Option<RawMessage> {
        let mut get = vec![0, 0];
        short(&mut get, queue.as_bytes());
        // No ack wanted.
        get.push(1);
        self.method(1, [60, 70], &get).await;
        if self.expect(&[GOT, GOT_NONE]).await.0 == GOT_NONE {
            return None;
        }
        let (kind, head) = self.read().await;
        assert_eq!(kind, HEADER);
        let size = u64::from_be_bytes(head[4..12].try_into().expect("8 bytes"));
        let mut body = Vec::new();
        while (body.len() as u64) < size {
            let (kind, part) = self.read().await;
            assert_eq!(kind, BODY);
            body.extend(part);
        }
        let properties = head[12..].to_vec();
        Some(RawMessage { properties, body })
    }

    async fn method(&mut self, channel: u16, which: [u16; 2], arguments: &[u8]) {
        let payload = [
            &which[0].to_be_bytes()[..],
            &which[1].to_be_bytes(),
            arguments,
        ]
        .concat();
        self.frame(METHOD, channel, &payload).await;
    }

    async fn frame(&mut self, kind: u8, channel: u16, payload: &[u8]) {
        let mut frame = vec![kind];
        frame.extend(channel.to_be_bytes());
        long(&mut frame, payload);
        frame.push(END);
        self.stream.write_all(&frame).await.expect("sent");
    }

    /// The next method, which is one of these.
    async fn expect(&mut self, which: &[[u16; 2]]) -> ([u16; 2], Vec<u8>) {
        let (kind, payload) = self.read().await;
        assert_eq!(kind, METHOD, "{payload:?}");
        let number = |at: usize| u16::from_be_bytes([payload[at], payload[at + 1]]);
        let method = [number(0), number(2)];
        let text = String::from_utf8_lossy(&payload);
        assert!(which.contains(&method), "{method:?} {text}");
        (method, payload)
    }

    /// Kind and payload of the next frame.
    async fn read(&mut self) -> (u8, Vec<u8>) {
        loop {
            let mut head = [0; 7];
            self.stream.read_exact(&mut head).await.expect("a frame");
            let size = u32::from_be_bytes(head[3..7].try_into().expect("4 bytes"));
            let mut payload = vec![0; size as usize + 1];
            let read = self.stream.read_exact(&mut payload).await;
            read.expect("its payload");
            assert_eq!(payload.pop(), Some(END));
            if head[0] != HEARTBEAT {
                return (head[0], payload);
            }
        }
    }
}

fn short(to: &mut Vec<u8>, text: &[u8]) {
    to.push(u8::try_from(text.len()).expect("at most 255 bytes"));
    to.extend(text);
}

fn long(to: &mut Vec<u8>, bytes: &[u8]) {
    let size = u32::try_from(bytes.len()).expect("at most 4 GiB");
    to.extend(size.to_be_bytes());
    to.extend(bytes);
}
