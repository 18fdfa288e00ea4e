//! Bringing the sources together, and saying exactly what is wrong with them.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use config::{Config, Environment, File, FileFormat};
use secrecy::{ExposeSecret, SecretString};
use thiserror::Error;

use super::{Broker, Database, Settings};

/// Every variable that starts like this is a setting. Kubernetes adds variables of its own for a
/// Service called `token-billing` (`TOKEN_BILLING_PORT`, …): these have one underscore only.
const PREFIX: &str = "TOKEN_BILLING__";

/// `RabbitMQ` closes a channel that leaves a delivery unacked for longer.
const CONSUMER_TIMEOUT: Duration = Duration::from_mins(30);

/// Why the settings were refused. No message repeats a secret.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// One setting is missing, unknown, malformed, out of range or at odds with another.
    #[error("{key}: {problem} ({place})")]
    Setting {
        /// The setting's full name: `worker.batch_max`.
        key: String,
        /// What is wrong with it.
        problem: String,
        /// The environment variable or the file to look at.
        place: String,
    },
    /// The file can't be read, or is not TOML.
    #[error("{path}: {problem}")]
    File {
        /// The file as it was given.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
}

impl Settings {
    /// The settings from `file`, if there is one, and this process's environment.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] names the first thing that is wrong, and where.
    pub fn load(file: Option<&Path>) -> Result<Self, ConfigError> {
        let ours = |name: &OsString| name.to_string_lossy().starts_with(PREFIX);
        let mut env = HashMap::new();
        for (name, value) in std::env::vars_os().filter(|(name, _)| ours(name)) {
            let name = name.to_string_lossy().into_owned();
            let Ok(value) = value.into_string() else {
                return Err(ConfigError::Setting {
                    key: key_of(&name),
                    problem: "the value is not UTF-8".to_owned(),
                    place: format!("set by {name}"),
                });
            };
            env.insert(name, value);
        }
        Self::load_from(file, env)
    }

    /// As [`load`](Self::load), with `env` in place of this process's environment.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] names the first thing that is wrong, and where.
    pub fn load_from(
        file: Option<&Path>,
        mut env: HashMap<String, String>,
    ) -> Result<Self, ConfigError> {
        env.retain(|name, _| name.starts_with(PREFIX));
        let sources = Sources { file, env };
        sources.check_names()?;
        let mut builder = Config::builder();
        if let Some(path) = file {
            let text = std::fs::read_to_string(path).map_err(|error| ConfigError::File {
                path: path.display().to_string(),
                problem: format!("can't be read: {error}"),
            })?;
            builder = builder.add_source(File::from_str(&text, FileFormat::Toml));
        }
        let settings: Self = builder
            .add_source(sources.environment())
            .build()
            .and_then(Config::try_deserialize)
            .map_err(|error| sources.explain(error, String::new()))?;
        match settings.contradiction() {
            None => Ok(settings),
            Some((key, problem)) => Err(sources.wrong(key, problem)),
        }
    }

    /// The settings of the database, for whoever is about to use it. The URLs are not demanded by
    /// [`load`](Self::load), because no command but `serve` needs both.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] if `database.url` is missing.
    pub fn require_database(&self) -> Result<&Database, ConfigError> {
        present("database.url", &self.database.url)?;
        Ok(&self.database)
    }

    /// The settings of the broker, for whoever is about to use it.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] if `broker.url` is missing.
    pub fn require_broker(&self) -> Result<&Broker, ConfigError> {
        present("broker.url", &self.broker.url)?;
        Ok(&self.broker)
    }

    /// The first setting that is at odds with another, and why.
    fn contradiction(&self) -> Option<(&'static str, String)> {
        let Self {
            database,
            broker,
            worker,
            archivist,
            retry,
            reconnect,
            ..
        } = self;
        let text = |duration| humantime::format_duration(duration).to_string();
        if database.lock_timeout >= database.statement_timeout {
            let (lock, statement) = (
                text(database.lock_timeout),
                text(database.statement_timeout),
            );
            let problem = format!(
                "{lock} is not below database.statement_timeout, {statement}: it would never fire"
            );
            return Some(("database.lock_timeout", problem));
        }
        if broker.heartbeat.subsec_nanos() != 0 {
            let problem = format!("{} is not in whole seconds", text(broker.heartbeat));
            return Some(("broker.heartbeat", problem));
        }
        if worker.prefetch < worker.batch_max {
            let problem = format!(
                "{} is below worker.batch_max, {}: no batch could fill",
                worker.prefetch, worker.batch_max
            );
            return Some(("worker.prefetch", problem));
        }
        if archivist.prefetch < archivist.batch_max {
            let problem = format!(
                "{} is below archivist.batch_max, {}: no batch could fill",
                archivist.prefetch, archivist.batch_max
            );
            return Some(("archivist.prefetch", problem));
        }
        // What was prefetched behind a batch that was held may be held for as long again.
        if worker.hold_max >= CONSUMER_TIMEOUT / 2 {
            let problem = format!(
                "{} is not below half of the broker's consumer timeout of {}",
                text(worker.hold_max),
                text(CONSUMER_TIMEOUT)
            );
            return Some(("worker.hold_max", problem));
        }
        if retry.max_delay < retry.base {
            let (max, base) = (text(retry.max_delay), text(retry.base));
            let problem = format!("{max} is below retry.base, {base}");
            return Some(("retry.max_delay", problem));
        }
        if reconnect.max < reconnect.initial {
            let (max, initial) = (text(reconnect.max), text(reconnect.initial));
            let problem = format!("{max} is below reconnect.initial, {initial}");
            return Some(("reconnect.max", problem));
        }
        None
    }
}

