//! A TCP proxy that breaks connections on purpose, in the manner of crates.io's `chaosproxy`.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream, lookup_host};
use tokio::sync::{mpsc, oneshot, watch};

/// Stands between the product and a server. Every connection is reset when it is dropped.
#[derive(Debug)]
pub(crate) struct ChaosProxy {
    address: SocketAddr,
    upstream_url: String,
    shared: Arc<Shared>,
    cut: watch::Sender<()>,
    doors: mpsc::Sender<(Door, oneshot::Sender<()>)>,
}

/// Which side of the network's failure the server sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    /// The server never gets the bytes.
    BeforeTheServerHasIt,
    /// The server acts on the bytes, but its answer is lost: the client can't know.
    WhenTheServerAnswers,
}

#[derive(Debug)]
struct Shared {
    trap: Mutex<Option<Trap>>,
    trapped: AtomicUsize,
}

#[derive(Debug)]
struct Trap {
    pattern: Vec<u8>,
    moment: Moment,
    left: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Door {
    Open,
    Closed,
}

impl ChaosProxy {
    /// Listens on a free loopback port and forwards to the host of `url` (`scheme://…@host:port/…`).
    pub(crate) async fn start(url: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound address");
        let upstream = lookup_host(authority(url))
            .await
            .expect("the upstream has an address")
            .next()
            .expect("the upstream has an address");
        let shared = Arc::new(Shared {
            trap: Mutex::new(None),
            trapped: AtomicUsize::new(0),
        });
        let (cut, _) = watch::channel(());
        let (doors, orders) = mpsc::channel(1);
        // A receiver, not the sender: the connections end when the proxy is dropped.
        let broken = cut.subscribe();
        tokio::spawn(accept(
            listener,
            upstream,
            Arc::clone(&shared),
            broken,
            orders,
        ));
        Self {
            address,
            upstream_url: url.to_owned(),
            shared,
            cut,
            doors,
        }
    }

    /// The upstream's URL, with the proxy in place of the server.
    pub(crate) fn url(&self) -> String {
        self.upstream_url
            .replacen(authority(&self.upstream_url), &self.address.to_string(), 1)
    }

    /// Resets every open connection; new ones are taken as before.
    pub(crate) fn cut(&self) {
        self.cut.send_replace(());
    }

    /// Resets every open connection and takes no new ones until [`Self::restore`]: they are refused
    /// as by a server that is down.
    pub(crate) async fn refuse(&self) {
        self.set_door(Door::Closed).await;
        self.cut();
    }

    /// Takes connections again and disarms [`Self::cut_when_client_sends`].
    pub(crate) async fn restore(&self) {
        *self.trap() = None;
        self.set_door(Door::Open).await;
    }

    /// Resets a connection on which the client sends `pattern`, the next `times` times that one
    /// does.
    pub(crate) fn cut_when_client_sends(
        &self,
        pattern: impl Into<Vec<u8>>,
        moment: Moment,
        times: usize,
    ) {
        *self.trap() = Some(Trap {
            pattern: pattern.into(),
            moment,
            left: times,
        });
    }

    /// How often the pattern was met and the connection reset.
    pub(crate) fn cuts(&self) -> usize {
        self.shared.trapped.load(Ordering::SeqCst)
    }

    fn trap(&self) -> std::sync::MutexGuard<'_, Option<Trap>> {
        self.shared.trap.lock().expect("no panic while it is held")
    }

    async fn set_door(&self, door: Door) {
        let (done, is_done) = oneshot::channel();
        self.doors
            .send((door, done))
            .await
            .expect("the proxy runs while it is held");
        is_done.await.expect("the proxy runs while it is held");
    }
}

