//! Bringing the sources together, and saying exactly what is wrong with them.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use config::{Config, Environment, File, FileFormat, ValueKind};
use secrecy::{ExposeSecret, SecretString};
use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{self, Deserializer, IntoDeserializer, Visitor};
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
        let of_file = |problem: String| ConfigError::File {
            path: file.unwrap_or(Path::new("")).display().to_string(),
            problem,
        };
        let text = match file.map(std::fs::read_to_string).transpose() {
            Ok(text) => text.unwrap_or_default(),
            Err(error) => return Err(of_file(format!("can't be read: {error}"))),
        };
        let merged = Config::builder()
            .add_source(File::from_str(&text, FileFormat::Toml))
            .add_source(sources.environment())
            .build()
            .map_err(|error| of_file(without_source_line(&text, &error)))?;
        let settings = sources.read(merged.cache)?;
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
        self.contradiction_in_calls()
    }

    /// The same among the settings of HTTP calls.
    fn contradiction_in_calls(&self) -> Option<(&'static str, String)> {
        let Self { http, holds, .. } = self;
        let text = |duration| humantime::format_duration(duration).to_string();
        if http.body_timeout > http.request_timeout {
            let (body, request) = (text(http.body_timeout), text(http.request_timeout));
            let problem = format!("{body} is above http.request_timeout, {request}");
            return Some(("http.body_timeout", problem));
        }
        if holds.expires_after > holds.max_expires_after {
            let (after, longest) = (text(holds.expires_after), text(holds.max_expires_after));
            let problem = format!("{after} is above holds.max_expires_after, {longest}");
            return Some(("holds.expires_after", problem));
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
            // What is in a list has no variable.
            (None, Some(file)) if key.contains('[') => format!("look in {}", file.display()),
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

    /// The settings out of what was merged.
    fn read(&self, merged: config::Value) -> Result<Settings, ConfigError> {
        serde_path_to_error::deserialize(Given(merged)).map_err(|error| {
            let path = error.path().to_string();
            let key = if path == "." { "" } else { &path };
            self.wrong(key, error.into_inner().0)
        })
    }
}

/// What is wrong with a file. A TOML error shows the line it is about, which may be the one with the
/// password: only place and message are kept.
fn without_source_line(text: &str, error: &config::ConfigError) -> String {
    let config::ConfigError::FileParse { cause, .. } = error else {
        return "not valid".to_owned();
    };
    let Some(error) = cause.downcast_ref::<toml::de::Error>() else {
        // From the loader's own reading of single values: of a number that is too long.
        return "a number is out of range".to_owned();
    };
    let start = error.span().map_or(0, |span| span.start);
    let before = &text[..text.floor_char_boundary(start)];
    let line = before.split('\n').count();
    let column = before
        .chars()
        .rev()
        .take_while(|char| *char != '\n')
        .count()
        + 1;
    let message = error.message();
    format!("TOML parse error at line {line}, column {column}: {message}")
}

/// A merged value, read with errors that are ours: the loader's are sentences which may repeat a value,
/// and a value may be a password put in the wrong place.
struct Given(config::Value);

impl<'de> Deserializer<'de> for Given {
    type Error = Refused;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        match self.0.kind {
            ValueKind::Boolean(value) => visitor.visit_bool(value),
            ValueKind::I64(value) => visitor.visit_i64(value),
            ValueKind::Float(value) => visitor.visit_f64(value),
            ValueKind::String(value) => visitor.visit_string(value),
            ValueKind::Array(items) => {
                visitor.visit_seq(SeqDeserializer::new(items.into_iter().map(Given)))
            }
            ValueKind::Table(table) => {
                let members = table.into_iter().map(|(key, value)| (key, Given(value)));
                visitor.visit_map(MapDeserializer::new(members))
            }
            // Neither TOML nor the environment has others.
            _ => visitor.visit_unit(),
        }
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

impl IntoDeserializer<'_, Refused> for Given {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

/// Why a key or a value was refused, without the value.
#[derive(Debug, Error)]
#[error("{0}")]
struct Refused(String);

impl de::Error for Refused {
    fn custom<T: fmt::Display>(problem: T) -> Self {
        Self(problem.to_string())
    }

    fn invalid_type(_: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self(format!("expected {expected}"))
    }

    fn unknown_field(_: &str, known: &'static [&'static str]) -> Self {
        Self(format!("no such setting; there are {}", known.join(", ")))
    }
}
