//! The broker: there, with what would be declared, and moving messages.

use tokio_util::sync::CancellationToken;

use super::{Check, Interrupted, PATIENCE};
use crate::{
    broker::{
        self, BrokerError, Compared, Connection, KEPT, KEPT_FOR, PROBE_DELAY, PartFound,
        ProbeError, Topology, greeting,
    },
    config::{Settings, redacted_url},
    domain::RetrySchedule,
};

/// What depends on the broker.
pub(super) const CHECKS: [&str; 3] = ["broker", "topology", "probe"];

/// The oldest `RabbitMQ` that this is made for: at-least-once dead-lettering came with it.
const OLDEST: (u32, u32) = (3, 10);

/// The settings, with no wait longer than ours.
fn bounded(settings: &Settings) -> crate::config::Broker {
    let mut broker = settings.broker.clone();
    broker.connect_timeout = broker.connect_timeout.min(PATIENCE);
    broker
}

/// The checks, and whether the broker is there for more.
pub(super) async fn examine(settings: &Settings) -> (Vec<Check>, bool) {
    if settings.require_broker().is_err() {
        let why = "not checked: broker.url is missing";
        return (
            vec![
                Check::unchecked("broker", why),
                Check::unchecked("topology", why),
            ],
            false,
        );
    }
    let broker = bounded(settings);
    let connection = match Connection::open(&broker, "doctor").await {
        Ok(connection) => connection,
        Err(error) => {
            let finding = format!("{}: {error}", redacted_url(&broker.url));
            let why = "not checked: the broker is away";
            let failed = Check::failed("broker", finding, fix_connecting(&error));
            return (vec![failed, Check::unchecked("topology", why)], false);
        }
    };
    let mut checks = vec![check_version(greeting(&broker, PATIENCE).await)];
    let topology = Topology::new(&broker, &RetrySchedule::new(&settings.retry));
    let goes_on = match topology.compare(&connection).await {
        Ok(compared) => {
            checks.extend(compared.iter().map(|part| check_part(part, &topology)));
            true
        }
        Err(error) => {
            let fix = "the broker answered a moment ago: see its log; a quorum queue without a leader doesn't answer";
            checks.push(Check::failed("topology", error.to_string(), fix));
            false
        }
    };
    checks.push(Check::unchecked(
        "bindings",
        format!(
            "not checked: AMQP can't look for a binding without making it; there should be {} (serve makes them \
             whenever it connects; rabbitmqctl list_bindings shows them)",
            topology.bindings().join(", ")
        ),
    ));
    checks.push(Check::unchecked(
        "policies",
        "not checked: AMQP doesn't show policies, queues of an earlier retry schedule, or bindings and arguments \
         that others added (rabbitmqctl list_policies, list_queues); what a strict policy does to queues named like \
         these is tried by the probe",
    ));
    connection.close().await;
    (checks, goes_on)
}

fn fix_connecting(error: &BrokerError) -> &'static str {
    if error.is_no_virtual_host() {
        "make the virtual host and give the user rights in it, or put the path of broker.url right (/%2f is the host /)"
    } else if error.is_access_refused() {
        "put user and password of broker.url right"
    } else {
        "start it, or put broker.url right"
    }
}

fn check_version(said: Option<(String, String)>) -> Check {
    let Some((product, version)) = said else {
        return Check::ok(
            "broker",
            "reached; which version it is can't be asked over TLS",
        );
    };
    let finding = format!("{product} {version}");
    let mut numbers = version
        .split('.')
        .map(|number| number.parse::<u32>().unwrap_or(0));
    let number = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if product == "RabbitMQ" && number < OLDEST {
        let fix = format!("RabbitMQ {}.{} or newer", OLDEST.0, OLDEST.1);
        return Check::failed("broker", finding, fix);
    }
    Check::ok("broker", finding)
}

fn check_part(compared: &Compared, topology: &Topology) -> Check {
    let Compared { kind, name, found } = compared;
    let check = match found {
        PartFound::Exchange => Check::ok(kind, "as declared"),
        PartFound::Queue { ready, .. } if *ready > 0 && *name == topology.unreadable() => {
            unreadable(kind, *ready)
        }
        PartFound::Queue { ready, consumers } => Check::ok(
            kind,
            format!("as declared; {ready} ready, {consumers} consuming"),
        ),
        PartFound::Missing => Check::failed(
            kind,
            "is not there",
            "start token-billing serve: it declares what is missing whenever it connects",
        ),
        PartFound::Differs(words) => Check::failed(
            kind,
            format!("is not as it would be declared: {words}"),
            topology.remedy(name),
        ),
        PartFound::Refused(words) => Check::failed(
            kind,
            format!("can't be declared: {words}"),
            "give the broker's user the rights to configure, write and read what starts with broker.prefix, and to \
             write to amq.default (rabbitmqctl set_permissions)",
        ),
    };
    check.of(name.as_str())
}

fn unreadable(kind: &'static str, ready: u32) -> Check {
    let finding = format!(
        "{ready} that no client can read: a name in its properties isn't UTF-8, and it broke every connection until \
         the broker moved it here"
    );
    let fix = "take each away with a client that doesn't look at names (amqp-get of amqp-tools prints the body and \
                removes it), publish the event anew if it was one, and find its publisher";
    Check::failed(kind, finding, fix)
}

/// A message through a delay queue and a work queue of its own.
pub(super) async fn probe(
    settings: &Settings,
    stop: &CancellationToken,
) -> Result<Check, Interrupted> {
    let probed = broker::probe(&bounded(settings), PATIENCE, stop).await;
    let left = probed.left_behind.join("; ");
    let check = match probed.took {
        Err(ProbeError::Interrupted) => return Err(Interrupted),
        Err(error) => {
            let left = if left.is_empty() {
                left
            } else {
                format!("; left behind: {left}")
            };
            Check::failed(
                "probe",
                format!("{error}{left}"),
                "see the broker's log; whether it has a memory or disk alarm (rabbitmqctl status); and whether its \
                 user has rights on what starts with broker.prefix, and to write to amq.default",
            )
        }
        Ok(_) if !left.is_empty() => {
            let fix = "delete it; unused, it deletes itself after 10 minutes";
            Check::failed("probe", format!("left behind: {left}"), fix)
        }
        Ok(_) if !probed.policies.is_empty() => Check::failed(
            "probe",
            probed.policies.join("; "),
            "look which policy matches these names (rabbitmqctl list_policies, list_operator_policies) and leave ours \
             out of it: no message is lost by a max-length, but whoever has one must wait until there is room; a \
             message-ttl takes messages away before they are charged or archived, and out of ….unreadable for good",
        ),
        Ok(took) => Check::ok(
            "probe",
            format!(
                "a message came through queues made for it in {} ms, {} of them waiting; {KEPT} stayed in each of \
                 three others for {} ms, so no policy with a lower max-length or message-ttl is in force here",
                took.as_millis(),
                PROBE_DELAY.as_millis(),
                KEPT_FOR.as_millis()
            ),
        ),
    };
    Ok(check.of(probed.prefix))
}
