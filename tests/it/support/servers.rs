//! PostgreSQL and RabbitMQ: a pair that all tests share, and private ones to break.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use super::is_alive;

const DATABASE_URL: &str = "TOKEN_BILLING__DATABASE__URL";
const BROKER_URL: &str = "TOKEN_BILLING__BROKER__URL";

/// Where the two servers are.
#[derive(Debug, Clone)]
pub(crate) struct Servers {
    /// Of a role that may create databases.
    pub(crate) database_url: String,
    /// Of a user that may configure, write and read everything in its virtual host.
    pub(crate) broker_url: String,
}

impl Servers {
    /// The pair that this process's tests share: the one that the environment names, else the
    /// checkout's own, started if need be and left running for the next time.
    pub(crate) fn shared() -> &'static Self {
        static SHARED: OnceLock<Servers> = OnceLock::new();
        SHARED.get_or_init(
            || match (std::env::var(DATABASE_URL), std::env::var(BROKER_URL)) {
                (Ok(database_url), Ok(broker_url)) => Self {
                    database_url,
                    broker_url,
                },
                _ => Local { dir: None }.up(),
            },
        )
    }
}

/// A pair of one test's own, which it may stop, kill and restart. Both are stopped and their data
/// deleted on drop.
#[derive(Debug)]
pub(crate) struct PrivateServers {
    servers: Servers,
    local: Local,
}

impl PrivateServers {
    /// Starts both, which takes some 10 s. `name` is unique within the tests, and short.
    pub(crate) async fn start(name: &str) -> Self {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join(".local/test")
            .join(format!("{name}-{}", std::process::id()));
        on_a_thread(move || {
            for stale in abandoned_siblings(&dir) {
                Local { dir: Some(stale) }.run(&["down", "--purge"]);
            }
            let local = Local { dir: Some(dir) };
            let servers = local.up();
            Self { servers, local }
        })
        .await
    }

    /// Where they are. Stays true over restarts.
    pub(crate) fn servers(&self) -> &Servers {
        &self.servers
    }

    /// Like a crash, and back up: recovers from its log, every connection is lost.
    pub(crate) async fn restart_postgres(&self) {
        self.run(&["restart-postgres"]).await;
    }

    /// `kill -9`.
    pub(crate) async fn kill_rabbitmq(&self) {
        self.run(&["kill-rabbitmq"]).await;
    }

    /// Returns when it takes connections again.
    pub(crate) async fn start_rabbitmq(&self) {
        self.run(&["start-rabbitmq"]).await;
    }

    /// Runs `rabbitmqctl` on the private broker (alarms, policies, closing connections, …) and
    /// returns what it printed.
    pub(crate) async fn rabbitmqctl(&self, args: &[&str]) -> String {
        self.run(&[&["rabbitmqctl"], args].concat()).await
    }

    /// To be called between the declaration of queues and [`Self::kill_rabbitmq`]. RabbitMQ writes
    /// the names of new quorum queues some 3 s late: one that is killed before that comes back with
    /// queues that never find a leader again (seen on 3.10; rabbitmq-server issue 15725).
    pub(crate) async fn write_down_queues(&self) {
        self.rabbitmqctl(&["eval", "[ok = dets:sync(Table) || Table <- dets:all()]."])
            .await;
    }

    async fn run(&self, args: &[&str]) -> String {
        let local = self.local.clone();
        let args: Vec<String> = args.iter().map(ToString::to_string).collect();
        on_a_thread(move || local.run(&args)).await
    }
}

impl Drop for PrivateServers {
    fn drop(&mut self) {
        // Not `run`: its panic during another one would abort all the tests.
        if let Err(error) = self.local.output(&["down", "--purge"]) {
            eprintln!("{} may still run: {error}", self.local.name());
        }
    }
}

/// `deploy/local.sh` for one directory of servers.
#[derive(Debug, Clone)]
struct Local {
    /// The checkout's own when `None`.
    dir: Option<PathBuf>,
}

impl Local {
    fn up(&self) -> Servers {
        self.run(&["up"]);
        let exports = self.run(&["env"]);
        let value = |name: &str| {
            let prefix = format!("export {name}=");
            exports
                .lines()
                .find_map(|line| line.strip_prefix(&prefix))
                .unwrap_or_else(|| panic!("no {name} in {exports}"))
                .to_owned()
        };
        Servers {
            database_url: value(DATABASE_URL),
            broker_url: value(BROKER_URL),
        }
    }

    fn run(&self, args: &[impl AsRef<str>]) -> String {
        let output = self.output(args).expect("deploy/local.sh can be run");
        let arguments: Vec<&str> = args.iter().map(AsRef::as_ref).collect();
        assert!(
            output.status.success(),
            "{} {}: {}",
            self.name(),
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).expect("local.sh prints UTF-8")
    }

    fn output(&self, args: &[impl AsRef<str>]) -> std::io::Result<Output> {
        let mut command =
            Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/local.sh"));
        if let Some(dir) = &self.dir {
            command.env("TOKEN_BILLING_LOCAL_DIR", dir);
        }
        command.args(args.iter().map(AsRef::as_ref)).output()
    }

    fn name(&self) -> String {
        match &self.dir {
            Some(dir) => format!("local.sh for {}", dir.display()),
            None => "local.sh".to_owned(),
        }
    }
}

async fn on_a_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(failed) => std::panic::resume_unwind(failed.into_panic()),
    }
}

/// Directories like `dir` whose process no longer runs.
fn abandoned_siblings(dir: &Path) -> Vec<PathBuf> {
    let Some(Ok(entries)) = dir.parent().map(std::fs::read_dir) else {
        return Vec::new();
    };
    let is_abandoned = |path: &PathBuf| {
        path.to_str()
            .and_then(|path| path.rsplit_once('-'))
            .is_some_and(|(_, pid)| !is_alive(pid))
    };
    entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(is_abandoned)
        .collect()
}

mod tests {
    use super::super::broker::TestBroker;
    use super::super::db::TestDb;
    use super::*;

    #[tokio::test]
    async fn private_servers_keep_their_data_over_a_crash() {
        if std::env::var_os("TOKEN_BILLING_TEST_LONG").is_none() {
            return;
        }
        let private = PrivateServers::start("crash").await;
        let db = TestDb::create(private.servers(), async |_| ()).await;
        let mut broker = TestBroker::create(private.servers(), &[]).await;
        sqlx::raw_sql("CREATE TABLE kept AS SELECT 7 AS number")
            .execute(db.pool())
            .await
            .expect("the table is made");
        let queue = broker.declare_queue("kept", None).await;
        broker.publish_to_queue(&queue, b"kept").await;
        private.write_down_queues().await;

        private.restart_postgres().await;
        private.kill_rabbitmq().await;
        private.start_rabbitmq().await;

        let number: i32 = sqlx::query_scalar("SELECT number FROM kept")
            .fetch_one(db.pool())
            .await
            .expect("the table is still there");
        assert_eq!(number, 7);
        broker.reconnect().await;
        assert_eq!(broker.take(&queue).await.expect("a message").body, b"kept");
    }
}
