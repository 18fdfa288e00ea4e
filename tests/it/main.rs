//! The integration tests: real servers, one file a theme.
//!
//! Every test has a database ([`support::db::TestDb`]) and a queue prefix
//! ([`support::broker::TestBroker`]) of its own, so they all run at once. What breaks a server on
//! purpose starts its own pair ([`support::servers::PrivateServers`]) or puts a
//! [`support::proxy::ChaosProxy`] in between.

mod support;

mod archive;
mod archiving;
mod archivist_crashes;
mod archivist_outages;
mod batches;
mod books_model;
mod charging;
mod command_line;
mod concurrency;
mod crashes;
mod credits;
mod full_speed;
mod house;
mod job_status;
mod legal_states;
mod misrouted;
mod outages;
mod outcomes;
mod pending;
mod publishing;
mod rights;
mod rollback;
mod settings;
mod spending;
mod unpublished;
mod watching;
