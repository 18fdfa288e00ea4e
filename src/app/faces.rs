//! What a process answers by HTTP: its calls, in the role `http`, and how it is, in any.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use tokio::net::{TcpListener, TcpSocket};
use tokio_util::sync::CancellationToken;

use crate::{
    api::{self, Api, Bounds, Vitals, pages},
    config::Settings,
    operations::Operations,
    storage::{Storage, Waited},
    telemetry::metrics::Metrics,
};

/// Connections that may wait to be accepted. Past the default, 128, callers believe that they are connected and are not.
const WAITING: u32 = 4096;
/// Probes and one Prometheus; more than that waits.
const OPS_CONNECTIONS: u32 = 64;

/// Answers until `stop`, and then finishes what it is answering.
///
/// # Errors
///
/// It can't listen there, or must not.
pub(super) async fn run(
    settings: Settings,
    storage: Arc<Storage>,
    metrics: Arc<Metrics>,
    has_http: bool,
    vitals: Vitals,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let calls = async {
        match has_http {
            true => answer_calls(&settings, &storage, &metrics, vitals.clone(), &stop).await,
            false => Ok(()),
        }
    };
    tokio::try_join!(tell(&settings, vitals.clone(), &stop), calls)?;
    stop.cancelled().await;
    vitals.scrape.close().await;
    Ok(())
}

/// How the process is, on `ops.listen`.
async fn tell(settings: &Settings, vitals: Vitals, stop: &CancellationToken) -> anyhow::Result<()> {
    let Some(address) = settings.ops.listen else {
        return Ok(());
    };
    let listener = listen("ops", address)?;
    let router = api::ops_router(vitals, settings.http.request_timeout);
    let bounds = Bounds {
        connections: OPS_CONNECTIONS,
        ..bounds(settings)
    };
    api::serve(listener, router, bounds, stop.clone()).await;
    Ok(())
}

/// The calls, on `http.listen`.
async fn answer_calls(
    settings: &Settings,
    storage: &Arc<Storage>,
    metrics: &Arc<Metrics>,
    vitals: Vitals,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let address = settings.http.address();
    let operations =
        Arc::new(Operations::sharing(settings, storage.clone()).counted(metrics.clone()));
    if !address.ip().is_loopback() {
        // Whoever starts before his database does not know yet.
        if storage.wait_until_available(stop).await == Waited::Cancelled {
            return Ok(());
        }
        if !operations.has_api_key().await? {
            bail!(
                "http.listen: {address} is beyond this machine, and there is no API key that could be asked for: add one \
                 (token-billing keys add NAME --scope read), or listen on 127.0.0.1"
            );
        }
    }
    let listener = listen("http", address)?;
    let vitals = (settings.ops.listen.is_none() && address.ip().is_loopback()).then_some(vitals);
    let api = Api::new(settings, operations, stop.clone())?;
    let router = api::router(&api, pages::router(&settings.upgrade), vitals, metrics);
    api::serve(listener, router, bounds(settings), stop.clone()).await;
    api.close().await;
    Ok(())
}

fn listen(section: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    let listener = bound(address).with_context(|| format!("{section}.listen: {address}"))?;
    // Of port 0 the system chooses one.
    let address = listener.local_addr()?;
    tracing::info!("{section} listens on http://{address}");
    Ok(listener)
}

fn bound(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // A process that takes another's place finds its port free at once.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(WAITING)
}

fn bounds(settings: &Settings) -> Bounds {
    // So that whoever doesn't end is cut off before the process as a whole counts as not drained.
    let grace = settings.worker.drain_timeout / 10;
    Bounds {
        connections: settings.http.max_connections,
        header_timeout: settings.http.header_timeout,
        write_timeout: settings.http.header_timeout,
        drain_timeout: settings.worker.drain_timeout - grace.min(Duration::from_secs(2)),
    }
}
