//! A streaming standby of a private server.

use std::path::PathBuf;
use std::process::Command;

use sqlx::{Connection as _, PgConnection};

use super::site::Site;

/// Makes the copy with `pg_basebackup` and starts it, as the account that the server runs as.
const START: &str = r#"
    set -eu
    bin=$(ls -d /usr/lib/postgresql/*/bin | sort -V | tail -1)
    as() { if [ "$(id -u)" = 0 ]; then setpriv --reuid postgres --regid postgres --init-groups "$@"; else "$@"; fi; }
    mkdir -m 700 "$DIR"; if [ "$(id -u)" = 0 ]; then chown postgres "$DIR"; fi
    cd "$DIR"
    as "$bin/pg_basebackup" -R -c fast -X stream -D "$DIR/data" -d "$PRIMARY"
    as "$bin/pg_ctl" -D "$DIR/data" -l "$DIR/log" -s -w start \
        -o "-c port=$PORT -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c max_connections=200" \
        </dev/null >/dev/null 2>&1
"#;

/// Any other `pg_ctl` verb.
const CTL: &str = r#"
    bin=$(ls -d /usr/lib/postgresql/*/bin | sort -V | tail -1)
    cd "$DIR" || exit
    as() { if [ "$(id -u)" = 0 ]; then setpriv --reuid postgres --regid postgres --init-groups "$@"; else "$@"; fi; }
    as "$bin/pg_ctl" -D "$DIR/data" -s -w $VERB
"#;

/// Stopped and deleted on drop.
#[derive(Debug)]
pub(crate) struct Standby {
    url: String,
    dir: PathBuf,
}

impl Standby {
    /// Has all that the site's database has when this returns.
    pub(crate) async fn of(site: &Site) -> Self {
        let port = free_port();
        let mut url = url::Url::parse(site.db.url()).expect("a URL");
        let mut primary = url.clone();
        primary.set_path("/");
        url.set_port(Some(port)).expect("a host");
        let standby = Self {
            url: url.to_string(),
            dir: std::env::temp_dir().join(format!("token-billing-standby-{port}")),
        };
        let port = port.to_string();
        standby.shell(START, &[("PRIMARY", primary.as_str()), ("PORT", &port)]);
        let mut connection = standby.connect().await;
        let in_recovery: bool = sqlx::query_scalar("select pg_is_in_recovery()")
            .fetch_one(&mut connection)
            .await
            .expect("it answers");
        assert!(in_recovery);
        standby
    }

    /// Of the same database, there.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// It takes writes from now on.
    pub(crate) async fn promote(&self) {
        self.shell(CTL, &[("VERB", "promote")]);
    }

    /// Charges that it has.
    pub(crate) async fn charged(&self) -> i64 {
        let mut connection = self.connect().await;
        sqlx::query_scalar(
            "select count(*) from token_deduction_records where status = 'completed'",
        )
        .fetch_one(&mut connection)
        .await
        .expect("it answers")
    }

    async fn connect(&self) -> PgConnection {
        PgConnection::connect(&self.url).await.expect("it is there")
    }

    fn shell(&self, script: &str, variables: &[(&str, &str)]) {
        let ran = Command::new("bash")
            .args(["-c", script])
            .env("DIR", &self.dir)
            .envs(variables.iter().copied())
            .output()
            .expect("bash can be run");
        assert!(ran.status.success(), "{ran:#?}");
    }
}

impl Drop for Standby {
    fn drop(&mut self) {
        let stopped = Command::new("bash")
            .args(["-c", CTL])
            .env("DIR", &self.dir)
            .env("VERB", "-m immediate stop")
            .status();
        let deleted = std::fs::remove_dir_all(&self.dir);
        if stopped.is_err() || deleted.is_err() {
            eprintln!("{} may still be there", self.dir.display());
        }
    }
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("bound").port()
}
