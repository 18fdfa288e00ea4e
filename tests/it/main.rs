//! The integration tests: real servers, one file a theme.
//!
//! Every test has a database ([`support::db::TestDb`]) and a queue prefix
//! ([`support::broker::TestBroker`]) of its own, so they all run at once. What breaks a server on
//! purpose starts its own pair ([`support::servers::PrivateServers`]) or puts a
//! [`support::proxy::ChaosProxy`] in between.

mod support;

mod absurd_times;
mod alarms;
mod append_only;
mod archive;
mod archiving;
mod archivist_crashes;
mod archivist_outages;
mod audit;
mod batches;
mod books_model;
mod charging;
mod command_line;
mod completion;
mod concurrency;
mod crashes;
mod credits;
mod delivery_limit;
mod dlq_acts;
mod dlq_edit;
mod dlq_editor;
mod dlq_filters;
mod dlq_history;
mod dlq_hostile;
mod dlq_list;
mod dlq_many;
mod dlq_show;
mod dlq_stats;
mod dlq_watch;
mod doctor;
mod doctor_application;
mod doctor_broker;
mod doctor_durability;
mod doctor_probe;
mod doctor_rights;
mod documents;
mod environment;
mod foreign_databases;
mod full_speed;
mod fuzz;
mod house;
mod in_clear;
mod job_life;
mod job_past;
mod job_status;
mod keys;
mod least_privilege;
mod legal_states;
mod local_servers;
mod migrating;
mod misrouted;
mod not_ready;
mod outages;
mod outcomes;
mod pending;
mod policies;
mod publishing;
mod reconcile;
mod refund;
mod refund_races;
mod refund_typed;
mod replay;
mod replay_crashes;
mod replay_parked;
mod replay_plan;
mod replay_stops;
mod rights;
mod rollback;
mod session_defaults;
mod settings;
mod spending;
mod status;
mod strangers;
mod sweeper;
mod torture;
mod unpublished;
mod unreadable;
mod upgrading;
mod watching;
mod whose_fault;
