//! Connections: so many at once, each with a time for its headers, drained at the end.

use std::{sync::Arc, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use tokio::{
    net::TcpListener,
    sync::Semaphore,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;

/// Bytes of a request's line and headers.
const HEADER_BYTES: usize = 32 * 1024;
/// After an error of `accept` that isn't one connection's own: no file handle is left, say.
const PAUSE: Duration = Duration::from_millis(100);

/// What one listener bears.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Connections at once. Who comes later waits in the system's queue, and costs this process nothing.
    pub(crate) connections: u32,
    /// For the headers of one request, and for lying idle.
    pub(crate) header_timeout: Duration,
    /// For a caller to take more of an answer: whoever reads nothing for so long is cut off.
    pub(crate) write_timeout: Duration,
    /// For the requests that are being answered when it is told to stop.
    pub(crate) drain_timeout: Duration,
}

/// Answers until `stop`; then what is being answered is finished, and idle connections are closed.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    bounds: Bounds,
    stop: CancellationToken,
) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(bounds.header_timeout)
        .max_buf_size(HEADER_BYTES);
    let graceful = GracefulShutdown::new();
    let room = Arc::new(Semaphore::new(bounds.connections as usize));
    let mut connections = JoinSet::new();
    loop {
        let next = async {
            let place = room.clone().acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            () = stop.cancelled() => break,
            next = next => next,
        };
        // Those that have ended.
        while connections.try_join_next().is_some() {}
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(error.message = %error, "a connection was not accepted");
                sleep(PAUSE).await;
                continue;
            }
        };
        // An answer is one small write.
        let _ = stream.set_nodelay(true);
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(bounds.write_timeout));
        let service = TowerToHyperService::new(router.clone());
        let stream = TokioIo::new(Box::pin(stream));
        let connection = graceful.watch(http.serve_connection(stream, service));
        connections.spawn(async move {
            let _place = place;
            if let Err(error) = connection.await {
                tracing::debug!(error.message = %error, "a connection ended");
            }
        });
    }
    drop(listener);
    if timeout(bounds.drain_timeout, graceful.shutdown())
        .await
        .is_err()
    {
        tracing::warn!("requests were cut off: not answered within worker.drain_timeout");
    }
}