impl Shared {
    /// Springs the trap where what a client sent, with the end of what it sent before, contains the
    /// pattern. `recent` is left with as much as the next piece could complete.
    fn springs(&self, recent: &mut Vec<u8>, sent: &[u8]) -> Option<Moment> {
        let mut armed = self.trap.lock().expect("no panic while it is held");
        let Some(trap) = armed.as_mut().filter(|trap| trap.left > 0) else {
            recent.clear();
            return None;
        };
        recent.extend_from_slice(sent);
        let length = trap.pattern.len();
        if recent.windows(length).any(|window| window == trap.pattern) {
            trap.left -= 1;
            self.trapped.fetch_add(1, Ordering::SeqCst);
            return Some(trap.moment);
        }
        recent.drain(..recent.len().saturating_sub(length - 1));
        None
    }
}

async fn accept(
    listener: TcpListener,
    upstream: SocketAddr,
    shared: Arc<Shared>,
    broken: watch::Receiver<()>,
    mut orders: mpsc::Receiver<(Door, oneshot::Sender<()>)>,
) {
    let address = listener.local_addr().expect("a bound address");
    let mut listener = Some(listener);
    loop {
        let accepted = async {
            match &listener {
                Some(listener) => listener.accept().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            order = orders.recv() => {
                let Some((door, done)) = order else { return };
                if door == Door::Closed {
                    listener = None;
                } else if listener.is_none() {
                    listener = Some(TcpListener::bind(address).await.expect("its port again"));
                }
                let _ = done.send(());
            }
            Ok((client, _)) = accepted => {
                // Marked as seen before anything is forwarded: a cut from here on counts.
                let mut broken = broken.clone();
                broken.borrow_and_update();
                tokio::spawn(forward(client, upstream, Arc::clone(&shared), broken));
            }
        }
    }
}

/// One connection, both ways, until either side closes it or it is cut.
async fn forward(
    mut client: TcpStream,
    upstream: SocketAddr,
    shared: Arc<Shared>,
    mut broken: watch::Receiver<()>,
) {
    let Ok(mut server) = TcpStream::connect(upstream).await else {
        return;
    };
    let _ = client.set_nodelay(true);
    let _ = server.set_nodelay(true);
    let end = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let (spring, sprung) = watch::channel(false);
        tokio::select! {
            // Also when the proxy is dropped, which is an error here.
            _ = broken.changed() => End::Cut,
            end = client_to_server(from_client, to_server, &shared, &spring) => end,
            end = server_to_client(from_server, to_client, sprung) => end,
        }
    };
    if end == End::Cut {
        // A close without lingering is a reset.
        let _ = client.set_zero_linger();
        let _ = server.set_zero_linger();
    }
}

#[derive(Debug, PartialEq, Eq)]
enum End {
    Closed,
    Cut,
}

async fn client_to_server(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    shared: &Shared,
    spring: &watch::Sender<bool>,
) -> End {
    let mut buffer = vec![0; 64 * 1024];
    let mut recent = Vec::new();
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        let sent = &buffer[..length];
        match shared.springs(&mut recent, sent) {
            Some(Moment::BeforeTheServerHasIt) => return End::Cut,
            Some(Moment::WhenTheServerAnswers) => {
                spring.send_replace(true);
            }
            None => {}
        }
        if to.write_all(sent).await.is_err() {
            break;
        }
    }
    End::Closed
}

async fn server_to_client(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    sprung: watch::Receiver<bool>,
) -> End {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if *sprung.borrow() {
            return End::Cut;
        }
        if to.write_all(&buffer[..length]).await.is_err() {
            break;
        }
    }
    End::Closed
}

/// `host:port` of a URL.
fn authority(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?']).next().unwrap_or(rest);
    authority
        .rsplit_once('@')
        .map_or(authority, |(_, host)| host)
}

mod tests {
    use super::*;

