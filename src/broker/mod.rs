//! The queues in `RabbitMQ`. The only module that names lapin.
//!
//! Every hop of a message is: publish (persistent, mandatory, confirmed), and only then ack. If the
//! process dies between the two, the message is there twice, and the idempotency key makes the second
//! harmless; at no point is it there not at all.

mod comparison;
mod connection;
mod consumer;
mod copier;
mod dead_letter;
mod error;
mod greeting;
mod headers;
mod message;
mod outgoing;
mod probe;
mod publisher;
mod single_file;
mod topology;

pub use comparison::{Compared, PartFound};
pub use connection::Connection;
pub use consumer::{Ack, Consumer};
pub use copier::Copier;
pub use error::BrokerError;
pub use greeting::greeting;
pub use message::Delivered;
pub use outgoing::Outgoing;
pub use probe::{KEPT, KEPT_FOR, PROBE_DELAY, ProbeError, Probed, probe};
pub use publisher::{PublishError, Publisher};
pub use single_file::{SingleFile, Unreadable};
pub use topology::Topology;
