//! URLs whose passwords and data may go over a network unencrypted.

use std::{fmt, net::IpAddr};

use secrecy::{ExposeSecret as _, SecretString};
use url::Url;

use super::Settings;

/// A setting that may send its password in clear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exposed {
    /// `database.url`.
    pub setting: &'static str,
    host: String,
    /// How it is forbidden.
    forbid: &'static str,
}

impl Exposed {
    /// What may happen.
    pub fn finding(&self) -> String {
        let host = &self.host;
        format!("may send its password and all data to {host} unencrypted")
    }

    /// What forbids it.
    pub fn fix(&self) -> String {
        format!("to forbid it, use {}", self.forbid)
    }
}

impl fmt::Display for Exposed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}; {}", self.setting, self.finding(), self.fix())
    }
}

impl Settings {
    /// The URLs that lead to another machine without demanding encryption.
    pub fn exposed(&self) -> Vec<Exposed> {
        // What the driver takes where the URL says nothing.
        let default_mode = std::env::var("PGSSLMODE").ok();
        let database = exposed_host(&self.database.url, |url| {
            database_host(url, default_mode.as_deref())
        });
        let broker = exposed_host(&self.broker.url, broker_host);
        let exposed = |setting, host: Option<String>, forbid| {
            host.map(|host| Exposed {
                setting,
                host,
                forbid,
            })
        };
        [
            exposed("database.url", database, "?sslmode=verify-full in it"),
            exposed("broker.url", broker, "amqps:// in it"),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

fn exposed_host(url: &SecretString, host: impl Fn(&Url) -> Option<String>) -> Option<String> {
    let url = Url::parse(url.expose_secret()).ok()?;
    host(&url).filter(|host| !is_this_machine(host))
}

/// The host that the driver connects to, unless encryption is demanded. The modes below `require` go without
/// it where the server, or whoever answers in its place, says that it has none.
fn database_host(url: &Url, default_mode: Option<&str>) -> Option<String> {
    let parameter = |names: &[&str]| {
        let pairs = url
            .query_pairs()
            .filter(|(name, _)| names.contains(&&**name));
        pairs.last().map(|(_, value)| value.into_owned())
    };
    let mode = parameter(&["sslmode", "ssl-mode"]);
    let mode = mode.as_deref().or(default_mode).unwrap_or("prefer");
    let is_demanded = ["require", "verify-ca", "verify-full"]
        .iter()
        .any(|demanding| mode.eq_ignore_ascii_case(demanding));
    let host = parameter(&["hostaddr"]).or_else(|| parameter(&["host"]));
    let host = host.or_else(|| url.host_str().map(str::to_owned));
    host.filter(|_| !is_demanded)
}

fn broker_host(url: &Url) -> Option<String> {
    (url.scheme() == "amqp").then(|| url.host_str().map(str::to_owned))?
}

/// A Unix socket, or an address that leads back here. A name is not looked up, except the one that everybody
/// knows.
fn is_this_machine(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let socket =
        host.is_empty() || host.starts_with('/') || host.to_ascii_lowercase().starts_with("%2f");
    socket
        || host.eq_ignore_ascii_case("localhost")
        || host
            .parse::<IpAddr>()
            .is_ok_and(|address| address.to_canonical().is_loopback() || address.is_unspecified())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database(url: &str, default_mode: Option<&str>) -> Option<String> {
        exposed_host(&url.into(), |url| database_host(url, default_mode))
    }

    #[test]
    fn a_database_elsewhere_without_demanded_encryption_is_exposed() {
        for url in [
            "postgres://u:p@db.example.com/billing",
            "postgres://u:p@10.0.0.5:5433/billing?sslmode=prefer",
            "postgresql://u:p@[2001:db8::1]/billing?sslmode=disable",
            "postgres://u:p@localhost/billing?host=db.example.com",
            "postgres://u:p@localhost/billing?hostaddr=10.0.0.5&sslmode=ALLOW",
        ] {
            assert!(database(url, None).is_some(), "{url}");
            let with_default = database(url, Some("verify-full")).is_some();
            assert_eq!(with_default, url.contains("sslmode"), "{url}");
        }
    }

    #[test]
    fn a_database_on_this_machine_or_with_demanded_encryption_is_not() {
        for url in [
            "postgres://u:p@localhost/billing",
            "postgres://u:p@127.0.0.1:5432/billing?sslmode=disable",
            "postgres://u:p@127.1.2.3/billing",
            "postgres://u:p@[::1]/billing",
            "postgres:///billing?host=/run/postgresql",
            "postgres://u@%2Frun%2Fpostgresql/billing",
            "postgres://u:p@db.example.com/billing?sslmode=require",
            "postgres://u:p@db.example.com/billing?sslmode=verify-full",
            "postgres://u:p@db.example.com/billing?ssl-mode=Verify-CA",
        ] {
            assert_eq!(database(url, None), None, "{url}");
        }
        let here = database("postgres://u:p@db.example.com/b?host=/run/postgresql", None);
        assert_eq!(here, None);
    }

    #[test]
    fn a_broker_elsewhere_without_tls_is_exposed() {
        let broker = |url: &str| exposed_host(&url.into(), broker_host);
        assert_eq!(
            broker("amqp://u:p@mq.example.com/%2f").as_deref(),
            Some("mq.example.com")
        );
        for url in [
            "amqps://u:p@mq.example.com/%2f",
            "amqp://u:p@127.0.0.1:5672/%2f",
            "amqp://u:p@localhost",
            "amqp://u:p@[::1]",
        ] {
            assert_eq!(broker(url), None, "{url}");
        }
    }

    #[test]
    fn no_password_is_said() {
        let exposed = Exposed {
            setting: "database.url",
            host: "db.example.com".to_owned(),
            forbid: "?sslmode=verify-full in it",
        };
        assert_eq!(
            exposed.to_string(),
            "database.url may send its password and all data to db.example.com unencrypted; to forbid it, use \
             ?sslmode=verify-full in it"
        );
    }
}