    /// A server that answers every piece with the same, and says what it got.
    async fn echo() -> (String, mpsc::UnboundedReceiver<Vec<u8>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!(
            "echo://user:pa@{}/path",
            listener.local_addr().expect("bound")
        );
        let (heard, hears) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let heard = heard.clone();
                tokio::spawn(async move {
                    let mut buffer = [0; 1024];
                    while let Ok(length @ 1..) = stream.read(&mut buffer).await {
                        let _ = heard.send(buffer[..length].to_vec());
                        let _ = stream.write_all(&buffer[..length]).await;
                    }
                });
            }
        });
        (url, hears)
    }

    async fn ask(stream: &mut TcpStream, text: &str) -> std::io::Result<String> {
        stream.write_all(text.as_bytes()).await?;
        let mut buffer = [0; 1024];
        let length = stream.read(&mut buffer).await?;
        Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
    }

    async fn dial(proxy: &ChaosProxy) -> std::io::Result<TcpStream> {
        TcpStream::connect(proxy.address).await
    }

    #[tokio::test]
    async fn a_cut_resets_what_is_open_and_takes_what_comes() {
        let (url, _hears) = echo().await;
        let proxy = ChaosProxy::start(&url).await;
        let mut stream = dial(&proxy).await.expect("taken");
        assert_eq!(ask(&mut stream, "one").await.expect("answered"), "one");
        proxy.cut();
        stream.readable().await.expect("told of the reset");
        ask(&mut stream, "two").await.expect_err("reset");
        let mut stream = dial(&proxy).await.expect("taken");
        assert_eq!(ask(&mut stream, "three").await.expect("answered"), "three");
    }

    #[tokio::test]
    async fn a_refusing_proxy_is_like_a_server_that_is_down() {
        let (url, _hears) = echo().await;
        let proxy = ChaosProxy::start(&url).await;
        let mut stream = dial(&proxy).await.expect("taken");
        assert_eq!(ask(&mut stream, "one").await.expect("answered"), "one");
        proxy.refuse().await;
        let refused = dial(&proxy).await.expect_err("refused");
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        stream.readable().await.expect("told of the reset");
        ask(&mut stream, "two").await.expect_err("reset");
        proxy.restore().await;
        let mut stream = dial(&proxy).await.expect("taken");
        assert_eq!(ask(&mut stream, "three").await.expect("answered"), "three");
    }

    #[tokio::test]
    async fn a_pattern_in_two_pieces_is_met_as_often_as_asked() {
        let (url, mut hears) = echo().await;
        let proxy = ChaosProxy::start(&url).await;
        proxy.cut_when_client_sends("COMMIT", Moment::BeforeTheServerHasIt, 1);
        let mut stream = dial(&proxy).await.expect("taken");
        assert_eq!(ask(&mut stream, "COM").await.expect("answered"), "COM");
        ask(&mut stream, "MIT").await.expect_err("reset");
        assert_eq!(proxy.cuts(), 1);
        assert_eq!(hears.recv().await.expect("heard"), b"COM");

        let mut stream = dial(&proxy).await.expect("taken");
        let answer = ask(&mut stream, "COMMIT").await;
        assert_eq!(answer.expect("answered"), "COMMIT");
        assert_eq!(proxy.cuts(), 1);
    }

    #[tokio::test]
    async fn a_lost_answer_is_one_that_the_server_gave() {
        let (url, mut hears) = echo().await;
        let proxy = ChaosProxy::start(&url).await;
        proxy.cut_when_client_sends("COMMIT", Moment::WhenTheServerAnswers, 1);
        let mut stream = dial(&proxy).await.expect("taken");
        ask(&mut stream, "COMMIT").await.expect_err("reset");
        assert_eq!(hears.recv().await.expect("heard"), b"COMMIT");
        assert_eq!(proxy.cuts(), 1);
    }

    #[tokio::test]
    async fn the_proxy_takes_the_server_s_place_in_a_url() {
        let (url, _hears) = echo().await;
        let proxy = ChaosProxy::start(&url).await;
        let expected = format!("echo://user:pa@{}/path", proxy.address);
        assert_eq!(proxy.url(), expected);
    }
}