fn present(key: &str, secret: &SecretString) -> Result<(), ConfigError> {
    if !secret.expose_secret().is_empty() {
        return Ok(());
    }
    Err(ConfigError::Setting {
        key: key.to_owned(),
        problem: "missing".to_owned(),
        place: format!(
            "set {}, or {key} in a file given with --config",
            variable_of(key)
        ),
    })
}

/// `TOKEN_BILLING__WORKER__BATCH_MAX` → `worker.batch_max`.
fn key_of(variable: &str) -> String {
    let key = variable.strip_prefix(PREFIX).unwrap_or(variable);
    key.to_lowercase().replace("__", ".")
}

/// `worker.batch_max` → `TOKEN_BILLING__WORKER__BATCH_MAX`.
fn variable_of(key: &str) -> String {
    format!("{PREFIX}{}", key.to_uppercase().replace('.', "__"))
}

/// Where the values came from: enough to send a person to the right place.
struct Sources<'a> {
    file: Option<&'a Path>,
    env: HashMap<String, String>,
}

impl Sources<'_> {
    fn environment(&self) -> Environment {
        Environment::with_prefix("TOKEN_BILLING")
            .prefix_separator("__")
            .separator("__")
            .source(Some(self.env.clone()))
    }

    /// A setting is `SECTION__KEY`, in capitals. Left to themselves, a section alone would replace
    /// the file's whole section, and two spellings of one name would win in turns.
    fn check_names(&self) -> Result<(), ConfigError> {
        for name in self.env.keys() {
            let key = key_of(name);
            let parts: Vec<&str> = key.split('.').collect();
            let whole =
                matches!(parts[..], [section, key] if !section.is_empty() && !key.is_empty());
            if !whole || variable_of(&key) != *name {
                let problem = format!("not a setting: variables are named {PREFIX}SECTION__KEY");
                return Err(self.wrong(&key, problem));
            }
        }
        Ok(())
    }

    fn wrong(&self, key: &str, problem: String) -> ConfigError {
        // `key` can be a section that there is not; a variable names more than that.
        let set_by = |name: &&String| {
            let rest = key_of(name).strip_prefix(key).map(str::to_owned);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        let place = match (self.env.keys().filter(set_by).min(), self.file) {
            (Some(variable), _) => format!("set by {variable}"),
            (None, Some(file)) => {
                format!("look in {}, or set {}", file.display(), variable_of(key))
            }
            (None, None) => format!("set {}, or give a file with --config", variable_of(key)),
        };
        ConfigError::Setting {
            key: key.to_owned(),
            problem,
            place,
        }
    }

    /// Turns the loader's error into ours. The loader's text may repeat a value, and a value may be
    /// a password put in the wrong place: only parts known to be harmless are kept.
    fn explain(&self, error: config::ConfigError, key: String) -> ConfigError {
        match error {
            config::ConfigError::At {
                error, key: inner, ..
            } => self.explain(*error, inner.unwrap_or(key)),
            config::ConfigError::Type {
                expected,
                key: inner,
                ..
            } => self.wrong(&inner.unwrap_or(key), format!("expected {expected}")),
            config::ConfigError::FileParse { cause, .. } => ConfigError::File {
                path: self
                    .file
                    .map_or_else(String::new, |file| file.display().to_string()),
                problem: without_source_line(&cause.to_string()),
            },
            config::ConfigError::Message(text) => {
                if let Some((name, others)) = unknown_field(&text) {
                    let dot = if key.is_empty() { "" } else { "." };
                    let problem = format!("no such setting; there are {others}");
                    self.wrong(&format!("{key}{dot}{name}"), problem)
                } else if text.starts_with("invalid type: ") {
                    let expected = text.rsplit("expected ").next().unwrap_or_default();
                    self.wrong(&key, format!("expected {expected}"))
                } else {
                    self.wrong(&key, text)
                }
            }
            _ => self.wrong(&key, "not a valid setting".to_owned()),
        }
    }
}

/// Takes serde's message for an unknown field apart: the field, and the list of known ones.
fn unknown_field(text: &str) -> Option<(&str, String)> {
    let (name, rest) = text
        .strip_prefix("unknown field `")?
        .rsplit_once("`, expected ")?;
    let known = rest.trim_start_matches("one of ").replace('`', "");
    Some((name, known))
}

/// A TOML error quotes the line it is about between its position and its message; that line may be
/// the one with the password.
fn without_source_line(text: &str) -> String {
    let mut lines = text.lines();
    let position = lines.next().unwrap_or_default();
    if !position.starts_with("TOML parse error at ") {
        return "not valid TOML".to_owned();
    }
    let message: Vec<&str> = lines.skip(3).collect();
    format!("{position}: {}", message.join(", "))
}
